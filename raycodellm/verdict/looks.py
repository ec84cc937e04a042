"""The looks at a confirmation: the trials that the sweep needs next, and the verdicts that are known already.

Nothing is stored: `looks` replays the confirmation from the trials that have ended. So the driver that runs the sweep,
a driver that continues it, and the report all find the same arms, the same trials and the same verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from raycodellm import search
from raycodellm.config import Objective, SweepFile
from raycodellm.records import CONFIRM_SEEDS, ENDED
from raycodellm.statistics import Interval
from raycodellm.tables.trials import Row, params_of
from raycodellm.verdict.arms import best_of_search, reference_arm
from raycodellm.verdict.comparison import Look, compare
from raycodellm.verdict.constraints import breaches, broken_by
from raycodellm.verdict.measurements import (
    ItemsOf,
    measured_arms,
    phase_of,
    rows_by_arm,
    scored_arms,
    searched_arms,
    with_metric,
)
from raycodellm.verdict.verdicts import Verdict, family_metrics

NOTHING = Interval(math.nan, math.nan, math.nan)
"""The score of an arm without a complete trial."""


@dataclass(frozen=True)
class PendingTrial:
    """A confirmation trial that a look needs, and that has not ended."""

    arm: int
    """Number of the arm, as in `trials.parquet`."""
    place: int
    """The trial's seed is the sweep's seed plus `records.CONFIRM_SEEDS` plus `place`."""


@dataclass(frozen=True)
class Looks:
    """The state of a sweep's confirmation."""

    phase: Literal["search", "confirm", "done"]
    """`search` while trials of the search have not ended, `confirm` while a look lacks trials, then `done`."""
    look: int = 0
    """Place in `search.confirm.seeds` of the look that waits for trials, or of the last one when all is done."""
    arms: tuple[int, ...] = ()
    """The arms that are confirmed, the best in the search first; without the reference. Empty during the search."""
    reference: int | None = None
    """The reference arm; None while it has no trial, and where the sweep file names none."""
    pending: tuple[PendingTrial, ...] = ()
    """The trials that the look waits for, seed by seed, the reference first."""
    num_decided: int = 0
    """Looks that have all of their trials, and so have told their verdicts; also while added trials are searched."""
    verdicts: tuple[Verdict, ...] = ()
    """The verdicts of the last complete look at each arm, final ones and others."""
    told: tuple[tuple[Verdict, ...], ...] = ()
    """The verdicts as each decided look told them, those included that earlier looks had made final."""
    counted: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Maps the reference and each confirmed arm to the fresh seeds of its last complete look; empty before the first
    look is complete."""
    scores: Mapping[tuple[int, str], Interval] = field(default_factory=dict)
    """Maps these arms, metric by metric, to their scores over these seeds. The noise of all of them is in the
    intervals: a verdict is frozen, but what is known of a score is not."""


def looks(file: SweepFile, rows: Sequence[Row], items: ItemsOf) -> Looks:
    """The state of the confirmation, from all trials: after the search the best arms and the reference get fresh seeds,
    look after look, until each verdict on the objectives is known, or no seeds are left.

    `rows`: of `trials.parquet`. `items`: a trial's items by its number; asked for only where a look is decided. An arm
    is not asked for more seeds once its verdicts are known, or when a look finds it without a complete trial. A sweep
    without `search.confirm` is done when its search is over.

    Trials that were added to the search after a fresh seed had been seen (`search.confirm.begun`) change neither which
    arms are confirmed nor a verdict; the looks that are left wait until the added trials have ended.
    """
    confirm = file.example().search.confirm
    num_ended = sum(row["state"] in ENDED and phase_of(row) == "search" for row in rows)
    is_searching = num_ended < search.num_trials(file)
    if confirm is None or confirm.begun is None:
        return Looks("search", reference=reference_arm(file, rows)) if is_searching else _replay(file, rows, items)
    rested_on = rows_that_chose(file, rows)
    num_ended = sum(row["state"] in ENDED and phase_of(row) == "search" for row in rested_on)
    if num_ended < confirm.begun.trials:
        return Looks("search", reference=reference_arm(file, rows))
    state = _replay(file, rested_on, items)
    return replace(state, phase="search", pending=()) if is_searching else state


def rows_that_chose(file: SweepFile, rows: Sequence[Row]) -> list[Row]:
    """The rows that the choice of the confirmed arms and the verdicts rest on: all but those of trials that were added
    to the search after a fresh seed had been seen."""
    confirm = file.example().search.confirm
    if confirm is None or confirm.begun is None:
        return list(rows)
    return [row for row in rows if phase_of(row) == "confirm" or row["number"] < confirm.begun.trials]


def _replay(file: SweepFile, rows: Sequence[Row], items: ItemsOf) -> Looks:
    """The state of the confirmation of a search that is over. `rows`: of the trials that it rests on."""
    sweep = file.example()
    confirm, reference = sweep.search.confirm, reference_arm(file, rows)
    if confirm is None or reference is None:
        return Looks("done", reference=reference)
    broken = broken_by(breaches(file, [row for row in rows if phase_of(row) == "search"], {}))
    arms = best_of_search(rows, sweep.search.objectives, reference, confirm.best, broken)
    state = Looks("done", arms=arms, reference=reference)
    by_arm = rows_by_arm(rows, "confirm")
    first_seed = sweep.seed + CONFIRM_SEEDS
    active = list(arms)
    for look, num_seeds in enumerate(confirm.seeds):
        if not active:
            break
        seeds = range(first_seed, first_seed + num_seeds)
        needed_trials = [PendingTrial(arm, seed - first_seed) for seed in seeds for arm in (reference, *active)]
        ended = {(arm, row["seed"] - first_seed) for arm in by_arm for row in by_arm[arm] if row["state"] in ENDED}
        pending = tuple(trial for trial in needed_trials if (trial.arm, trial.place) not in ended)
        if pending:
            return _with_scores(file, rows, replace(state, phase="confirm", look=look, pending=pending), items)
        look_rows = {
            arm: [row for row in by_arm.get(arm, ()) if row["state"] == "complete" and row["seed"] in seeds]
            for arm in (reference, *active)
        }
        counted = {**state.counted, **{arm: tuple(row["seed"] for row in look_rows[arm]) for arm in look_rows}}
        state = _after_look(
            file, rows, look_rows, replace(state, look=look, num_decided=look + 1, counted=counted), items
        )
        active = _still_open(file, state, look_rows)
        verdicts = _final_except(active, state.verdicts)
        state = replace(state, verdicts=verdicts, told=(*state.told, verdicts))
    return _with_scores(file, rows, replace(state, verdicts=_final_except((), state.verdicts)), items)


def _with_scores(file: SweepFile, rows: Sequence[Row], state: Looks, items: ItemsOf) -> Looks:
    """The state with the scores of the seeds that count, in its verdicts too."""
    fresh = rows_by_arm(rows, "confirm")
    counted = {arm: [row for row in fresh.get(arm, ()) if row["seed"] in seeds] for arm, seeds in state.counted.items()}
    objectives = file.example().search.objectives
    scores: dict[tuple[int, str], Interval] = {}
    seeds: dict[tuple[int, str], tuple[int, ...]] = {}
    for metric in family_metrics([row for arm_rows in counted.values() for row in arm_rows], objectives):
        complete_rows = scored_arms(counted, metric)
        if len(complete_rows) < 2:  # as in the ranking, a lone arm has no fresh score beside scores of the search
            continue
        measured, noise = measured_arms(metric, complete_rows, items)
        scores |= {(arm, metric): arm_measurements.interval(noise) for arm, arm_measurements in measured.items()}
        seeds |= {(arm, metric): tuple(arm_measurements.scores) for arm, arm_measurements in measured.items()}
    verdicts = [
        replace(verdict, score=scores[pair], seeds=seeds[pair])
        if (pair := (verdict.arm, verdict.metric)) in scores
        else verdict
        for verdict in state.verdicts
    ]
    return replace(state, scores=scores, verdicts=tuple(verdicts))


def _final_except(active: Collection[int], verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """The verdicts, where those of arms that get no more seeds are final."""
    return tuple(replace(verdict, is_final=verdict.is_final or verdict.arm not in active) for verdict in verdicts)


def _after_look(
    file: SweepFile, rows: Sequence[Row], look_rows: Mapping[int, Sequence[Row]], state: Looks, items: ItemsOf
) -> Looks:
    """The state after a look: the verdicts that were known before it stay, and the look gives its own for the rest."""
    objectives, confirm = file.example().search.objectives, file.example().search.confirm
    assert confirm is not None and state.reference is not None
    fresh = [row for row in rows if phase_of(row) == "confirm"]
    final_verdicts = [verdict for verdict in state.verdicts if verdict.is_final]
    seeds = {(verdict.arm, seed) for verdict in final_verdicts for seed in verdict.seeds}
    stopped_rows = [
        [row for row in arm_rows if (arm, row["seed"]) in seeds]
        for arm, arm_rows in rows_by_arm(fresh).items()
        if arm not in look_rows
    ]
    differing = {(verdict.arm, verdict.metric) for verdict in final_verdicts if verdict.word in ("better", "worse")}
    metrics = _family(file, fresh)
    comparison = compare(
        look_rows,
        state.reference,
        metrics,
        items,
        Look(
            seeds=confirm.seeds,
            number=state.look,
            num_planned=len(confirm.planned),
            rejected=differing,
            others={(verdict.arm, verdict.metric) for verdict in final_verdicts} - differing,
        ),
        margins={metric: confirm.margin_of(metric, objectives[0].metric) for metric in metrics},
        noise_rows=[*stopped_rows, *searched_arms(rows).values()],
    )
    verdicts = [replace(verdict, is_final=verdict.word != "not known") for verdict in comparison.verdicts]
    decided = {(verdict.arm, verdict.metric) for verdict in (*final_verdicts, *verdicts)}
    params = {arm: params_of(arm_rows[0]) for arm, arm_rows in rows_by_arm(rows).items()}
    unscored = [
        Verdict(arm, params[arm], objective.metric, NOTHING, (), None, NOTHING, "not known", look=state.look)
        for arm in look_rows
        for objective in objectives
        if arm != state.reference and (arm, objective.metric) not in decided
    ]
    ordered = sorted([*final_verdicts, *verdicts, *unscored], key=lambda verdict: state.arms.index(verdict.arm))
    return replace(state, verdicts=tuple(ordered))


def _family(file: SweepFile, fresh: Sequence[Row]) -> dict[str, Objective]:
    """The metrics that verdicts are given on: not those of tasks that were added when fresh seeds had been seen."""
    search_settings = file.example().search
    metrics = family_metrics(fresh, search_settings.objectives)
    begun = search_settings.confirm.begun if search_settings.confirm is not None else None
    if begun is None or begun.metrics is None:
        return metrics
    return {metric: metrics[metric] for metric in metrics if metric in begun.metrics}


def _still_open(file: SweepFile, state: Looks, look_rows: Mapping[int, Sequence[Row]]) -> list[int]:
    """The arms that the next look asks for: those of the look with a verdict on an objective that is not known."""
    metrics = {objective.metric for objective in file.example().search.objectives}
    final = {(verdict.arm, verdict.metric) for verdict in state.verdicts if verdict.is_final}
    reference = look_rows[state.reference] if state.reference is not None else ()
    return [
        arm
        for arm in look_rows
        if arm != state.reference
        and any((arm, metric) not in final for metric in metrics)
        and all(with_metric(look_rows[arm], metric) and with_metric(reference, metric) for metric in metrics)
    ]
