"""The choices of an item: what they are called in the table of items, and the value by which they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raycodellm.evaluation.engine.language_model import TokenPair

if TYPE_CHECKING:
    from lm_eval.api.task import Task


def compared(
    task: Task, pairs: Sequence[TokenPair], likelihoods: Sequence[tuple[float, bool]]
) -> list[tuple[float, bool]]:
    """The log-likelihoods of an item's choices; for a task with `metadata: {compare: perplexity}` their mean per token.

    The greatest mean is the smallest perplexity. Choices that are prompts score the same text, but a tokenizer may
    join the text's first characters with the prompt's last ones, so that the numbers of tokens may differ.
    """
    metadata = task.config.metadata
    if not isinstance(metadata, Mapping) or metadata.get("compare") != "perplexity":
        return list(likelihoods)
    return [
        (likelihood / max(len(answer), 1), is_greedy)
        for (_, answer), (likelihood, is_greedy) in zip(pairs, likelihoods, strict=True)
    ]


def choice_names(task: Task, doc: Any) -> list[str]:
    """The choices as the table of items shows them: where they are prompts, those that `metadata: {choices: …}` lists,
    or those in the item's field that it names; else the choices themselves."""
    metadata = task.config.metadata
    field = metadata.get("choices") if isinstance(metadata, Mapping) else None
    if isinstance(field, list):
        return list(map(str, field))
    return list(doc[field]) if field is not None else task.doc_to_choice(doc)
