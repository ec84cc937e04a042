"""Tries the metrics of a generating task on two answers, before a model is trained for hours or writes thousands."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from raycodellm.config import UserError
from raycodellm.evaluation.scores.corpus_metrics import is_none
from raycodellm.evaluation.scores.item_scores import is_mean

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_NUM_ITEMS = 2
_NONSENSE = "\N{REPLACEMENT CHARACTER}"
"""An answer that is right for no item."""


def check_metrics(name: str, task: Task) -> None:
    """Raises UserError where lm-eval cannot make a metric that the task's file names of generated answers.

    The first two items are answered by their own right answers. A task with a function of its own for its scores, and
    aggregations of a user, are not tried: they may have effects.
    """
    config = task.config
    if task.OUTPUT_TYPE != "generate_until" or getattr(config, "process_results", None) or not config.metric_list:
        return
    has_several = bool(getattr(task, "multiple_target", 0))
    hint = "; its items have several right answers, of which lm-eval makes 1 or 0: give one, or use exact_match"
    several_hint = hint if has_several else ""
    right_scores: list[dict[str, Any]] = []
    nonsense_scores: list[dict[str, Any]] = []
    for doc in itertools.islice(task.eval_docs, _NUM_ITEMS):
        try:
            right_scores.append(task.process_results(doc, [gold_text(task, doc)]))
            nonsense_scores.append(task.process_results(doc, [_NONSENSE]))
        except Exception as error:
            raise UserError(f"{_problem(name, _names(task))} ({described(error)}){several_hint}") from error
    constant_metrics = [
        metric
        for metric in (right_scores[0] if has_several else ())
        if all(scores.get(metric) == 1.0 for scores in nonsense_scores)
    ]
    if constant_metrics:
        # lm-eval takes any value that is true for a right answer, also the pair of texts that a metric passes on.
        raise UserError(f"{_problem(name, constant_metrics[0])}: any answer has 1{several_hint}")
    for metric, aggregation in task.aggregation().items():
        values = [scores[metric] for scores in right_scores if metric in scores]
        if not values or is_none(aggregation):
            continue
        if is_mean(aggregation):
            if not all(isinstance(value, (int, float)) or hasattr(value, "dtype") for value in values):
                raise UserError(f"{_problem(name, metric)}: it gives no number for an item{several_hint}")
        elif getattr(aggregation, "__module__", "").startswith("lm_eval."):
            try:
                aggregation(values)
            except Exception as error:
                raise UserError(f"{_problem(name, metric)} ({described(error)}){several_hint}") from error


def gold_text(task: Task, doc: Any) -> str:
    """The first right answer of a task that generates."""
    gold = task.doc_to_target(doc)
    if getattr(task.config, "doc_to_choice", None) is not None and isinstance(gold, int):
        gold = task.doc_to_choice(doc)[gold]
    return str(gold[0] if isinstance(gold, list) and gold else gold)


def described(error: Exception) -> str:
    """The error's kind and the first line of what it says."""
    message = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _problem(name: str, metric: str) -> str:
    return f"evaluation.tasks: {name!r}: metric_list names {metric}, which cannot be made of generated answers"


def _names(task: Task) -> str:
    return ", ".join(str(metric.get("metric")) for metric in task.config.metric_list)
