"""Opens a run folder, which holds a sweep that computes the same, or the same but for what was added: tasks, trials,
points, replicates, looks of its confirmation (`sweep.continuing`).

Added tasks change no trial: the trials that have ended are opened again under their numbers, and only the added tasks
are evaluated on their models. Their scores on the other tasks stay, and so does what the study was told of them.
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
_KEYS = ("evaluation.tasks", "evaluation.suites", "evaluation.leave_out")
_JUDGE = "evaluation.judge"
"""Given later, it adds the task whose answers a judge compares."""
_ASKING = tuple(
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
    why = {key: found for key in keys if (found := _why_refused(run, saved, key)) is not None}
    if not why:
        if any(are_tasks_alone([key]) for key in keys):
            require_models(run)
        return
    key, old, new = next(one for one in changed if one[0] in why)
    others = [one for one in why if one != key]
    more = f" (and {len(others)} more: {', '.join(others)})" if others else ""
    hint = f"put the old value back, or give the sweep a new name or another --storage ({run.folder.uri}); under a new "
    hint += "name here it takes over all stages that are the same"
    if why[key]:
        hint = (
            f"{why[key]}; put the old value back, or {_NEW_SEED if key.startswith(continuing.CONFIRM) else _NEW_NAME}"
        )
    if key == continuing.POINTS:  # two lists of points would hide the reason
        old, new = (f"{len(points or ())} points" for points in (old, new))
    else:
        old, new = repr(old), repr(new)
    raise UserError(f"{key}: this run began with {old}, found {new}{more}; {hint}")


def _why_refused(run: Run, saved: SweepFile, key: str) -> str | None:
    """Why the run cannot go on with another value of the `key` than that of the `saved` file, empty where a run never
    can; None where it can."""
    if continuing.is_of_search(key):
        return continuing.why_not_more(saved, run.file, key, run.results_at_start)
    if not are_tasks_alone([key]):
        return ""
    return why_not_added(saved, run.file, {task for result in _complete(run) for task in result.tasks})


def changed_keys(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every leaf that differs. `scaling` says where a sweep runs, `tracking` who is
    told, `evaluation.batch_size` what fits into memory, most of `evaluation.judge` who compares answers, `search.pairs`
    which scores are compared, and `search.max_failed` and `budget` when the sweep stops, so these may differ."""
    free = ("scaling", "tracking", "budget", "evaluation.batch_size", "search.pairs", "search.max_failed")
    if path in (*free, *_ASKING, f"{_JUDGE}.timeout_seconds", continuing.BEGUN):
        return []
    if path.endswith(".deepspeed_config"):  # DeepSpeed's settings that change no number may differ too
        old, new = (identity.numeric_settings(found or {}) for found in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        return [
            found for key in keys for found in changed_keys(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = zip(old, new, strict=True)
        return [
            found
            for place, (a, b) in enumerate(parts)
            for found in changed_keys(a, b, f"{path}.{b['name'] if isinstance(b, dict) and 'name' in b else place}")
        ]
    return [] if old == new else [(path, old, new)]


def are_tasks_alone(changed: Sequence[str]) -> bool:
    """True if the keys that differ say nothing but which tasks the models are evaluated on."""
    return all(key.startswith(_KEYS) or key == _JUDGE for key in changed)


def why_not_added(saved: SweepFile, file: SweepFile, scored: Collection[str] = ()) -> str | None:
    """Why the tasks of `file` cannot take the place of those of `saved` in one run; None where they can.

    `scored`: the tasks of the trials that are complete. A task of which none has a score may go again.
    """
    if any(parameter.name.startswith(_KEYS) for parameter in (*saved.parameters, *file.parameters)):
        return "the tasks are searched"
    before, now = saved.example(), file.example()
    asked = evaluation.asked_tasks(now.evaluation)
    gone = [task for task in evaluation.asked_tasks(before.evaluation) if task not in asked]
    gone = [task for task in gone if task in scored or not scored]
    if gone:
        return f"{gone[0]} is gone, and tasks can only be added"
    if tokens.asks_for_items(now):
        return (
            "cleaning.decontaminate takes the tasks' items out of the training data, so other tasks need other models"
        )
    averages = [evaluation.asked_averages(sweep.evaluation) for sweep in (before, now)]
    asked_of = [("search.objective", one.metric) for one in now.search.objectives]
    asked_of += [("search.constraints", one.metric) for one in now.search.constraints]
    for key, metric in asked_of:
        old, new = (found.get(metric) for found in averages)
        if metric.rpartition("/")[0] == evaluation.MEAN or old != new:
            return f"{key} {metric} is a mean over the tasks"
    return None


def lacking_tasks(run: Run) -> dict[int, list[str]]:
    """The complete trials that lack a task of the sweep file, by number, with what they lack. Trials that an older
    version evaluated have no list of tasks, and are left out."""
    if any(parameter.name.startswith(_KEYS) for parameter in run.file.parameters):
        return {}  # each trial has tasks of its own
    asked = evaluation.asked_tasks(run.sweep.evaluation)
    known = [result for result in _complete(run) if result.tasks]
    lacking = {result.number: [task for task in asked if task not in result.tasks] for result in known}
    return {number: missing for number, missing in lacking.items() if missing}


def _complete(run: Run) -> list[TrialResult]:
    results = [files.result for files in run.at_start.values()]
    return [result for result in results if result is not None and result.state == "complete"]


def require_models(run: Run) -> None:
    """Raises `UserError` where the model of a complete trial cannot be evaluated on another task."""
    for result in _complete(run):
        if result.model:  # given: `fix_contents` finds that it is gone or has changed
            continue
        last = run.storage / "stages" / result.stages[-1] if result.stages else None
        why = "was evaluated by an older version" if not result.tasks else ""
        if last is None or finished.finished_stage(last) is None:
            why = f"has no model in the storage any more ({last})"
        if why:
            raise UserError(
                f"evaluation.tasks: no task can be added to this run, since trial {result.number} {why}; {_NEW_NAME}"
            )


def reopen_lacking(run: Run, say: Callable[[str], Any]) -> set[int]:
    """Opens the complete trials that lack a task of the sweep file again; returns their numbers."""
    lacking = lacking_tasks(run)
    for number in lacking:
        keep_aside(run.trial_folder(number), BEFORE_ADDED)
    if lacking:
        tasks = ", ".join(dict.fromkeys(task for missing in lacking.values() for task in missing))
        say(f"evaluation: {tasks} added; the {len(lacking)} trials that had ended are evaluated on what they lack")
        vars(run).pop("at_start")  # what has been read is so no more
    return {*lacking}
