"""Opens the run folder of a sweep. The folder must hold a sweep that computes the same, or the same but for additions:
tasks, trials, points, replicates, looks of its confirmation (`sweep.continuing`).

Added tasks change no trial: the trials that have ended are opened again under their numbers, and only the added tasks
are evaluated on their models. Their scores on the other tasks stay, and so do their results in the study.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from raycodellm import config, evaluation, finished, identity, storage_files, tokens
from raycodellm.config import SweepFile, UserError
from raycodellm.files import Folder
from raycodellm.records import TrialResult
from raycodellm.sweep import continuing
from raycodellm.sweep.folder import Run, Say, write_sweep_file
from raycodellm.sweep.trial_files import BEFORE_ADDED, keep_aside, trial_numbers

logger = logging.getLogger(__name__)

_NEW_NAME = "give the sweep a new name: stages and evaluated tasks are taken from this storage"
_NEW_SEED = "give the sweep a new name and another seed"
_TASK_KEYS = ("evaluation.tasks", "evaluation.suites", "evaluation.leave_out")
_JUDGE = "evaluation.judge"
"""Given later, it adds the task whose answers a judge compares."""
_JUDGE_ANSWER_KEYS = tuple(
    f"{_JUDGE}.{key}"
    for key in ("base_url", "model", "key_variable", "verdict_tokens", "concurrency", "requests_per_minute")
)
"""Settings of the judge that change no answer of a model."""


def open_run(file: SweepFile, storage: Folder, say: Say = logger.warning) -> Run:
    """Opens the run folder; creates it when new. Raises `UserError` by key when it holds a sweep that computes
    something else, or the same on tasks that cannot take the place of the run's."""
    run = Run(file, storage)
    tree = config.resolved_tree(file)
    storage.prove_writable("--storage")
    if run.folder.exists("sweep.yaml"):
        # Parsed as a sweep file, so that a setting that this version added has its default, which is no difference.
        saved = storage_files.read_sweep_file(run.folder)
        changed = changed_keys(config.resolved_tree(saved), tree)
        _refuse(run, saved, changed)
        keys = [key for key, _, _ in changed]
        fresh = [result.row() for result in run.results_at_start if result.phase == "confirm"] if keys else []
        run = replace(run, file=continuing.with_begun(saved, file, fresh, keys))
        for line in continuing.news(saved, run.file, bool(fresh), keys):
            say(line)
    elif trial_numbers(run.folder):
        say(f"{run.folder}/sweep.yaml: is missing and written again; nothing says that its trials are of this sweep")
    if not run.folder.exists("sweep.yaml"):
        write_sweep_file(run)
    return run


def _refuse(run: Run, saved: SweepFile, changed: Sequence[tuple[str, Any, Any]]) -> None:
    """Raises `UserError` by the first of the `changed` keys whose value of the `saved` file has to stay."""
    keys = [key for key, _, _ in changed]
    reasons = {key: reason for key in keys if (reason := _why_refused(run, saved, key)) is not None}
    if not reasons:
        if any(are_only_tasks([key]) for key in keys):
            require_models(run)
        return
    key, saved_value, new_value = next(difference for difference in changed if difference[0] in reasons)
    other_keys = [other for other in reasons if other != key]
    further = f" (and {len(other_keys)} more: {', '.join(other_keys)})" if other_keys else ""
    hint = f"put the old value back, or give the sweep a new name or another --storage ({run.folder.uri}); under a new "
    hint += "name here it takes over all stages that are the same"
    if reasons[key]:
        new_name = _NEW_SEED if key.startswith(continuing.CONFIRM) else _NEW_NAME
        hint = f"{reasons[key]}; put the old value back, or {new_name}"
    if key == continuing.POINTS:  # two lists of points would hide the reason
        saved_text, new_text = (f"{len(points or ())} points" for points in (saved_value, new_value))
    else:
        saved_text, new_text = repr(saved_value), repr(new_value)
    raise UserError(f"{key}: this run began with {saved_text}, found {new_text}{further}; {hint}")


def _why_refused(run: Run, saved: SweepFile, key: str) -> str | None:
    """Why the run cannot go on with another value of the `key` than that of the `saved` file. Empty if no run can; None
    if this one can."""
    if continuing.is_of_search(key):
        return continuing.why_not_more(saved, run.file, key, run.results_at_start)
    if not are_only_tasks([key]):
        return ""
    return why_not_added(saved, run.file, {task for result in _complete_results(run) for task in result.tasks})


def changed_keys(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every leaf that differs. `scaling` says where a sweep runs, `tracking` who is
    told, `evaluation.batch_size` what fits into memory, most of `evaluation.judge` who compares answers, `search.pairs`
    which scores are compared, and `search.max_failed` and `budget` when the sweep stops, so these may differ."""
    free = ("scaling", "tracking", "budget", "evaluation.batch_size", "search.pairs", "search.max_failed")
    if path in (*free, *_JUDGE_ANSWER_KEYS, f"{_JUDGE}.timeout_seconds", continuing.BEGUN):
        return []
    if path.endswith(".deepspeed_config"):  # DeepSpeed's settings that change no number may differ too
        old, new = (identity.numeric_settings(settings or {}) for settings in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        return [
            difference
            for key in keys
            for difference in changed_keys(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        return [
            difference
            for index, (a, b) in enumerate(pairs)
            for difference in changed_keys(
                a, b, f"{path}.{b['name'] if isinstance(b, dict) and 'name' in b else index}"
            )
        ]
    return [] if old == new else [(path, old, new)]


def are_only_tasks(changed: Sequence[str]) -> bool:
    """True if the keys that differ say nothing but which tasks the models are evaluated on."""
    return all(key.startswith(_TASK_KEYS) or key == _JUDGE for key in changed)


def why_not_added(saved: SweepFile, file: SweepFile, scored: Collection[str] = ()) -> str | None:
    """Why the tasks of `file` cannot take the place of those of `saved` in one run; None where they can.

    `scored`: the tasks of the trials that are complete. A task without a score in any trial may be removed.
    """
    if any(parameter.name.startswith(_TASK_KEYS) for parameter in (*saved.parameters, *file.parameters)):
        return "the tasks are searched"
    saved_sweep, sweep_now = saved.example(), file.example()
    asked_tasks = evaluation.asked_tasks(sweep_now.evaluation)
    removed = [task for task in evaluation.asked_tasks(saved_sweep.evaluation) if task not in asked_tasks]
    removed = [task for task in removed if task in scored or not scored]
    if removed:
        return f"{removed[0]} is gone, and tasks can only be added"
    if tokens.asks_for_items(sweep_now):
        return (
            "cleaning.decontaminate takes the tasks' items out of the training data, so other tasks need other models"
        )
    averages = [evaluation.asked_averages(sweep.evaluation) for sweep in (saved_sweep, sweep_now)]
    metrics = [("search.objective", objective.metric) for objective in sweep_now.search.objectives]
    metrics += [("search.constraints", constraint.metric) for constraint in sweep_now.search.constraints]
    for key, metric in metrics:
        old, new = (tasks_of.get(metric) for tasks_of in averages)
        if metric.rpartition("/")[0] == evaluation.MEAN or old != new:
            return f"{key} {metric} is a mean over the tasks"
    return None


def lacking_tasks(run: Run) -> dict[int, list[str]]:
    """Maps each complete trial that lacks tasks of the sweep file to these tasks. Trials that an older version
    evaluated have no list of tasks, and are left out."""
    if any(parameter.name.startswith(_TASK_KEYS) for parameter in run.file.parameters):
        return {}  # each trial has tasks of its own
    asked_tasks = evaluation.asked_tasks(run.sweep.evaluation)
    results = [result for result in _complete_results(run) if result.tasks]
    missing_tasks = {result.number: [task for task in asked_tasks if task not in result.tasks] for result in results}
    return {number: tasks for number, tasks in missing_tasks.items() if tasks}


def _complete_results(run: Run) -> list[TrialResult]:
    results = [files.result for files in run.at_start.values()]
    return [result for result in results if result is not None and result.state == "complete"]


def require_models(run: Run) -> None:
    """Raises `UserError` where the model of a complete trial cannot be evaluated on another task."""
    for result in _complete_results(run):
        if result.model:  # a given model: `fix_contents` finds that it is gone or has changed
            continue
        last_stage = run.storage / "stages" / result.stages[-1] if result.stages else None
        reason = "was evaluated by an older version" if not result.tasks else ""
        if last_stage is None or finished.finished_stage(last_stage) is None:
            reason = f"has no model in the storage any more ({last_stage})"
        if reason:
            raise UserError(
                f"evaluation.tasks: no task can be added to this run, since trial {result.number} {reason}; {_NEW_NAME}"
            )


def reopen_lacking(run: Run, say: Callable[[str], Any]) -> set[int]:
    """Opens the complete trials that lack a task of the sweep file again; returns their numbers."""
    missing_tasks = lacking_tasks(run)
    for number in missing_tasks:
        keep_aside(run.trial_folder(number), BEFORE_ADDED)
    if missing_tasks:
        tasks = ", ".join(dict.fromkeys(task for task_names in missing_tasks.values() for task in task_names))
        say(
            f"evaluation: {tasks} added; the {len(missing_tasks)} trials that had ended are evaluated on what they lack"
        )
        vars(run).pop("at_start")  # the folders have changed since they were read
    return {*missing_tasks}
