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

_OF_THE_MEAN = re.compile(rf"(?:(?:{'|'.join(metric.name for metric in AVERAGED)})(?:_low|_high)?|chance)")
_OF_ANY_TASK = {"chance", *COUNTS}
_BETTER = {"min": "where it is lower", "max": "where it is higher"}
_OF_CONTAMINATION = ("acc_clean", "contaminated")
"""Metrics that only a search for contaminated items gives."""
_WITHOUT_PART_INTERVALS = {metric.name for metric in METRICS if not metric.has_part_intervals}


def check_evaluation(file: SweepFile) -> None:
    """Raises `UserError`, naming the key, for a task that does not exist, a choice that changes nothing,
    and an objective that no task gives."""
    searched = any(one.name.startswith("evaluation.") for one in file.parameters)
    sweeps = [resolve(file, point) for point in (file.probe_points() if searched else [{}])]
    places = {Places.of(sweep.evaluation) for sweep in sweeps}
    if len(places) > 1:
        raise UserError(f"{file.origin}: evaluation.include and evaluation.data cannot be searched; give one folder")
    for settings in dict.fromkeys(sweep.evaluation for sweep in sweeps):
        check_variants(settings)
        tasks = asked_tasks(settings)
        check_tasks(tasks, Places.of(settings))
        _check_judge(file, sweeps[0], settings)
        for key, one in _measured(sweeps[0]):
            if not settings.contamination and one.metric.rpartition("/")[2].startswith(_OF_CONTAMINATION):
                raise UserError(f"{key}: found {one.metric!r}, which needs evaluation.contamination: true")
            check_objective(one, tasks, TaskNames(settings.include), given_averages(settings), key)
            _check_source(one, sweeps[0], key)
            _check_direction(one, key)
        _check_margins(sweeps[0], tasks, TaskNames(settings.include), given_averages(settings))


def _check_judge(file: SweepFile, sweep: Sweep, settings: Evaluation) -> None:
    """Raises `UserError` for win rates without a judge or a reference arm, and for one that shall steer the search."""
    if settings.judge is None and WIN_RATE in settings.suites:
        raise UserError(
            f"evaluation.suites: found {WIN_RATE!r}, which needs a judge; for example evaluation.judge: "
            "{base_url: http://localhost:8000/v1, model: judge-name}"
        )
    if searched := next((one.name for one in file.parameters if one.name.startswith("evaluation.judge")), None):
        raise UserError(f"{file.origin}: {searched} cannot be searched; give it one value")
    if settings.judge is not None and sweep.search.reference is None:
        raise UserError(
            "evaluation.judge: compares each arm with the reference arm, and the sweep names none; add for example "
            "search.reference: {pretrain.code_ratio: 0.0}"
        )
    for key, one in _measured(sweep):
        if one.metric.rpartition("/")[0] in (WIN_RATE, OPEN_INSTRUCTIONS) or one.metric == WIN_RATE:
            raise UserError(
                f"{key}: found {one.metric!r}: a win rate compares two models after the search, and no trial has one "
                "of its own, so nothing can be steered by it; use for example mean/bpb"
            )


def _check_margins(sweep: Sweep, tasks: Sequence[str], known: TaskNames, averages: Averages) -> None:
    """Raises `UserError` for a margin of a metric, or in a unit, that the evaluation does not give."""
    margin = sweep.search.confirm.margin if sweep.search.confirm is not None else None
    for key in margin if isinstance(margin, dict) else ():
        metrics = [key] if "/" in key else [f"{name}/{key}" for name in (MEAN, *tasks)]
        if not any(_is_given(metric, tasks, known, averages) for metric in metrics):
            raise UserError(
                f"search.confirm.margin: found {key!r}, which no task of evaluation.tasks gives; use a unit, such as "
                f"bpb or acc, or a metric, such as {sweep.search.objectives[0].metric}"
            )


def _measured(sweep: Sweep) -> Iterator[tuple[str, Objective | Constraint]]:
    """The metrics that the search reads, each with its key in the sweep file."""
    for objective in sweep.search.objectives:
        yield "search.objective.metric", objective
    for place, constraint in enumerate(sweep.search.constraints):
        yield f"search.constraints.{place}.metric", constraint


def _check_direction(one: Objective | Constraint, key: str) -> None:
    """Raises `UserError` for an objective or a constraint that keeps a metric from getting better."""
    name = one.metric.rpartition("/")[2]
    better = "min" if name.startswith("bpb") else "max" if name.startswith("acc") else one.mode
    if one.mode != better:
        raise UserError(f"{key}: {one.metric} is better {_BETTER[better]}, found mode: {one.mode}; use mode: {better}")


def _check_source(objective: Objective | Constraint, sweep: Sweep, key: str) -> None:
    """Raises `UserError` for bits per byte of held-out text of a source that the sweep does not measure in the task."""
    task, _, metric = objective.metric.rpartition("/")
    part = metric.removeprefix("bpb_")
    if task not in DOMAIN_OF_TASK or part == metric or part.removeprefix("corpus_") in ("low", "high", "corpus"):
        return
    known = sources_of(sweep, DOMAIN_OF_TASK[task]) if task in held_out_tasks(sweep.evaluation) else ()
    if part not in known:
        raise UserError(
            f"{key}: found {objective.metric!r}, but no source {part!r} is measured by {task}; use "
            f"{' or '.join([f'{task}/bpb', *(f'{task}/bpb_{name}' for name in known)])}"
        )


def check_objective(
    objective: Objective | Constraint,
    tasks: Sequence[str],
    known: TaskNames,
    averages: Averages,
    key: str = "search.objective.metric",
) -> None:
    """Raises `UserError` by its `key` where an evaluation on `tasks` does not give the objective's metric. `averages`:
    those of the asked suites."""
    if not _is_given(objective.metric, tasks, known, averages):
        task = objective.metric.rpartition("/")[0]
        examples = ", ".join([*averages, *(f"{name}/bpb" for name in tasks[:3]), "mean/bpb", "mean/acc"])
        own = f" ({task} gives {', '.join(_scores(task, tasks, known) or ())})" if task in tasks else ""
        if task in DOMAIN_OF_TASK and task not in tasks:
            own = f" (add bpb to evaluation.suites, or {task} to evaluation.tasks)"
        raise UserError(
            f"{key}: found {objective.metric!r}, which no task of evaluation.tasks gives{own}; "
            f"use for example {examples}"
        )


def _is_given(name: str, tasks: Sequence[str], known: TaskNames, averages: Averages) -> bool:
    task, _, metric = name.rpartition("/")
    if name.removesuffix("_low").removesuffix("_high") in averages:
        return True
    if task == MEAN:
        return _OF_THE_MEAN.fullmatch(metric) is not None
    names = _metric_prefixes(tasks, known)
    return (names is None or task in names) and _is_metric_of(task, metric, tasks, known)


def _is_metric_of(task: str, metric: str, tasks: Sequence[str], known: TaskNames) -> bool:
    scores = _scores(task, tasks, known)
    if metric in _OF_ANY_TASK or (scores is None and metric):
        return True
    for name in scores or ():
        if not metric.startswith(name):
            continue
        rest = metric.removeprefix(name)
        ends = ("", "_low", "_high", *(() if name in BY_NAME else ("_items",)))
        has_interval = name not in _WITHOUT_PART_INTERVALS
        if rest in ends or (rest.startswith("_") and _is_part(task, rest[1:], has_interval, known)):
            return True
    return metric.startswith("items_") and _is_part(task, metric.removeprefix("items_"), False, known)


def _is_part(task: str, part: str, has_interval: bool, known: TaskNames) -> bool:
    """True if the task may have the part, whose name `_low` or `_high` follows where it `has_interval`."""
    parts = [part, *((part.removesuffix("_low"), part.removesuffix("_high")) if has_interval else ())]
    if task in BUILTIN:
        return any(one in PARTS[task] for one in parts)
    # Items of a user's own task file may name their part. lm-eval's own items do not.
    return bool(part) and not known.is_of_lm_eval(task)


def _scores(task: str, tasks: Sequence[str], known: TaskNames) -> list[str] | None:
    """The metrics that have an interval, in any task and of this one; None where the task's own ones are not known."""
    path = next((name for name in tasks if is_path(name) and _stated_name(name) == task), task)
    listed = listed_scores(path, known)
    return None if listed is None else [*BY_NAME, *sorted(listed - BY_NAME.keys())]


def _metric_prefixes(tasks: Sequence[str], known: TaskNames) -> Collection[str] | None:
    """The task names that metrics of `tasks` begin with; None where a task file does not state its name."""
    names = set(tasks)
    for name in tasks:
        if is_path(name):
            stated = _stated_name(name)
            if stated is None:
                return None
            names.add(stated)
        else:
            _add_with_members(name, names, set(), known)
    return names


def _stated_name(path: str) -> str | None:
    """The name that a task's file gives itself; None where it does not."""
    text = Path(path).expanduser().read_text("utf-8", "replace")
    stated = re.search(r"^(?:task|group): *[\"']?([^\s\"'\[#]+)", text, re.M)
    return None if stated is None else stated[1]


def _add_with_members(name: str, names: set[str], seen: set[str], known: TaskNames) -> None:
    """Adds to `names` a task, group or tag and all tasks that it stands for."""
    named = known.find(name)
    if name in seen or named is None:
        return
    names.add(name)
    seen.add(name)
    for member in named.tagged if named.file is None else group_members(named.file):
        _add_with_members(member, names, seen, known)
