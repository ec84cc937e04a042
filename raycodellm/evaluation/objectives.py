"""True if an evaluation will give the score that a sweep is to make better: asked before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from raycodellm.config import Objective, SweepFile, UserError, resolve
from raycodellm.evaluation.loading import _task_manager, check_tasks, is_path, quiet
from raycodellm.tasks import BUILTIN, logical_deduction

_PARTS = {
    "boxes": ("trivial", "nontrivial"),
    "logical_deduction": tuple(f"{size}_things" for size in logical_deduction.SIZES),
}
_OF_A_TASK = re.compile(r"(?:(?:acc|bpb)(?:_low|_high)?|chance|items|too_long)")
_OF_A_PART = re.compile(r"(?:acc_(.+?)(?:_low|_high)?|(?:bpb|items)_(.+))")
_OF_THE_MEAN = re.compile(r"(?:(?:acc|bpb)(?:_low|_high)?|chance)")


def check_evaluation(file: SweepFile) -> None:
    """Every task that a trial may be evaluated on exists, and the objectives are scores that it gives.

    Raises `UserError` with the key. Built-in tasks cost nothing; any other name imports lm-eval, which takes seconds.
    """
    searched = any(one.name.startswith("evaluation.") for one in file.parameters)
    sweeps = [resolve(file, point) for point in (file.corner_points() if searched else [{}])]
    for tasks in dict.fromkeys(sweep.evaluation.tasks for sweep in sweeps):
        check_tasks(tasks)
        for objective in sweeps[0].search.objectives:
            check_objective(objective, tasks)


def check_objective(objective: Objective, tasks: Sequence[str]) -> None:
    task, _, score = objective.metric.rpartition("/")
    if task == "mean":
        given = _OF_THE_MEAN.fullmatch(score) is not None
    else:
        names = _names(tasks)
        given = (names is None or task in names) and _is_score(task, score)
    if not given:
        known = ", ".join([*(f"{name}/bpb" for name in tasks[:3]), "mean/bpb", "mean/acc"])
        raise UserError(
            f"search.objective.metric: found {objective.metric!r}, which no task of evaluation.tasks gives; "
            f"use for example {known}"
        )


def _is_score(task: str, score: str) -> bool:
    if _OF_A_TASK.fullmatch(score):
        return True
    part = _OF_A_PART.fullmatch(score)
    if task in BUILTIN:
        return part is not None and (part[1] or part[2]) in _PARTS[task]
    # Items of somebody's own task file may name their part; lm-eval's own do not, and their other metrics, such as
    # acc_norm, are not given.
    return part is not None and score != "acc_norm" and not _is_lm_evals_own(task)


def _is_lm_evals_own(task: str) -> bool:
    with quiet():
        return task in _task_manager(True).task_index


def _names(tasks: Sequence[str]) -> Collection[str] | None:
    """All names that scores of `tasks` begin with; None where a task file does not say what it is called."""
    names = set(tasks)
    for name in tasks:
        if is_path(name):
            said = re.search(
                r"^(?:task|group): *[\"']?([^\s\"'\[#]+)", Path(name).expanduser().read_text("utf-8", "replace"), re.M
            )
            if said is None:
                return None
            names.add(said[1])
        elif name not in BUILTIN:
            with quiet():
                names |= _members(name, _task_manager(True).task_index, set())
    return names


def _members(name: str, index: dict, seen: set[str]) -> set[str]:
    """The tasks that a group or tag of lm-eval stands for."""
    if name in seen or name not in index:
        return seen
    seen.add(name)
    listed = (index[name].cfg or {}).get("task")
    inside = [*(listed if isinstance(listed, list) else ()), *(index[name].tags if index[name].cfg is None else ())]
    for one in inside:
        _members(one.get("task", "") if isinstance(one, dict) else str(one), index, seen)
    return seen
