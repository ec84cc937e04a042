"""Rationales that the model writes before its choices are scored: tasks with `metadata: {rationale: generated}`.

Each item of such a task has two fields more: `rationale_prompt`, after which the model writes the rationale, and
`rationale`, a placeholder that stands in the item's requests until the rationale replaces it. `rationale_tokens` of the
metadata is the rationale's greatest length, and any of `rationale_until` ends it. The few-shot examples of a task stand
in its requests, not before the rationale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycodellm.evaluation.engine.language_model import AnswerLM

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task
_TOKENS = 128
"""Greatest length of a rationale where the task's metadata name none."""


@dataclass(frozen=True)
class ItemRequests:
    """One item's requests, with the rationale in its place."""

    instances: list[Instance]
    rationale: str | None = None
    """The text that the model wrote; None for a task that asks for none, and where the rationale would not fit."""
    needed_tokens: int = 0
    """Length of the context that writing the rationale needs."""


def with_rationales(lm: AnswerLM, task: Task, items: Sequence[list[Instance]]) -> list[ItemRequests]:
    """The requests of `items`, each with the rationale that the model writes; unchanged for any other task.

    A rationale is never written after a prompt that was cut: where prompt and rationale are longer than the model's
    context, `needed_tokens` says so and the requests keep their placeholder.
    """
    if not asks_for_rationales(task):
        return [ItemRequests(instances) for instances in items]
    requests = [rationale_request(task, instances) for instances in items]
    needed_tokens = [len(lm.tok_encode(request.args[0])) + request.args[1]["max_gen_toks"] for request in requests]
    fitting_indices = [index for index, tokens in enumerate(needed_tokens) if tokens <= lm.max_length]
    fitting_requests = [requests[index] for index in fitting_indices]
    rationales = (
        dict(zip(fitting_indices, lm.generate_until(fitting_requests), strict=True)) if fitting_requests else {}
    )
    return [
        ItemRequests(
            _with_rationale(instances, rationales[index].strip()), rationales[index].strip(), needed_tokens[index]
        )
        if index in rationales
        else ItemRequests(instances, None, needed_tokens[index])
        for index, instances in enumerate(items)
    ]


def asks_for_rationales(task: Task) -> bool:
    """True if the task's file says that the model writes a rationale first."""
    metadata = task.config.metadata
    return isinstance(metadata, Mapping) and metadata.get("rationale") == "generated"


def rationale_request(task: Task, instances: Sequence[Instance]) -> Instance:
    """The request for an item's rationale."""
    metadata: Mapping[str, Any] = task.config.metadata
    max_tokens = int(metadata.get("rationale_tokens", _TOKENS))
    settings = {
        "until": list(metadata.get("rationale_until", ["\n\n"])),
        "max_gen_toks": max_tokens,
        "do_sample": False,
    }
    prompt = instances[0].doc["rationale_prompt"]
    return dataclasses.replace(instances[0], request_type="generate_until", arguments=(prompt, settings), idx=0)


def _with_rationale(instances: Sequence[Instance], rationale: str) -> list[Instance]:
    """Copies of the requests with the rationale in the placeholder's place."""
    placeholder = instances[0].doc["rationale"]
    return [
        dataclasses.replace(
            instance, arguments=tuple(text.replace(placeholder, rationale) for text in instance.args), resps=[]
        )
        for instance in instances
    ]
