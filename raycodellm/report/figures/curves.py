"""The curves of all trials, thinned for the page, where a reader chooses the arms whose curves are drawn.

The page keeps each stage's curves once, however many trials share the stage and however many plots show the curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from raycodellm.report.figures import groups
from raycodellm.report.figures.figure import plain
from raycodellm.report.records import Records
from raycodellm.tables import formats
from raycodellm.tables.trials import stages_of, trial_name

MOST_VALUES = 360_000
"""Numbers that all curves together have in the page: about 1 MB, compressed."""
MOST_POINTS, FEWEST_POINTS = 96, 12
"""Bounds of the points that a curve keeps."""
MOST_CHOSEN = 7
"""Arms whose curves are drawn at once: one for each colour."""
RATIO, LOSS, HELD_OUT = "ratio", "loss", "held-out"


@dataclass(frozen=True)
class Curves:
    """A plot of one quantity along one stage, of the arms that the reader chooses."""

    name: str
    """Identifier of the plot in the page."""
    quantity: str
    """ratio, loss or held-out."""
    stage: str
    options: tuple[tuple[str, str], ...]
    """(key of the curve, name for the reader) of each curve that the plot can show; the first is shown first."""
    kind: ClassVar[str] = "curves"

    @property
    def y_title(self) -> str:
        units = {RATIO: "code ratio (share of tokens)", LOSS: "loss (nats per token)", HELD_OUT: "bits per byte"}
        return units[self.quantity]


def curve_figures(records: Records, quantity: str) -> list[Curves]:
    """One plot per stage that has such curves."""
    plots = []
    for place, stage in enumerate(records.sweep.stages):
        names: dict[str, None] = {}
        for key, record in records.stages.items():
            if record.name == stage.name:
                names |= dict.fromkeys(name for name in records.all_curves[key] if _is_curve_of(quantity, name))
        options = [(name, _curve_name(name)) for name in sorted(names, key=lambda name: (name != LOSS, name))]
        if quantity == RATIO:
            options = [(RATIO, "planned and real")] if "planned" in names and _mixes(records, stage.name) else []
        if options:
            plots.append(Curves(f"{quantity}{place}", quantity, stage.name, tuple(options)))
    return plots


def _is_curve_of(quantity: str, name: str) -> bool:
    prefix = {RATIO: "planned", LOSS: "loss", HELD_OUT: "bpb/"}[quantity]
    return name.startswith(prefix)


def _curve_name(name: str) -> str:
    return "all sources" if name == LOSS else name.partition("/")[2]


def _mixes(records: Records, stage: str) -> bool:
    """True if the stage mixes code and other text in any trial: else its code ratio is a flat line at 0 or 1."""
    curves = (records.all_curves[key] for key, record in records.stages.items() if record.name == stage)
    return any(
        bool(((planned > 0) & (planned < 1)).any()) for curve in curves if (planned := curve.get("planned")) is not None
    )


def curve_data(records: Records) -> dict[str, Any]:
    """The curves of all finished stages, the arms with their trials' stages, and the arms that are drawn first. Where
    the page has no room for all of them, those of the best arms."""
    arms, num_series = _arms_with_room(records)
    stage_keys = {key for row in records.rows if row["arm"] in arms for key in stages_of(row)}
    drawn = {key: curve for key, curve in records.all_curves.items() if curve and key in stage_keys}
    num_points = MOST_VALUES // (num_series * max(1, len(drawn)))
    num_points = max(FEWEST_POINTS, min(MOST_POINTS, num_points))
    by_arm: dict[int, list[list[str]]] = {}
    for row in records.rows:
        keys = [key for key in stages_of(row) if key in drawn]
        if keys and row["arm"] in arms:
            by_arm.setdefault(row["arm"], []).append([trial_name(row["number"]), *keys])
    order = [arm_score for arm_score in records.scores if arm_score.arm in by_arm]
    return {
        "stages": {
            key: {"stage": records.stages[key].name, **thinned(curve, num_points)} for key, curve in drawn.items()
        },
        "arms": [
            {
                "arm": arm_score.arm,
                "label": _label(arm_score.arm, arm_score.params, arm_score.score),
                "trials": by_arm[arm_score.arm],
            }
            for arm_score in order
        ],
        "chosen": _first_chosen(records, [arm_score.arm for arm_score in order]),
        "most": MOST_CHOSEN,
    }


def num_arms_with_curves(records: Records) -> tuple[int, int]:
    """The arms whose curves the page has, and all that have curves."""
    arms, _ = _arms_with_room(records)
    return len(arms), len(_stages_of_arms(records))


def _arms_with_room(records: Records) -> tuple[set[int], int]:
    """The arms whose curves the page has, the best ones where not all have room, and the most curves of a stage."""
    num_series = max((len(curve) for curve in records.all_curves.values()), default=1)
    by_arm, most_stages = _stages_of_arms(records), MOST_VALUES // (FEWEST_POINTS * max(1, num_series))
    arms: set[int] = set()
    keys: set[str] = set()
    for arm in dict.fromkeys((*(arm_score.arm for arm_score in records.scores), *by_arm)):
        keys |= by_arm.get(arm, set())
        if len(keys) > most_stages and arms:
            break
        if arm in by_arm:
            arms.add(arm)
    return arms, num_series


def _stages_of_arms(records: Records) -> dict[int, set[str]]:
    """The stages of each arm that have curves."""
    keys_by_arm: dict[int, set[str]] = {}
    for row in records.rows:
        if keys := {key for key in stages_of(row) if records.all_curves.get(key)}:
            keys_by_arm.setdefault(row["arm"], set()).update(keys)
    return keys_by_arm


def _label(arm: int, params: Mapping[str, Any], score: float | None) -> str:
    ending = f": {formats.score(score)}" if score is not None else ""
    return f"arm {arm} · {formats.params(params)}{ending}"


def _first_chosen(records: Records, order: Sequence[int]) -> list[int]:
    """The best arm of each group, and at least three arms."""
    parameter = groups.grouping_of_trials(records)
    best: dict[str, int] = {}
    arms_with_curves = set(order)
    for arm_score in records.scores:
        if arm_score.arm in arms_with_curves:
            best.setdefault(groups.group_of(arm_score.params, parameter), arm_score.arm)
    chosen = [*best.values()][:MOST_CHOSEN]
    return [*chosen, *(arm for arm in order if arm not in chosen)][: max(3, len(chosen))]


def thinned(curve: Mapping[str, np.ndarray], num_points: int) -> dict[str, Any]:
    """The curves with at most `num_points` points: evenly chosen, the first and the last among them.

    `tokens` holds the places of most curves. A curve with values at few of them (held-out text is measured now and
    then) has places of its own: (places, values).
    """
    tokens = np.asarray(curve["tokens"])
    chosen = _evenly_chosen(len(tokens), num_points)
    thin: dict[str, Any] = {"tokens": tokens[chosen].astype(int).tolist()}
    for name, values in curve.items():
        finite = np.flatnonzero(np.isfinite(values))
        if name == "tokens" or not len(finite):
            continue
        if 2 * len(finite) > len(values):
            thin[name] = plain(np.asarray(values)[chosen].tolist())
        else:
            places = finite[_evenly_chosen(len(finite), num_points)]
            thin[name] = [tokens[places].astype(int).tolist(), plain(np.asarray(values)[places].tolist())]
    return thin


def _evenly_chosen(length: int, most: int) -> np.ndarray:
    """At most `most` of the places 0 to `length` - 1, evenly chosen, with both ends."""
    return np.linspace(0, length - 1, min(length, most)).round().astype(int)
