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


def listed_scores(name: str, known: TaskNames) -> frozenset[str] | None:
    """The scores that the metric list of a task, or of any member of a group, names; None where a file does not say
    them: a task that is a Python class, or a metric that is a function and may give several scores.

    Raises UserError for a file that cannot be read.
    """
    return _of_names([name], known, set())


def _of_names(names: Iterable[str], known: TaskNames, seen: set[str]) -> frozenset[str] | None:
    found: frozenset[str] = frozenset()
    for name in names:
        if name in seen:
            continue
        seen.add(name)
        more = _of_name(name, known, seen)
        if more is None:
            return None
        found |= more
    return found


def _of_name(name: str, known: TaskNames, seen: set[str]) -> frozenset[str] | None:
    if is_path(name):
        return _of_file(Path(name).expanduser())
    named = known.find(name)
    if named is None:  # a task that its group's file spells out
        return None
    if named.file is None:
        return _of_names(named.tagged, known, seen)
    members = list(group_members(named.file))
    return _of_names(members, known, seen) if members else _of_file(named.file)


def _of_file(path: Path) -> frozenset[str] | None:
    merged: dict[str, Any] = {}
    for _, tree in trees(path.resolve()):
        merged = {**tree, **merged}  # a file's own keys win over those of the files that it includes
    listed = merged.get("metric_list")
    if "class" in merged:
        return None
    if not isinstance(listed, list):
        return frozenset(_DEFAULTS.get(str(merged.get("output_type", "generate_until")), ()))
    names = [one.get("metric") if isinstance(one, dict) else None for one in listed]
    if any(not isinstance(name, str) or isinstance(name, Tagged) for name in names):
        return None
    scores = frozenset(map(str, names))
    filters = merged.get("filter_list")
    further = [one.get("name") for one in filters[1:] if isinstance(one, dict)] if isinstance(filters, list) else []
    return scores | {f"{score},{name}" for score in scores for name in further}
