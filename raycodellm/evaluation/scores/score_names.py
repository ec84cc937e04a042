"""The names of the scores that a task gives its items, read from its YAML file without loading it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raycodellm.evaluation.tasks.loading import is_path
from raycodellm.evaluation.tasks.names import TaskNames
from raycodellm.evaluation.tasks.trees import group_members, trees
from raycodellm.evaluation.tasks.yaml_text import Tagged

_DEFAULTS = {
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}
"""lm-eval's scores of a task whose file lists none, by the task's output type."""


def listed_scores(name: str, task_names: TaskNames) -> frozenset[str] | None:
    """The scores that the metric list of a task, or of any member of a group, names; None where a file does not say
    them: a task that is a Python class, or a metric that is a function and may give several scores.

    Raises UserError for a file that cannot be read.
    """
    return _scores_of_names([name], task_names, set())


def _scores_of_names(names: Iterable[str], task_names: TaskNames, seen: set[str]) -> frozenset[str] | None:
    scores: frozenset[str] = frozenset()
    for name in names:
        if name in seen:
            continue
        seen.add(name)
        task_scores = _scores_of_name(name, task_names, seen)
        if task_scores is None:
            return None
        scores |= task_scores
    return scores


def _scores_of_name(name: str, task_names: TaskNames, seen: set[str]) -> frozenset[str] | None:
    if is_path(name):
        return _scores_of_file(Path(name).expanduser())
    named_task = task_names.find(name)
    if named_task is None:  # a task that its group's file spells out
        return None
    if named_task.file is None:
        return _scores_of_names(named_task.tagged, task_names, seen)
    members = list(group_members(named_task.file))
    return _scores_of_names(members, task_names, seen) if members else _scores_of_file(named_task.file)


def _scores_of_file(path: Path) -> frozenset[str] | None:
    merged: dict[str, Any] = {}
    for _, tree in trees(path.resolve()):
        merged = {**tree, **merged}  # a file's own keys win over those of the files that it includes
    metric_list = merged.get("metric_list")
    if "class" in merged:
        return None
    if not isinstance(metric_list, list):
        return frozenset(_DEFAULTS.get(str(merged.get("output_type", "generate_until")), ()))
    metrics = [entry.get("metric") if isinstance(entry, dict) else None for entry in metric_list]
    if any(not isinstance(name, str) or isinstance(name, Tagged) for name in metrics):
        return None
    scores = frozenset(map(str, metrics))
    filters = merged.get("filter_list")
    filter_names = (
        [entry.get("name") for entry in filters[1:] if isinstance(entry, dict)] if isinstance(filters, list) else []
    )
    return scores | {f"{score},{name}" for score in scores for name in filter_names}
