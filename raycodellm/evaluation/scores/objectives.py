"""Checks before training that the evaluation will give the metrics that the sweep's objectives name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from raycodellm.config import Constraint, Evaluation, Objective, Sweep, SweepFile, UserError, resolve
from raycodellm.config.text_domains import sources_of
from raycodellm.evaluation.scores.averages import Averages
from raycodellm.evaluation.scores.metrics import AVERAGED, BY_NAME, COUNTS, MEAN, METRICS
from raycodellm.evaluation.scores.score_names import listed_scores
from raycodellm.evaluation.tasks.loading import check_tasks
from raycodellm.evaluation.tasks.names import Places, TaskNames, is_path
from raycodellm.evaluation.tasks.suites import asked_tasks, check_variants, given_averages
from raycodellm.evaluation.tasks.trees import group_members
from raycodellm.evaluation.texts.held_out import DOMAIN_OF_TASK, held_out_tasks
from raycodellm.evaluation.win_rate.judge import WIN_RATE
from raycodellm.evaluation.win_rate.open_instructions import OPEN_INSTRUCTIONS
from raycodellm.tasks import BUILTIN, PARTS

_MEAN_METRIC = re.compile(rf"(?:(?:{'|'.join(metric.name for metric in AVERAGED)})(?:_low|_high)?|chance)")
_METRICS_OF_ANY_TASK = {"chance", *COUNTS}
_WHERE_BETTER = {"min": "where it is lower", "max": "where it is higher"}
_CONTAMINATION_METRICS = ("acc_clean", "contaminated")
"""Metrics that only a search for contaminated items gives."""
_WITHOUT_PART_INTERVALS = {metric.name for metric in METRICS if not metric.has_part_intervals}


def check_evaluation(file: SweepFile) -> None:
    """Raises `UserError`, naming the key, for a task that does not exist, a choice that changes nothing,
    and an objective that no task gives."""
    searches_evaluation = any(parameter.name.startswith("evaluation.") for parameter in file.parameters)
    sweeps = [resolve(file, point) for point in (file.probe_points() if searches_evaluation else [{}])]
    places = {Places.of(sweep.evaluation) for sweep in sweeps}
    if len(places) > 1:
        raise UserError(f"{file.origin}: evaluation.include and evaluation.data cannot be searched; give one folder")
    for settings in dict.fromkeys(sweep.evaluation for sweep in sweeps):
        check_variants(settings)
        tasks = asked_tasks(settings)
        check_tasks(tasks, Places.of(settings))
        _check_judge(file, sweeps[0], settings)
        for key, objective in _search_metrics(sweeps[0]):
            if not settings.contamination and objective.metric.rpartition("/")[2].startswith(_CONTAMINATION_METRICS):
                raise UserError(f"{key}: found {objective.metric!r}, which needs evaluation.contamination: true")
            check_objective(objective, tasks, TaskNames(settings.include), given_averages(settings), key)
            _check_source(objective, sweeps[0], key)
            _check_direction(objective, key)
        _check_margins(sweeps[0], tasks, TaskNames(settings.include), given_averages(settings))


def _check_judge(file: SweepFile, sweep: Sweep, settings: Evaluation) -> None:
    """Raises `UserError` for win rates without a judge or a reference arm, and for a search that a win rate shall
    steer."""
    if settings.judge is None and WIN_RATE in settings.suites:
        raise UserError(
            f"evaluation.suites: found {WIN_RATE!r}, which needs a judge; for example evaluation.judge: "
            "{base_url: http://localhost:8000/v1, model: judge-name}"
        )
    names = (parameter.name for parameter in file.parameters)
    if searched_key := next((name for name in names if name.startswith("evaluation.judge")), None):
        raise UserError(f"{file.origin}: {searched_key} cannot be searched; give it one value")
    if settings.judge is not None and sweep.search.reference is None:
        raise UserError(
            "evaluation.judge: compares each arm with the reference arm, and the sweep names none; add for example "
            "search.reference: {pretrain.code_ratio: 0.0}"
        )
    for key, objective in _search_metrics(sweep):
        metric = objective.metric
        if metric.rpartition("/")[0] in (WIN_RATE, OPEN_INSTRUCTIONS) or metric == WIN_RATE:
            raise UserError(
                f"{key}: found {metric!r}: a win rate compares two models after the search, and no trial has one "
                "of its own, so nothing can be steered by it; use for example mean/bpb"
            )


def _check_margins(sweep: Sweep, tasks: Sequence[str], task_names: TaskNames, averages: Averages) -> None:
    """Raises `UserError` for a margin of a metric, or in a unit, that the evaluation does not give."""
    margin = sweep.search.confirm.margin if sweep.search.confirm is not None else None
    for key in margin if isinstance(margin, dict) else ():
        metrics = [key] if "/" in key else [f"{name}/{key}" for name in (MEAN, *tasks)]
        if not any(_is_given(metric, tasks, task_names, averages) for metric in metrics):
            raise UserError(
                f"search.confirm.margin: found {key!r}, which no task of evaluation.tasks gives; use a unit, such as "
                f"bpb or acc, or a metric, such as {sweep.search.objectives[0].metric}"
            )


def _search_metrics(sweep: Sweep) -> Iterator[tuple[str, Objective | Constraint]]:
    """The metrics that the search reads, each with its key in the sweep file."""
    for objective in sweep.search.objectives:
        yield "search.objective.metric", objective
    for index, constraint in enumerate(sweep.search.constraints):
        yield f"search.constraints.{index}.metric", constraint


def _check_direction(objective: Objective | Constraint, key: str) -> None:
    """Raises `UserError` for an objective or a constraint that keeps a metric from getting better."""
    metric, mode = objective.metric, objective.mode
    name = metric.rpartition("/")[2]
    better = "min" if name.startswith("bpb") else "max" if name.startswith("acc") else mode
    if mode != better:
        raise UserError(f"{key}: {metric} is better {_WHERE_BETTER[better]}, found mode: {mode}; use mode: {better}")


def _check_source(objective: Objective | Constraint, sweep: Sweep, key: str) -> None:
    """Raises `UserError` for bits per byte of held-out text of a source that the sweep does not measure in the task."""
    task, _, metric = objective.metric.rpartition("/")
    part = metric.removeprefix("bpb_")
    if task not in DOMAIN_OF_TASK or part == metric or part.removeprefix("corpus_") in ("low", "high", "corpus"):
        return
    source_names = sources_of(sweep, DOMAIN_OF_TASK[task]) if task in held_out_tasks(sweep.evaluation) else ()
    if part not in source_names:
        raise UserError(
            f"{key}: found {objective.metric!r}, but no source {part!r} is measured by {task}; use "
            f"{' or '.join([f'{task}/bpb', *(f'{task}/bpb_{name}' for name in source_names)])}"
        )


def check_objective(
    objective: Objective | Constraint,
    tasks: Sequence[str],
    task_names: TaskNames,
    averages: Averages,
    key: str = "search.objective.metric",
) -> None:
    """Raises `UserError`, naming `key`, where an evaluation on `tasks` does not give the objective's metric.
    `averages`: the averages of the asked suites."""
    if not _is_given(objective.metric, tasks, task_names, averages):
        task = objective.metric.rpartition("/")[0]
        examples = ", ".join([*averages, *(f"{name}/bpb" for name in tasks[:3]), "mean/bpb", "mean/acc"])
        score_list = ", ".join(_metrics_with_interval(task, tasks, task_names) or ()) if task in tasks else ""
        hint = f" ({task} gives {score_list})" if task in tasks else ""
        if task in DOMAIN_OF_TASK and task not in tasks:
            hint = f" (add bpb to evaluation.suites, or {task} to evaluation.tasks)"
        raise UserError(
            f"{key}: found {objective.metric!r}, which no task of evaluation.tasks gives{hint}; "
            f"use for example {examples}"
        )


def _is_given(name: str, tasks: Sequence[str], task_names: TaskNames, averages: Averages) -> bool:
    task, _, metric = name.rpartition("/")
    if name.removesuffix("_low").removesuffix("_high") in averages:
        return True
    if task == MEAN:
        return _MEAN_METRIC.fullmatch(metric) is not None
    names = _metric_prefixes(tasks, task_names)
    return (names is None or task in names) and _is_metric_of(task, metric, tasks, task_names)


def _is_metric_of(task: str, metric: str, tasks: Sequence[str], task_names: TaskNames) -> bool:
    scores = _metrics_with_interval(task, tasks, task_names)
    if metric in _METRICS_OF_ANY_TASK or (scores is None and metric):
        return True
    for name in scores or ():
        if not metric.startswith(name):
            continue
        rest = metric.removeprefix(name)
        suffixes = ("", "_low", "_high", *(() if name in BY_NAME else ("_items",)))
        has_interval = name not in _WITHOUT_PART_INTERVALS
        if rest in suffixes or (rest.startswith("_") and _is_part(task, rest[1:], has_interval, task_names)):
            return True
    return metric.startswith("items_") and _is_part(task, metric.removeprefix("items_"), False, task_names)


def _is_part(task: str, part: str, has_interval: bool, task_names: TaskNames) -> bool:
    """True if the task may have the part, whose name `_low` or `_high` follows where it `has_interval`."""
    candidates = [part, *((part.removesuffix("_low"), part.removesuffix("_high")) if has_interval else ())]
    if task in BUILTIN:
        return any(candidate in PARTS[task] for candidate in candidates)
    # Items of a user's own task file may name their part. lm-eval's own items do not.
    return bool(part) and not task_names.is_of_lm_eval(task)


def _metrics_with_interval(task: str, tasks: Sequence[str], task_names: TaskNames) -> list[str] | None:
    """The metrics that have an interval, in any task and of this one; None where the task's own ones are not known."""
    path = next((name for name in tasks if is_path(name) and _stated_name(name) == task), task)
    score_names = listed_scores(path, task_names)
    return None if score_names is None else [*BY_NAME, *sorted(score_names - BY_NAME.keys())]


def _metric_prefixes(tasks: Sequence[str], task_names: TaskNames) -> Collection[str] | None:
    """The task names that metrics of `tasks` begin with; None where a task file does not state its name."""
    prefixes = set(tasks)
    for name in tasks:
        if is_path(name):
            stated_name = _stated_name(name)
            if stated_name is None:
                return None
            prefixes.add(stated_name)
        else:
            _add_with_members(name, prefixes, set(), task_names)
    return prefixes


def _stated_name(path: str) -> str | None:
    """The name that a task's file gives itself; None where it does not."""
    text = Path(path).expanduser().read_text("utf-8", "replace")
    match = re.search(r"^(?:task|group): *[\"']?([^\s\"'\[#]+)", text, re.M)
    return None if match is None else match[1]


def _add_with_members(name: str, names: set[str], seen: set[str], task_names: TaskNames) -> None:
    """Adds to `names` a task, group or tag and all tasks that it stands for."""
    named_task = task_names.find(name)
    if name in seen or named_task is None:
        return
    names.add(name)
    seen.add(name)
    for member in named_task.tagged if named_task.file is None else group_members(named_task.file):
        _add_with_members(member, names, seen, task_names)
