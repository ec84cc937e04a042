"""The result of a run, in sentences that claim no more than the intervals allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raycodellm import budget, verdict
from raycodellm.config import Objective
from raycodellm.evaluation import METRICS
from raycodellm.records import ENDED
from raycodellm.report import pairs
from raycodellm.report.ranking import ArmScore
from raycodellm.tables.formats import NOTHING, interval, params, score, signed_interval
from raycodellm.tables.trials import trial_name

if TYPE_CHECKING:
    from raycodellm.report.records import Records


MOST_SKIPPING = 5
"""Stages with skipped steps that the answer names."""


def difference(one: ArmScore) -> str:
    """Difference to the reference arm with the verdict's mark, or else to the arm that is first in rank, where ≈ marks
    a known interval that includes 0."""
    found = one.difference
    if found is None:
        return NOTHING
    known = not (math.isnan(found.low) or math.isnan(found.high))
    if not known:
        return f"{found.value:+.3f}"
    word = one.verdict or (None if one.separable else "not known")
    return f"{found.value:+.3f} ({signed_interval(found.low, found.high)}){verdict.MARKS[word] if word else ''}"


def metric_in_words(objective: Objective) -> str:
    """The metric with its unit and its good direction."""
    name = objective.metric.rpartition("/")[2]
    unit = next((metric.unit for metric in METRICS if metric.name == name), None)
    direction = "lower is better" if objective.mode == "min" else "higher is better"
    return f"{objective.metric} ({unit}, {direction})" if unit else f"{objective.metric} ({direction})"


def interval_name(scores: Sequence[ArmScore]) -> str:
    """Heading of the column of the scores' intervals."""
    return "95 % interval" if _seeds_are_known(scores) else "95 % interval, items only"


def difference_name(records: Records) -> str:
    """Heading of the column of differences."""
    if records.has_reference:
        known = records.known
        arm = "the reference" if known.compared_with is None else f"arm {known.compared_with}"
        return f"against {arm}" + (" (corrected 95 %)" if known.verdicts else "")
    return "difference to the best (95 %)" if _seeds_are_known(records.scores) else "difference to the first"


def answer_so_far(records: Records) -> str:
    """The answer of a run, which may be unfinished: the verdict against the reference arm, or else the `answer`; of a
    sweep without stages that on its pairs of models."""
    return " ".join(filter(None, (_answer_so_far(records), _stopped_by_budget(records), _skipped_steps(records))))


def _stopped_by_budget(records: Records) -> str:
    """Which limit of the budget has stopped the sweep, and what is missing; empty where none has."""
    reached = budget.first_reached(records.limits)
    if reached is None or records.num_unbegun <= 0:
        return ""
    looks, confirm = records.known.looks, records.sweep.search.confirm
    where = ""
    if confirm is not None:
        where = "before the first look"
        if looks.phase == "confirm":
            where = f"at look {looks.look + 1} of {len(confirm.seeds)}"
        elif looks.num_decided:  # trials were added to the search
            where = f"after look {looks.num_decided} of {len(confirm.seeds)}"
        where = f" {where} of the confirmation"
    trials = "a trial has" if records.num_unbegun == 1 else f"{records.num_unbegun} trials have"
    return f"Stopped{where} by {reached.key} ({reached}): {trials} not begun."


def _skipped_steps(records: Records) -> str:
    """The stages with steps that `faults.on_nan: skip_batch` left out, each with its first trial; empty without one."""
    first_trials: dict[str, int] = {}
    for row in records.rows:
        for key in records.stage_keys(row["number"]):
            first_trials.setdefault(key, row["number"])
    skipping = [
        (number, records.stages[key]) for key, number in first_trials.items() if records.stages[key].skipped_steps
    ]
    if not skipping:
        return ""
    named = [
        f"{stage.skipped_steps} of {stage.num_steps} in {stage.name} of trial {trial_name(number)}"
        for number, stage in skipping[:MOST_SKIPPING]
    ]
    more = len(skipping) - len(named)
    stages = f" and in {more} more stage{'s' * (more > 1)}" if more else ""
    return f"Steps were skipped, since a loss or gradient was not finite: {'; '.join(named)}{stages}."


def _answer_so_far(records: Records) -> str:
    if told := pairs.answer(records.pairs):
        return told
    objectives, known = records.sweep.search.objectives, records.known
    said = verdict.answer(records.file, known)
    if known.verdicts and records.has_reference:
        return " ".join([said, *_remarks(records.scores), *_front(records)])
    told = answer(records.scores, objectives, records.num_open > 0, records.has_reference)
    return " ".join(filter(None, (told, *_front(records), said if records.best else "")))


def _front(records: Records) -> list[str]:
    """Which arms are on the Pareto front of several objectives, and of which of them that is known."""
    return [str(records.front)] if records.front is not None and records.front.arms else []


def answer(
    scores: Sequence[ArmScore], objectives: Sequence[Objective], has_more: bool = False, has_reference: bool = False
) -> str:
    """The best arm with its interval, and whether it is better than the others: one sentence. Then, where it is not
    better than guessing, that. `has_more`: trials have not ended yet.
    `has_reference`: arms are compared with a reference arm, so that nothing is said of the best and the others."""
    found = [one for one in scores if one.score is not None]
    if not found:
        yet = " yet" if has_more else ""
        return f"No trial is complete{yet}, so there is nothing to rank."
    best, others = found[0], found[1:]
    metric, known = objectives[0].metric, _seeds_are_known(found)
    covers = "95 % interval" if known else "95 % interval over the evaluation's items alone"
    shown = f" ({covers} {interval(best.low, best.high)})" if not math.isnan(best.low) else ""
    so_far = " so far" if has_more or any(one.open for one in scores) else ""
    place = "Best" if known and not has_reference else "First in rank"
    said = f"{place}{so_far}: arm {best.arm} ({params(best.params)}) with {metric} {score(best.score)}{shown}"
    close = [one.arm for one in others if not one.separable]
    if has_reference:
        said += "."
    elif not others:
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
    return " ".join([said, *_remarks(scores)])


def _remarks(scores: Sequence[ArmScore]) -> list[str]:
    """The remark that the first arm may be guessing, where it may."""
    found = [one for one in scores if one.score is not None]
    said = []
    if found and found[0].beats_chance is False:
        accuracy, chance = score(found[0].accuracy), score(found[0].chance)
        said.append(f"The accuracy of arm {found[0].arm}, {accuracy}, cannot be told from guessing ({chance}).")
    return said


def unknown_noise(records: Records) -> str:
    """A warning where no arm has a second seed, with what would settle the question; empty where the seeds' noise is
    known, while fresh seeds are to come, without any score, and where nothing is trained."""
    is_open = records.sweep.search.confirm is not None and records.num_open > 0
    if _seeds_are_known(records.scores) or records.best is None or is_open or not records.sweep.stages:
        return ""
    return f"Seed noise unknown: no winner. {verdict.settled_by(records.file, records.rows, records.items)}"


def _seeds_are_known(scores: Sequence[ArmScore]) -> bool:
    return any(one.covers_seeds for one in scores)


def _others(number: int) -> str:
    return {1: "the other arm", 2: "both other arms"}.get(number, f"all {number} other arms")


def progress(records: Records) -> str:
    """The number of trials in each state, and the trials without a table of items."""
    states = records.states
    if not records.rows:
        return "There are no trials yet (no trials.parquet)."
    parts = [f"{states[state]} {state}" for state in ("complete", *ENDED[1:], "running", "waiting") if states[state]]
    said = f"Trials: {', '.join(parts)} of {records.num_trials}."
    without = [
        row["number"] for row in records.rows if row["state"] == "complete" and row["number"] not in records.items
    ]
    if without:
        named = ", ".join(trial_name(number) for number in without[:10])
        said += f" No table of items for trial {named}: differences that need it are unpaired."
    return said
