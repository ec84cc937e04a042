"""The scores of the arms along the code ratio of each stage: one curve per set of arms that differ in nothing else."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from raycodellm.report.answer import interval_name, metric_in_words
from raycodellm.report.figures import groups
from raycodellm.report.figures.figure import (
    GROUP_COLOURS,
    GROUP_SYMBOLS,
    NUM_COLOURS,
    QUIET,
    Figure,
    as_markup,
    legend,
    plain,
    points,
    title,
)
from raycodellm.report.figures.groups import Axis
from raycodellm.report.figures.sets import ArmSet, arm_sets
from raycodellm.report.ranking import ArmScore
from raycodellm.report.records import Records
from raycodellm.statistics import Interval, quadratic_band
from raycodellm.tables import formats
from raycodellm.verdict.arms import equal_params

MOST_BARS = 60
"""Arms with error bars; more of them would hide each other."""
_BAND_PLACES = 41


def scores(records: Records) -> list[Figure]:
    """The first objective over the code ratio of each stage (or over the first searched parameter)."""
    return [_figure(records, axis, place) for place, axis in enumerate(groups.axes(records))]


def _figure(records: Records, axis: Axis, place: int) -> Figure:
    arms = [arm_score for arm_score in groups.scored(records) if arm_score.arm in axis.places]
    params = {arm_score.arm: arm_score.params for arm_score in arms}
    sets = arm_sets(
        params, {arm_score.arm: axis.places[arm_score.arm] for arm_score in arms}, records.file.domains, axis.stands_for
    )
    shared = {*sets.shared}
    drawn = _best_sets(sets.sets, [arm_score.arm for arm_score in arms])
    parameter, names = _names(records, drawn)
    has_bars = len(arms) <= MOST_BARS
    behind: list[dict[str, Any]] = []
    front: list[dict[str, Any]] = []
    over: list[dict[str, Any]] = []
    bands = set()
    for number, (arm_set, name) in enumerate(zip(drawn, names, strict=True)):
        style = {"color": GROUP_COLOURS[number], "symbol": GROUP_SYMBOLS[number]}
        members = _in_order(axis, arms, arm_set.arms)
        kind, band = _band(axis, members)
        bands |= {kind} if band else set()
        area, line = _band_traces(band, name, style["color"])
        behind += area if has_bars else []
        unshared = [arm for arm in members if arm.arm not in shared]
        front += [_markers(axis, unshared, name, style, has_bars)] if unshared else []
        over += line if has_bars else [*area, *line]  # else a crowd of points would hide the band
    undrawn = {arm for arm_set in sets.sets if arm_set not in drawn for arm in arm_set.arms} - shared
    for name, numbers in ((_SHARED, shared), (_ALONE, {*sets.alone, *undrawn})):
        if others := _in_order(axis, arms, numbers):
            front.append(_markers(axis, others, name, {"color": QUIET, "symbol": _SYMBOLS[name]}, has_bars))
    layout: dict[str, Any] = {
        "xaxis": {"title": title(axis.title), **axis.layout},
        "yaxis": {"title": title(metric_in_words(records.sweep.search.objectives[0]))},
        **(legend(parameter) if len(front) > 1 else {"showlegend": False}),
        **_marks(records, arms[0], axis),
    }
    caption = ["One point per arm, larger with more seeds."]
    caption += [f"Bars: {interval_name(records.scores)}, of each score alone."] if has_bars else []
    caption += [_CONFIRMED] if any(arm_score.is_confirmed for arm_score in arms) else []
    caption += [_ONE_CURVE] if bands and len(sets.sets) > 1 else []
    caption += [_BANDS[kind] for kind in sorted(bands)]
    caption += [_NOISE.format(names=", ".join(sets.noise))] if bands and sets.noise else []
    caption += [_LEFT.format(number=len(sets.sets) - NUM_COLOURS)] if undrawn else []
    height = _HEIGHT + max(0, len(front) - _LINES) * _LINE_PIXELS if parameter is None and len(front) > 1 else 0
    return Figure(f"scores{place}", "", behind + front + over, layout, " ".join(caption), height)


def _best_sets(sets: Sequence[ArmSet], ranked: Sequence[int]) -> list[ArmSet]:
    """As many sets as there are colours: those with the arms that are first in rank, in the order of all sets."""
    rank = {arm: place for place, arm in enumerate(ranked)}
    by_rank = sorted(sets, key=lambda arm_set: min(rank[arm] for arm in arm_set.arms))
    return [arm_set for arm_set in sets if arm_set in by_rank[:NUM_COLOURS]]


def _in_order(axis: Axis, arms: Sequence[ArmScore], members: Collection[int]) -> list[ArmScore]:
    """The members among the arms, along the axis; names of options in alphabetical order."""
    numbers = set(members)
    return sorted(
        (arm_score for arm_score in arms if arm_score.arm in numbers), key=lambda arm_score: axis.places[arm_score.arm]
    )


def _names(records: Records, sets: Sequence[ArmSet]) -> tuple[str | None, list[str]]:
    """The parameter that tells the sets apart, None for several, and the sets' names by what they differ in: from each
    other, or from the reference."""
    differing = [
        name for name in records.file.domains if len({str(arm_set.settings.get(name)) for arm_set in sets}) > 1
    ]
    if len(differing) == 1:
        parameter = differing[0]
        return parameter, [as_markup(formats.value(arm_set.settings.get(parameter))) for arm_set in sets]
    point = records.file.reference() or {}
    names = []
    for arm_set in sets:
        settings = {name: arm_set.settings[name] for name in differing if name in arm_set.settings}
        differing_settings = {
            name: value
            for name, value in settings.items()
            if name not in point or not equal_params({"": value}, {"": point[name]})
        }
        names.append(
            as_markup(formats.params(differing_settings))
            if differing_settings
            else _AS_REFERENCE
            if point
            else as_markup(formats.params(settings))
        )
    return None, names


_SHARED, _ALONE = "in several curves", "in no curve"
_SYMBOLS = {_SHARED: "circle", _ALONE: "circle-open"}
_AS_REFERENCE = "all else as in the reference"
_ONE_CURVE = (
    "One curve per set of arms that differ in the axis' parameter alone; the legend names what the sets differ in."
)
_NOISE = "Beside the curves' parameters the arms differ in {names}, which counts as noise."
_LEFT = "{number} more sets, which are in no curve here, are too many for the plot."
_HEIGHT, _LINES, _LINE_PIXELS = 400, 2, 19
"""Pixels of a plot with a short legend, its lines, and what each further line takes."""
_CONFIRMED = "Confirmed arms stand at the mean of their fresh seeds, the others at the score that the search saw."
_BANDS = {
    "fit": (
        "Line and band: a parabola through the scores and its 95 % band. It describes these scores, and is no verdict."
    ),
    "join": "Lines and bands that are not curved join the arms' scores and intervals.",
}


def _markers(
    axis: Axis, members: Sequence[ArmScore], group: str, style: dict[str, Any], has_bars: bool
) -> dict[str, Any]:
    share = 1.0 if has_bars else 0.7
    sizes = [round(share * _size(arm_score), 1) for arm_score in members]
    marker = {**style, "size": sizes, "line": {"color": "--paper", "width": 1}}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": group,
        "legendgroup": group,
        "x": plain(axis.places[arm_score.arm] for arm_score in members),
        "y": plain(arm_score.score for arm_score in members),
        **({"error_y": _error_bars(members, style["color"])} if has_bars else {}),
        "marker": marker if has_bars else {**marker, "opacity": 0.45},
        **points("arms", [arm_score.arm for arm_score in members]),
    }


def _size(arm_score: ArmScore) -> float:
    """Diameter of the arm's point: its area grows with the number of seeds."""
    return min(24.0, 8.0 * math.sqrt(max(1, len(arm_score.seeds))))


def _error_bars(arms: Sequence[ArmScore], colour: str) -> dict[str, Any]:
    def length(end: float, score: float | None) -> float | None:
        return abs(end - score) if score is not None and math.isfinite(end) else None

    return {
        "type": "data",
        "symmetric": False,
        "array": plain(length(arm_score.high, arm_score.score) for arm_score in arms),
        "arrayminus": plain(length(arm_score.low, arm_score.score) for arm_score in arms),
        "color": colour,
        "thickness": 1.3,
        "width": 3,
    }


def _band(axis: Axis, members: Sequence[ArmScore]) -> tuple[str, list[tuple[float, Interval]]]:
    """The key in `_BANDS` of how the band is made, and (place, mean with its band) from left to right; empty without a
    band.

    With too few places for a parabola, the band joins the arms' own intervals where each place has a single arm.
    """
    if not axis.is_numeric:
        return "", []
    placed = sorted(((float(axis.places[arm_score.arm]), arm_score) for arm_score in members), key=lambda pair: pair[0])
    places = [place for place, _ in placed]
    along = [math.log10(place) for place in places] if axis.is_log else places
    spread = [along[0] + (along[-1] - along[0]) * step / (_BAND_PLACES - 1) for step in range(_BAND_PLACES)]
    values = [arm_score.score or 0.0 for _, arm_score in placed]
    fitted = quadratic_band(along, values, [len(arm_score.seeds) for _, arm_score in placed], spread)
    if fitted:
        return "fit", [(10**at if axis.is_log else at, mean) for at, mean in zip(spread, fitted, strict=True)]
    is_joined = 2 <= len(set(places)) == len(places) and all(
        math.isfinite(arm_score.high - arm_score.low) for _, arm_score in placed
    )
    joined = [(place, Interval(arm_score.score or 0.0, arm_score.low, arm_score.high)) for place, arm_score in placed]
    return "join", joined if is_joined else []


def _band_traces(band: Sequence[tuple[float, Interval]], group: str, colour: str) -> tuple[list[dict[str, Any]], ...]:
    """The traces of the band's area, and of the line in its middle."""
    if not band:
        return [], []
    places, means = [place for place, _ in band], [mean for _, mean in band]
    common = {"type": "scatter", "mode": "lines", "legendgroup": group, "showlegend": False, "hoverinfo": "skip"}
    area = {
        "x": plain([*places, *reversed(places)]),
        "y": plain([*(mean.high for mean in means), *(mean.low for mean in reversed(means))]),
        "fill": "toself",
        "fillcolor": colour,
        "line": {"width": 0, "color": colour},
        "opacity": 0.14,
    }
    line = {"x": plain(places), "y": plain(mean.value for mean in means), "line": {"color": colour, "width": 2}}
    return [common | area], [common | line]


def _is_right(axis: Axis, place: Any) -> bool:
    """True if the place is in the right half of the axis, where a label would not fit to its right."""
    if not axis.is_numeric:
        return False
    scale = math.log10 if axis.is_log else float
    ends = [scale(pick(axis.places.values())) for pick in (min, max)]
    return scale(place) > sum(ends) / 2


def _marks(records: Records, best: ArmScore, axis: Axis) -> dict[str, Any]:
    """A label at the first arm, and a line at chance where the score is an accuracy."""
    objective = records.sweep.search.objectives[0]
    place = axis.places[best.arm]
    label = {
        "x": math.log10(place) if axis.is_log else place,
        "y": best.score,
        "text": f"{'best' if best.separable and not records.has_reference else 'first in rank'}: arm {best.arm}",
        "showarrow": True,
        "arrowhead": 0,
        "arrowcolor": QUIET,
        "ax": -52 if _is_right(axis, place) else 52,
        "ay": 30 if objective.mode == "min" else -30,
    }
    if best.chance is None or not objective.metric.endswith("/acc"):
        return {"annotations": [label], "shapes": []}
    line = {"color": QUIET, "width": 1.2, "dash": "dot"}
    ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": best.chance, "y1": best.chance}
    corner = {"xref": "paper", "x": 1, "y": best.chance, "xanchor": "right", "yanchor": "top"}
    guessing = {**corner, "text": "guessing", "showarrow": False}
    return {"annotations": [label, guessing], "shapes": [{"type": "line", **ends, "line": line}]}
