"""The order in which a grid is tried, and how many trials are open at once: so that slots seldom wait for a stage that
trials share.

Trials beside each other begin with different first stages, so that each slot trains another one; then come trials that
share a first stage which is trained by then. No order changes a score: a trial's seed is that of its replicate.

Simulated (`tests/test_order.py`) for 3 x 3 x 3 arms whose stages cost 80, 15 and 5, with two slots, which need 268 s at
least: the file's order takes 435 s with two open trials, this order 289 s, and 271 s with three. Jobs taken by the
longest chain that is left, or by the number of trials that wait, take 271 s as well: so the dispatcher still lets the
oldest trial go first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from raycodellm.config import SweepFile

Point = dict[str, Any]
_LEARNING = ("tpe", "gp", "nsga2")
"""Samplers whose suggestions depend on the trials that have ended."""
_LENGTH_SETTINGS = ("tokens", "learning_rate", "averaging")
"""Settings in which stages of one trunk may differ: the longer one waits for the shorter."""


def least_waiting(file: SweepFile, points: Sequence[Point]) -> list[Point]:
    """The points, by the parameters' names, in an order in which stages of different trials differ early."""
    return _interleaved(points, _levels(file))


def trials_at_once(file: SweepFile, num_slots: int) -> int:
    """Trials to keep open for so many slots.

    One more than slots, so that a slot has work while a trial's stage is trained for another one. A sampler that learns
    suggests each trial as late as possible, when it knows most; and a single slot never waits for another.
    """
    learns = file.example().search.sampler in _LEARNING
    return num_slots if learns or num_slots < 2 else num_slots + 1


def _levels(file: SweepFile) -> list[list[str]]:
    """Names of parameters, level by level: first those of the whole sweep and of the first stage's trunk, then those of
    the first stage's length, then those of each further stage in the same order."""
    stage_names = [str(stage.get("name")) for stage in file.tree.get("stages", ()) if isinstance(stage, dict)]
    searched = list(dict.fromkeys(parameter.name for parameter in file.parameters))
    owner = {name: name.partition(".")[0] for name in searched}
    general = [name for name in searched if owner[name] not in (*stage_names, "evaluation")]
    levels = []
    for stage in stage_names:
        in_stage = [name for name in searched if owner[name] == stage]
        of_length = [name for name in in_stage if name.split(".")[1] in _LENGTH_SETTINGS]
        levels += [[name for name in in_stage if name not in of_length], of_length]
    return [[*general, *(levels[0] if levels else [])], *levels[1:]]


def _interleaved(points: Sequence[Point], levels: Sequence[Sequence[str]]) -> list[Point]:
    """The points in turn from each group of equal values at the first level, each group ordered by the other levels."""
    if not levels or len(points) < 2:
        return list(points)
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(repr([point.get(name) for name in levels[0]]), []).append(point)
    ordered = [_interleaved(group, levels[1:]) for group in groups.values()]
    rounds = itertools.zip_longest(*ordered)
    return [point for turn in rounds for point in turn if point is not None]
