"""Checks before training that the evaluation will give the metrics that the sweep's objectives name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from raycodellm.config import Objective, SweepFile, UserError, resolve
from raycodellm.evaluation.metrics import MEAN, METRICS
from raycodellm.evaluation.suites import asked_tasks
from raycodellm.evaluation.task_loading import check_tasks, is_path
from raycodellm.evaluation.task_names import Places, TaskNames
from raycodellm.evaluation.task_trees import group_members
from raycodellm.tasks import BUILTIN, PARTS

_ANY = "|".join(re.escape(metric.name) for metric in METRICS)
_OF_THE_MEAN = re.compile(rf"(?:(?:{_ANY})(?:_low|_high)?|chance)")
_OF_A_TASK = re.compile(rf"(?:(?:{_ANY})(?:_low|_high)?|chance|items|too_long)")
_WITH_INTERVAL = "|".join(re.escape(metric.name) for metric in METRICS if metric.has_part_intervals)
_OF_A_PART = re.compile(rf"(?:(?:{_WITH_INTERVAL})_(.+?)(?:_low|_high)?|(?:{_ANY}|items)_(.+))")


def check_evaluation(file: SweepFile) -> None:
    """Raises `UserError`, naming the key, for a task that does not exist and for an objective that no task gives."""
    searched = any(one.name.startswith("evaluation.") for one in file.parameters)
    sweeps = [resolve(file, point) for point in (file.probe_points() if searched else [{}])]
    places = {Places.of(sweep.evaluation) for sweep in sweeps}
    if len(places) > 1:
        raise UserError(f"{file.origin}: evaluation.include and evaluation.data cannot be searched; give one folder")
    for settings in dict.fromkeys(sweep.evaluation for sweep in sweeps):
        tasks = asked_tasks(settings)
        check_tasks(tasks, Places.of(settings))
        for objective in sweeps[0].search.objectives:
            check_objective(objective, tasks, TaskNames(settings.include))


def check_objective(objective: Objective, tasks: Sequence[str], known: TaskNames) -> None:
    """Raises `UserError` where an evaluation on `tasks` does not give the objective's metric."""
    task, _, metric = objective.metric.rpartition("/")
    if task == MEAN:
        is_given = _OF_THE_MEAN.fullmatch(metric) is not None
    else:
        names = _metric_prefixes(tasks, known)
        is_given = (names is None or task in names) and _is_metric_of(task, metric, known)
    if not is_given:
        examples = ", ".join([*(f"{name}/bpb" for name in tasks[:3]), "mean/bpb", "mean/acc"])
        raise UserError(
            f"search.objective.metric: found {objective.metric!r}, which no task of evaluation.tasks gives; "
            f"use for example {examples}"
        )


def _is_metric_of(task: str, metric: str, known: TaskNames) -> bool:
    if _OF_A_TASK.fullmatch(metric):
        return True
    part = _OF_A_PART.fullmatch(metric)
    if task in BUILTIN:
        return part is not None and (part[1] or part[2]) in PARTS[task]
    # Items of a user's own task file may name their part. lm-eval's own items do not, and lm-eval's other metrics, such
    # as acc_norm, are not among an evaluation's.
    return part is not None and metric != "acc_norm" and not known.is_of_lm_eval(task)


def _metric_prefixes(tasks: Sequence[str], known: TaskNames) -> Collection[str] | None:
    """The task names that metrics of `tasks` begin with; None where a task file does not state its name."""
    names = set(tasks)
    for name in tasks:
        if is_path(name):
            text = Path(name).expanduser().read_text("utf-8", "replace")
            stated = re.search(r"^(?:task|group): *[\"']?([^\s\"'\[#]+)", text, re.M)
            if stated is None:
                return None
            names.add(stated[1])
        else:
            _add_with_members(name, names, set(), known)
    return names


def _add_with_members(name: str, names: set[str], seen: set[str], known: TaskNames) -> None:
    """Adds to `names` a task, group or tag and all tasks that it stands for."""
    named = known.find(name)
    if name in seen or named is None:
        return
    names.add(name)
    seen.add(name)
    for member in named.tagged if named.file is None else group_members(named.file):
        _add_with_members(member, names, seen, known)
