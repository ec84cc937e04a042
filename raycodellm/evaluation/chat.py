"""Requests put to a model as its own chat template says: tasks with `metadata: {chat: true}`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raycodellm.evaluation.engine.language_model import AnswerLM

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task


def as_chat(lm: AnswerLM, task: Task, instances: list[Instance]) -> list[Instance]:
    """The requests of an item, with the field `request` of the item as the first message of a conversation; unchanged
    for a model without a template, and for any other task."""
    metadata = task.config.metadata
    tokenizer: Any = lm.encoder.tokenizer
    is_chat_task = isinstance(metadata, Mapping) and metadata.get("chat") is True
    if not is_chat_task or not getattr(tokenizer, "chat_template", None):
        return instances
    message = {"role": "user", "content": instances[0].doc["request"]}
    prompt = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    return [dataclasses.replace(instance, arguments=(prompt, *instance.args[1:]), resps=[]) for instance in instances]
