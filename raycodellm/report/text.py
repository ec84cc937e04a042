"""Numbers, durations and the answer itself, as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raycodellm.config import Objective
from raycodellm.report.ranking import ArmScore

if TYPE_CHECKING:
    from raycodellm.report import Records

NOTHING = "–"


def score(value: float | None) -> str:
    """Three decimals: what a few hundred items can tell."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.3f}"


def interval(low: float, high: float) -> str:
    return NOTHING if math.isnan(low) or math.isnan(high) else f"{_end(low)} to {_end(high)}"


def _end(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ("−∞" if value < 0 else "∞")


def difference(one: ArmScore) -> str:
    """To the arm that is first in rank; ≈ where the arms cannot be told apart though the interval is known."""
    found = one.difference_to_best
    if found is None:
        return NOTHING
    known = not (math.isnan(found.low) or math.isnan(found.high))
    return (
        f"{found.value:+.3f}"
        + (f" ({found.low:+.3f} to {found.high:+.3f})" if known else "")
        + (" ≈" if known and not one.separable else "")
    )


def value(found: Any) -> str:
    """Of a parameter."""
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return NOTHING if found is None else str(found)
    return f"{found:g}" if isinstance(found, int) else f"{found:.3g}"


def count(number: float) -> str:
    """Tokens: 412, 41.2 k, 4.12 M, 1.20 B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size * 0.9995:
            shown = number / size
            return f"{shown:.{max(0, 2 - int(math.log10(abs(shown))))}f} {unit}"
    return f"{number:.0f}"


def seconds(number: float) -> str:
    if number < 10:
        return f"{number:.1f} s"
    if number < 60:
        return f"{number:.0f} s"
    minutes = round(number / 60)
    if number < 600:
        return f"{int(number // 60)} min {int(number % 60)} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def params(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value(setting)}" for name, setting in found.items()) or "no searched parameter"


def better(objective: Objective) -> str:
    """The metric with its unit and the good direction."""
    name = objective.metric.rpartition("/")[2]
    unit = {"acc": "share of items right", "bpb": "bits per byte"}.get(name)
    direction = "lower is better" if objective.mode == "min" else "higher is better"
    return f"{objective.metric} ({unit}, {direction})" if unit else f"{objective.metric} ({direction})"


def interval_name(scores: Sequence[ArmScore]) -> str:
    """Heading of the scores' intervals: what they cover."""
    return "95 % interval" if _seeds_are_known(scores) else "95 % interval, items only"


def difference_name(scores: Sequence[ArmScore]) -> str:
    return "difference to the best (95 %)" if _seeds_are_known(scores) else "difference to the first"


def answer(scores: Sequence[ArmScore], objectives: Sequence[Objective]) -> str:
    """What the run found, in a sentence or three, and no surer than it is."""
    found = [one for one in scores if one.score is not None]
    if not found:
        return "No trial is complete yet, so there is nothing to rank."
    best, others = found[0], found[1:]
    metric, known = objectives[0].metric, _seeds_are_known(found)
    covers = "95 % interval" if known else "95 % interval over the evaluation's items alone"
    shown = f" ({covers} {interval(best.low, best.high)})" if not math.isnan(best.low) else ""
    so_far = " so far" if any(one.open for one in scores) else ""
    place = "Best" if known else "First in rank"
    said = f"{place}{so_far}: arm {best.arm} ({params(best.params)}) with {metric} {score(best.score)}{shown}."
    close = [one.arm for one in others if not one.separable]
    if not others:
        said += " It is the only arm with a score, so there is nothing to compare it with."
    elif not known:
        said += " No arm can be told apart from another."
    elif close:
        named = f" (arm{'s' if len(close) > 1 else ''} {', '.join(map(str, close))})" if len(close) <= 12 else ""
        which = f"{len(close)} of {len(others)} other arms"
        if len(close) == len(others):
            which = "the other arm" if len(others) == 1 else f"any of the {len(others)} other arms"
        said += f" It cannot be told apart from {which}{named}."
    else:
        said += f" It is better than {_others(len(others))} (95 %, over items and seeds)."
    if best.beats_chance is False:
        said += f" Its accuracy, {score(best.accuracy)}, cannot be told from guessing ({score(best.chance)})."
    if len(objectives) > 1:
        front = [str(one.arm) for one in found if one.pareto]
        said += f" On the Pareto front of {', '.join(o.metric for o in objectives)}: arm {', '.join(front)}."
    return said


def unknown_noise(scores: Sequence[ArmScore]) -> str:
    """Says what a ranking by one seed each leaves open, and how to learn it; empty where the seeds' noise is known."""
    if _seeds_are_known(scores) or all(one.score is None for one in scores):
        return ""
    return (
        "No arm has a second seed yet: how much another seed would change its score is unknown, and so is whether arms "
        "differ. search.replicates: 3 trains each arm with three seeds."
    )


def _seeds_are_known(scores: Sequence[ArmScore]) -> bool:
    return any(one.covers_seeds for one in scores)


def _others(number: int) -> str:
    return {1: "the other arm", 2: "both other arms"}.get(number, f"all {number} other arms")


def progress(records: Records) -> str:
    """How many trials are in which state, and what is missing for a full report."""
    states = records.states
    if not records.rows:
        return "There are no trials yet (no trials.parquet)."
    parts = [f"{states[state]} {state}" for state in ("complete", "failed", "running", "waiting") if states[state]]
    said = f"Trials: {', '.join(parts)} of {len(records.rows)}."
    without = [
        row["number"] for row in records.rows if row["state"] == "complete" and row["number"] not in records.items
    ]
    if without:
        named = ", ".join(f"{number:04d}" for number in without[:10])
        said += f" No table of items for trial {named}: differences that need it are unpaired."
    return said
