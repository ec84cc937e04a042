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


def difference(arm_score: ArmScore) -> str:
    """Difference to the reference arm with the verdict's mark, or else to the arm that is first in rank, where ≈ marks
    a known interval that includes 0."""
    gap = arm_score.difference
    if gap is None:
        return NOTHING
    has_interval = not (math.isnan(gap.low) or math.isnan(gap.high))
    if not has_interval:
        return f"{gap.value:+.3f}"
    word = arm_score.verdict or (None if arm_score.separable else "not known")
    return f"{gap.value:+.3f} ({signed_interval(gap.low, gap.high)}){verdict.MARKS[word] if word else ''}"


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
        findings = records.findings
        arm = "the reference" if findings.compared_with is None else f"arm {findings.compared_with}"
        return f"against {arm}" + (" (corrected 95 %)" if findings.verdicts else "")
    return "difference to the best (95 %)" if _seeds_are_known(records.scores) else "difference to the first"


def answer_so_far(records: Records) -> str:
    """The answer of a run, which may be unfinished: the verdict against the reference arm, or else the `answer`; of a
    sweep without stages that on its pairs of models."""
    return " ".join(filter(None, (_answer_so_far(records), _stopped_by_budget(records), _skipped_steps(records))))


def _stopped_by_budget(records: Records) -> str:
    """A sentence on the limit of the budget that has stopped the sweep, and on the trials that are missing; empty where
    no limit has."""
    reached = budget.first_reached(records.limits)
    if reached is None or records.num_unbegun <= 0:
        return ""
    looks, confirm = records.findings.looks, records.sweep.search.confirm
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
    if pairs_answer := pairs.answer(records.pairs):
        return pairs_answer
    objectives, findings = records.sweep.search.objectives, records.findings
    verdict_answer = verdict.answer(records.file, findings)
    if findings.verdicts and records.has_reference:
        return " ".join([verdict_answer, *_remarks(records.scores), *_front(records)])
    ranking_answer = answer(records.scores, objectives, records.num_open > 0, records.has_reference)
    return " ".join(filter(None, (ranking_answer, *_front(records), verdict_answer if records.best else "")))


def _front(records: Records) -> list[str]:
    """The sentences on the Pareto front of several objectives; none for a sweep with one."""
    return [str(records.front)] if records.front is not None and records.front.arms else []


def answer(
    scores: Sequence[ArmScore], objectives: Sequence[Objective], has_more: bool = False, has_reference: bool = False
) -> str:
    """The best arm with its interval, and whether it is better than the others: one sentence. Then, where it is not
    better than guessing, that. `has_more`: trials have not ended yet.
    `has_reference`: arms are compared with a reference arm, so that nothing is said of the best and the others."""
    scored = [arm_score for arm_score in scores if arm_score.score is not None]
    if not scored:
        yet = " yet" if has_more else ""
        return f"No trial is complete{yet}, so there is nothing to rank."
    best, others = scored[0], scored[1:]
    metric, seeds_are_known = objectives[0].metric, _seeds_are_known(scored)
    covers = "95 % interval" if seeds_are_known else "95 % interval over the evaluation's items alone"
    ends = f" ({covers} {interval(best.low, best.high)})" if not math.isnan(best.low) else ""
    so_far = " so far" if has_more or any(arm_score.open for arm_score in scores) else ""
    place = "Best" if seeds_are_known and not has_reference else "First in rank"
    sentence = f"{place}{so_far}: arm {best.arm} ({params(best.params)}) with {metric} {score(best.score)}{ends}"
    close = [arm_score.arm for arm_score in others if not arm_score.separable]
    if has_reference:
        sentence += "."
    elif not others:
        sentence += "; it is the only arm with a score, so there is nothing to compare it with."
    elif not seeds_are_known:
        sentence += "; no arm can be told apart from another, since no arm has a second seed."
    elif close:
        numbers = f" (arm{'s' if len(close) > 1 else ''} {', '.join(map(str, close))})" if len(close) <= 12 else ""
        which = f"{len(close)} of {len(others)} other arms"
        if len(close) == len(others):
            which = "the other arm" if len(others) == 1 else f"any of the {len(others)} other arms"
        sentence += f"; it cannot be told apart from {which}{numbers}."
    else:
        sentence += f"; it is better than {_others(len(others))} (95 %, over items and seeds)."
    return " ".join([sentence, *_remarks(scores)])


def _remarks(scores: Sequence[ArmScore]) -> list[str]:
    """The remark that the first arm may be guessing, where it may."""
    scored = [arm_score for arm_score in scores if arm_score.score is not None]
    remarks = []
    if scored and scored[0].beats_chance is False:
        accuracy, chance = score(scored[0].accuracy), score(scored[0].chance)
        remarks.append(f"The accuracy of arm {scored[0].arm}, {accuracy}, cannot be told from guessing ({chance}).")
    return remarks


def unknown_noise(records: Records) -> str:
    """A warning where no arm has a second seed, with what would settle the question; empty where the seeds' noise is
    known, while fresh seeds are to come, without any score, and where nothing is trained."""
    is_open = records.sweep.search.confirm is not None and records.num_open > 0
    if _seeds_are_known(records.scores) or records.best is None or is_open or not records.sweep.stages:
        return ""
    return f"Seed noise unknown: no winner. {verdict.settled_by(records.file, records.rows, records.items)}"


def _seeds_are_known(scores: Sequence[ArmScore]) -> bool:
    return any(arm_score.covers_seeds for arm_score in scores)


def _others(number: int) -> str:
    return {1: "the other arm", 2: "both other arms"}.get(number, f"all {number} other arms")


def progress(records: Records) -> str:
    """The number of trials in each state, and the trials without a table of items."""
    states = records.states
    if not records.rows:
        return "There are no trials yet (no trials.parquet)."
    parts = [f"{states[state]} {state}" for state in ("complete", *ENDED[1:], "running", "waiting") if states[state]]
    sentence = f"Trials: {', '.join(parts)} of {records.num_trials}."
    without_items = [
        row["number"] for row in records.rows if row["state"] == "complete" and row["number"] not in records.items
    ]
    if without_items:
        names = ", ".join(trial_name(number) for number in without_items[:10])
        sentence += f" No table of items for trial {names}: differences that need it are unpaired."
    return sentence
