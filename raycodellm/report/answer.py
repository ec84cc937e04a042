"""The result of a run, in sentences that claim no more than the intervals allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raycodellm.config import Objective
from raycodellm.evaluation import METRICS
from raycodellm.report.ranking import ArmScore
from raycodellm.tables.formats import NOTHING, interval, params, score
from raycodellm.tables.trials import trial_name

if TYPE_CHECKING:
    from raycodellm.report.records import Records


def difference(one: ArmScore) -> str:
    """Difference to the arm that is first in rank; ≈ marks a known interval that includes 0."""
    found = one.difference_to_best
    if found is None:
        return NOTHING
    known = not (math.isnan(found.low) or math.isnan(found.high))
    return (
        f"{found.value:+.3f}"
        + (f" ({found.low:+.3f} to {found.high:+.3f})" if known else "")
        + (" ≈" if known and not one.separable else "")
    )


def metric_in_words(objective: Objective) -> str:
    """The metric with its unit and its good direction."""
    name = objective.metric.rpartition("/")[2]
    unit = next((metric.unit for metric in METRICS if metric.name == name), None)
    direction = "lower is better" if objective.mode == "min" else "higher is better"
    return f"{objective.metric} ({unit}, {direction})" if unit else f"{objective.metric} ({direction})"


def interval_name(scores: Sequence[ArmScore]) -> str:
    """Heading of the column of the scores' intervals."""
    return "95 % interval" if _seeds_are_known(scores) else "95 % interval, items only"


def difference_name(scores: Sequence[ArmScore]) -> str:
    """Heading of the column of differences."""
    return "difference to the best (95 %)" if _seeds_are_known(scores) else "difference to the first"


def answer_so_far(records: Records) -> str:
    """The `answer` of a run, which may be unfinished."""
    return answer(records.scores, records.sweep.search.objectives, records.num_open > 0)


def answer(scores: Sequence[ArmScore], objectives: Sequence[Objective], has_more: bool = False) -> str:
    """The best arm with its interval, and whether it is better than the others: one sentence. Then, where they say
    anything, whether it is better than guessing, and the Pareto front. `has_more`: trials have not ended yet."""
    found = [one for one in scores if one.score is not None]
    if not found:
        return "No trial is complete yet, so there is nothing to rank."
    best, others = found[0], found[1:]
    metric, known = objectives[0].metric, _seeds_are_known(found)
    covers = "95 % interval" if known else "95 % interval over the evaluation's items alone"
    shown = f" ({covers} {interval(best.low, best.high)})" if not math.isnan(best.low) else ""
    so_far = " so far" if has_more or any(one.open for one in scores) else ""
    place = "Best" if known else "First in rank"
    said = f"{place}{so_far}: arm {best.arm} ({params(best.params)}) with {metric} {score(best.score)}{shown}"
    close = [one.arm for one in others if not one.separable]
    if not others:
        said += "; it is the only arm with a score, so there is nothing to compare it with."
    elif not known:
        said += "; no arm can be told apart from another, since no arm has a second seed."
    elif close:
        named = f" (arm{'s' if len(close) > 1 else ''} {', '.join(map(str, close))})" if len(close) <= 12 else ""
        which = f"{len(close)} of {len(others)} other arms"
        if len(close) == len(others):
            which = "the other arm" if len(others) == 1 else f"any of the {len(others)} other arms"
        said += f"; it cannot be told apart from {which}{named}."
    else:
        said += f"; it is better than {_others(len(others))} (95 %, over items and seeds)."
    if best.beats_chance is False:
        said += f" Its accuracy, {score(best.accuracy)}, cannot be told from guessing ({score(best.chance)})."
    if len(objectives) > 1:
        front = [str(one.arm) for one in found if one.pareto]
        said += f" On the Pareto front of {', '.join(o.metric for o in objectives)}: arm {', '.join(front)}."
    return said


def unknown_noise(scores: Sequence[ArmScore]) -> str:
    """A warning where no arm has a second seed; empty where the seeds' noise is known, and without any score."""
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
    """The number of trials in each state, and the trials without a table of items."""
    states = records.states
    if not records.rows:
        return "There are no trials yet (no trials.parquet)."
    parts = [f"{states[state]} {state}" for state in ("complete", "failed", "running", "waiting") if states[state]]
    said = f"Trials: {', '.join(parts)} of {records.num_trials}."
    without = [
        row["number"] for row in records.rows if row["state"] == "complete" and row["number"] not in records.items
    ]
    if without:
        named = ", ".join(trial_name(number) for number in without[:10])
        said += f" No table of items for trial {named}: differences that need it are unpaired."
    return said
