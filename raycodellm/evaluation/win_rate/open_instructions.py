"""The task `open_instructions`: requests without a right answer, which a model answers for a judge."""

from __future__ import annotations

import contextlib
import contextvars
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from raycodellm.config import Evaluation
from raycodellm.evaluation.win_rate.instructions import read_instructions
from raycodellm.tasks import FOLDER

if TYPE_CHECKING:
    import datasets
    from lm_eval.api.task import Task

OPEN_INSTRUCTIONS = "open_instructions"
REQUEST = "request"
"""Attribute of an item that holds what was asked."""


class Asking(NamedTuple):
    """The requests, and the length of the answers."""

    path: str | None = None
    """The user's file; None for the package's requests."""
    number: int = 100
    """The first so many requests; all where there are fewer."""
    answer_tokens: int = 256

    @classmethod
    def of(cls, settings: Evaluation) -> Asking:
        judge = settings.judge
        return cls() if judge is None else cls(judge.prompts, judge.num_prompts, judge.answer_tokens)


_ASKED: contextvars.ContextVar[Asking | None] = contextvars.ContextVar("asked", default=None)


@contextlib.contextmanager
def asked_are(asking: Asking) -> Iterator[None]:
    """Until the `with` ends, `dataset` gives these requests."""
    token = _ASKED.set(asking)
    try:
        yield
    finally:
        _ASKED.reset(token)


def requests_of(asking: Asking) -> list[str]:
    """The requests, in order. Raises UserError for a file that is missing or holds something else."""
    if asking.path is None:
        return [*_own_requests()][: asking.number]
    return read_instructions(asking.path, asking.number)


@cache
def _own_requests() -> tuple[str, ...]:
    found = yaml.safe_load((FOLDER / OPEN_INSTRUCTIONS / "requests.yaml").read_bytes())
    return tuple(one.strip() for of_kind in found.values() for one in of_kind)


def dataset(**_: object) -> datasets.DatasetDict:
    """A row per request."""
    import datasets

    rows = [{"request": one, "attributes": json.dumps({REQUEST: one})} for one in requests_of(_ASKED.get() or Asking())]
    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))


def scores(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The answer's length."""
    return {"characters": float(len(results[0].strip()))}


def asked_content(task: str, asking: Asking) -> list[Any]:
    """JSON values that identify what the task asks and how long answers are; empty for any other task."""
    return [["requests", requests_of(asking), asking.answer_tokens]] if task == OPEN_INSTRUCTIONS else []


def asked_files(task: str, asking: Asking) -> list[Path]:
    """The user's file that the task reads; none for any other task."""
    return [Path(asking.path).expanduser()] if task == OPEN_INSTRUCTIONS and asking.path is not None else []


def set_answer_length(name: str, task: Task, asking: Asking) -> None:
    """Lets the task ask for answers of the length that the settings say."""
    if name == OPEN_INSTRUCTIONS:
        task.config.generation_kwargs = {**task.config.generation_kwargs, "max_gen_toks": asking.answer_tokens}
