"""The points that a study tries first, as trials that wait in it: a grid, the reference, and `search.enqueue`.

Optuna keeps the point of a waiting trial as its `fixed_params`, also after the trial has begun. So a study tells which
points it has even after a driver was killed, and a continued run enqueues the points that were added to its file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raycodellm.config import SweepFile
from raycodellm.search.arms import first_points, is_whole, named_points
from raycodellm.search.confirmation import phase_of_replicate
from raycodellm.search.space import by_key, keyed_points

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_FIXED = "fixed_params"
_UNIT_ERROR = 1e-5
"""Near a corner, a mixture's units may change by as much on the way through its weights."""

Point = dict[str, Any]
"""Parameters by Optuna's keys."""


def enqueue_first_points(study: optuna.Study, file: SweepFile) -> None:
    """Enqueues the points to try first that the study lacks."""
    for point in missing_first_points(file, study.get_trials(deepcopy=False)):
        study.enqueue_trial(point)


def missing_first_points(file: SweepFile, trials: Sequence[FrozenTrial]) -> list[Point]:
    """The points to try first that no trial has. A point that is listed several times asks for as many trials.

    A trial whose sampled parameters equal a whole point has that point too: nothing is run again that has been run. A
    point that leaves parameters to the sampler asks for a trial of its own.
    """
    points = first_points(file)
    untried = [
        (point, is_whole(file, named_point))
        for point, named_point in zip(keyed_points(file, points), points, strict=True)
    ]
    sampled: list[FrozenTrial] = []
    for trial in trials:
        if _is_for_an_arm(file, trial):
            continue
        enqueued = trial.system_attrs.get(_FIXED)
        match = next((entry for entry in untried if enqueued is not None and _is_same(enqueued, entry[0])), None)
        if match is not None:
            untried.remove(match)
        elif "arm" in trial.user_attrs:
            sampled.append(trial)
    for trial in sampled:
        match = next((entry for entry in untried if entry[1] and _has(entry[0], trial.params)), None)
        if match is not None:
            untried.remove(match)
    return [point for point, _ in untried]


def restore_enqueued_points(file: SweepFile, trials: Sequence[FrozenTrial]) -> None:
    """Writes into trials of a repaired study the points that they were enqueued for, where the journal lost them."""
    for point in missing_first_points(file, trials):
        for trial in trials:
            is_free = _FIXED not in trial.system_attrs and not _is_for_an_arm(file, trial)
            if is_free and point.keys() & trial.params.keys() and _agree(trial.params, point):
                trial.system_attrs = {**trial.system_attrs, _FIXED: point}
                break


def is_tried(file: SweepFile, point: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    """True if a trial with these parameters, by name, has the whole `point`."""
    (keyed,) = keyed_points(file, [point])
    return is_whole(file, point) and bool(params) and _has(keyed, by_key(file, params))


def first_named_trial(file: SweepFile, waiting: Sequence[FrozenTrial]) -> int | None:
    """Number of the first of the `waiting` trials in the order of the reference and `search.enqueue`; None where all
    of them have other points."""
    named_in_order = keyed_points(file, named_points(file))
    enqueued = [(trial.number, trial.system_attrs.get(_FIXED, {})) for trial in waiting] if named_in_order else []
    return next((number for point in named_in_order for number, params in enqueued if _agree(params, point)), None)


def _is_for_an_arm(file: SweepFile, trial: FrozenTrial) -> bool:
    """True for a trial that was enqueued as a replicate of an arm, not for a point."""
    replicate = trial.user_attrs.get("replicate", 0)
    return 0 < replicate < file.example().search.replicates or phase_of_replicate(replicate) == "confirm"


def _is_same(point: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return point.keys() == other.keys() and _has(point, other)


def _has(point: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """True if the `point` has all the `values`."""
    return values.keys() <= point.keys() and all(_is_value(key, point[key], value) for key, value in values.items())


def _agree(point: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """True if no value of the `point` differs from the one in `values`."""
    return all(_is_value(key, point[key], values[key]) for key in point.keys() & values.keys())


def _is_value(key: str, value: Any, expected: Any) -> bool:
    if key.endswith(".unit"):
        return math.isclose(value, expected, abs_tol=_UNIT_ERROR)
    return bool(value == expected)
