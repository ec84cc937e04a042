"""The tasks that are scored and kept one by one: a group of lm-eval is taken apart into its members.

So a task is scored once for a model, whether it is asked for by its own name or as a member of a group or tag.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation.scores.metrics import MEAN
from raycodellm.evaluation.tasks.data_of_tasks import task_trees
from raycodellm.evaluation.tasks.loading import is_path
from raycodellm.evaluation.tasks.names import TaskNames
from raycodellm.evaluation.tasks.suites import asked_averages, asked_tasks
from raycodellm.evaluation.tasks.trees import trees
from raycodellm.tasks import BUILTIN

GROUP_KEYS = frozenset({"group", "group_alias", "task", "aggregate_metric_list", "metadata", "include"})
"""Keys of a group's file that change none of its tasks. Any other key is a setting that the group gives its members."""


def asked_units(settings: Evaluation) -> dict[str, tuple[str, ...]]:
    """Maps each task or group that the settings ask for to the tasks that it stands for. Raises UserError where two of
    these tasks have one name, or one has that of an average, under which some scores would be lost."""
    units_by_name = units(asked_tasks(settings), settings.include)
    averages = {MEAN, *(average.rpartition("/")[0] for average in asked_averages(settings))}
    _require_own_names(units_by_name, averages, TaskNames(settings.include))
    return units_by_name


def _require_own_names(
    units_by_name: Mapping[str, Sequence[str]], averages: Collection[str], task_names: TaskNames
) -> None:
    """A task's name is that of its file, or of the member of a group that changes its members' settings."""
    distinct_units = dict.fromkeys(unit for names in units_by_name.values() for unit in names)
    names_by_unit = {unit: [name for name, _ in task_trees(unit, task_names)] for unit in distinct_units}
    for name in (*units_by_name, *(name for names in names_by_unit.values() for name in names)):
        if name in averages:
            raise UserError(
                f"evaluation.tasks: a task or group is called {name!r}, and {name}/acc is the name of an average over "
                "tasks; rename it in its file"
            )
    unit_of: dict[str, str] = {}
    for unit, names in names_by_unit.items():
        for name in names:
            if (other := unit_of.setdefault(name, unit)) != unit:
                raise UserError(
                    f"evaluation.tasks: {other} and {unit} both give the task {name!r}, and one name can have the "
                    "scores of one task; rename it in your file (its key `task`), or ask for one of them"
                )


def units(names: Iterable[str], include: str | None = None) -> dict[str, tuple[str, ...]]:
    """Maps each task, group or tag to the tasks that it stands for, by names under which lm-eval loads them.

    A group that changes its members' settings stands for itself. `include`: the user's folder of tasks.
    """
    task_names = TaskNames(include)
    return {name: tuple(dict.fromkeys(_units(name, task_names, frozenset()))) for name in names}


def _units(name: str, task_names: TaskNames, seen: frozenset[str]) -> list[str]:
    named_task = None if is_path(name) or name in BUILTIN or name in seen else task_names.find(name)
    if named_task is None:
        return [name]
    members = named_task.tagged if named_task.file is None else _plain_members(named_task.file, task_names)
    return [unit for member in members for unit in _units(member, task_names, seen | {name})] or [name]


def _plain_members(file: Path, task_names: TaskNames) -> tuple[str, ...]:
    """Names of the members of a group's file; empty for a task's file, and for a group that changes its members."""
    merged: dict[str, Any] = {}
    for _, tree in trees(file.resolve()):  # the file itself comes first, and its keys win
        merged = {**tree, **merged}
    members = merged.get("task")
    if "group" not in merged or merged.keys() - GROUP_KEYS or not isinstance(members, list):
        return ()
    is_plain = all(isinstance(member, str) and task_names.find(member) is not None for member in members)
    return tuple(members) if is_plain else ()
