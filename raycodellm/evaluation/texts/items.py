"""The texts of evaluation items, which training data must not contain."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from raycodellm import config
from raycodellm.config import SweepFile
from raycodellm.evaluation.isolation import own_randomness, quiet
from raycodellm.evaluation.tasks.loading import load_tasks
from raycodellm.evaluation.tasks.names import NOWHERE, Places
from raycodellm.evaluation.tasks.sampling import item_limit
from raycodellm.evaluation.tasks.suites import asked_tasks
from raycodellm.evaluation.texts.held_out import held_out_tasks

if TYPE_CHECKING:
    from lm_eval.api.task import Task


def item_texts(names: Iterable[str], places: Places = NOWHERE) -> dict[str, list[str]]:
    """Maps each task to the texts of all its evaluated items: prompt and right answer, without few-shot examples."""
    with quiet(), own_randomness():
        tasks = load_tasks(tuple(names), 0, places).single
        return {name: texts_of(task) for name, task in tasks.items()}


def texts_of(task: Task, limit: int | None = None) -> list[str]:
    """The texts of a loaded task's first `limit` items: prompt and right answer, without few-shot examples."""
    return [_text(task, doc) for doc in itertools.islice(task.eval_docs, item_limit(task, limit))]


def items_of_sweep(file: SweepFile) -> dict[str, list[str]]:
    """The texts of the items of every task that any trial of the sweep may be evaluated on, without documents of the
    sweep's own sources, which are the data that is cleaned."""
    settings = file.example().evaluation
    names = (name for name in evaluated_tasks(file) if name not in held_out_tasks(settings))
    return item_texts(names, Places.of(settings))


def evaluated_tasks(file: SweepFile) -> tuple[str, ...]:
    """The tasks that any trial of the sweep may be evaluated on, each choice of a searched list included."""
    points = [config.resolve(file, point) for point in file.probe_points()]
    return tuple(dict.fromkeys(task for sweep in points for task in asked_tasks(sweep.evaluation)))


def _text(task: Task, doc: Any) -> str:
    prompt, target = task.doc_to_text(doc), task.doc_to_target(doc)
    has_choices = getattr(task.config, "doc_to_choice", None) is not None
    if getattr(task, "multiple_input", 0):  # the choices are prompts, which all have the same answer
        prompt, target = task.doc_to_choice(doc)[prompt], target
    elif has_choices:
        choices = task.doc_to_choice(doc)
        golds = target if isinstance(target, list) else [target]
        target = [choices[gold] if isinstance(gold, int) else gold for gold in golds]
    targets = target if isinstance(target, list) else [target]
    return " ".join([str(prompt), *map(str, targets[:1])])
