"""The findings of a sweep: its verdicts, the arm that the others are compared with, and the seeds behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from raycodellm.config import Objective, SweepFile
from raycodellm.statistics import Interval
from raycodellm.tables.trials import Row
from raycodellm.verdict.arms import mean_score
from raycodellm.verdict.comparison import compare
from raycodellm.verdict.constraints import Breach, breaches, broken_by
from raycodellm.verdict.counted import counted_rows, ranked_arms
from raycodellm.verdict.first_in_rank import compare_with_first
from raycodellm.verdict.looks import Looks, looks, rows_that_chose
from raycodellm.verdict.measurements import ItemsOf, phase_of, rows_by_arm, with_metric
from raycodellm.verdict.verdicts import Comparison, Verdict, family_metrics

Basis = Literal["confirmation", "all seeds", "first in rank", "none"]


@dataclass(frozen=True)
class Findings:
    """The verdicts of a sweep, and what they rest on."""

    basis: Basis
    """Seeds that the verdicts rest on: fresh seeds against the reference, all seeds against the reference, or all seeds
    against the arm that is first in rank. `none` where nothing is known of the noise between seeds."""
    compared_with: int | None
    """The arm that the others are compared with; None while it has no score."""
    looks: Looks
    """The state of the confirmation; of a sweep without one, whether its search is over."""
    comparison: Comparison
    """The verdicts; empty while none is given."""
    seeds_of_noise: int
    """Seeds, over all arms that have two or more, that tell the noise between seeds; 0 where it is unknown."""
    lacks_reference: bool = False
    """True if the sweep has a reference arm that has no score to compare with, and gets none: its trials, or its fresh
    seeds, have ended without one."""
    breaches: tuple[Breach, ...] = ()
    """Each arm with each constraint of the search."""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """On each arm that is compared, in each metric."""
        return self.comparison.verdicts

    @property
    def is_over(self) -> bool:
        """True if no trial will change the verdicts."""
        return self.looks.phase == "done"


def findings(file: SweepFile, rows: Sequence[Row], items: ItemsOf, state: Looks | None = None) -> Findings:
    """The findings of a sweep, which may be unfinished; a look that lacks trials gives no verdict.

    `rows`: of `trials.parquet`; `items`: a trial's items by its number; `state`: the looks, where they are known.
    """
    state = looks(file, rows, items) if state is None else state
    arm_breaches = breaches(file, rows, items, state.counted)
    return replace(_findings(file, rows, items, state, broken_by(arm_breaches)), breaches=arm_breaches)


def _findings(
    file: SweepFile, rows: Sequence[Row], items: ItemsOf, state: Looks, broken: Mapping[int, float]
) -> Findings:
    settings = file.example().search
    objective = settings.objectives[0]
    if settings.confirm is not None:
        seeds = {seed for verdict in state.verdicts for seed in verdict.seeds}
        complete_rows = rows_by_arm([row for row in rows if phase_of(row) == "confirm" and row["seed"] in seeds])
        searched = rows_by_arm(rows_that_chose(file, rows), "search")
        verdicts = [
            replace(verdict, selected_score=mean_score(searched[verdict.arm], verdict.metric))
            for verdict in state.verdicts
        ]
        comparison = Comparison(tuple(verdicts), _reference_scores(state))
        noise = _seeds_of_noise(complete_rows, objective.metric)
        lacks_reference = state.num_decided > 0 and not state.counted.get(state.reference or 0)
        return Findings("confirmation", state.reference, state, comparison, noise, lacks_reference)
    complete_rows, _ = counted_rows(rows, objective.metric)
    seeds_of_noise = _seeds_of_noise(complete_rows, objective.metric)
    basis: Basis = "first in rank" if settings.reference is None else "all seeds"
    order = _in_rank(complete_rows, objective, broken)
    compared_with = next(iter(order), None) if settings.reference is None else state.reference
    if not seeds_of_noise or compared_with not in complete_rows:
        lacks_reference = (
            settings.reference is not None and state.phase == "done" and compared_with not in complete_rows
        )
        basis = "none" if not seeds_of_noise else basis
        return Findings(basis, compared_with, state, Comparison(), seeds_of_noise, lacks_reference)
    metrics = family_metrics(rows, settings.objectives)
    ranked_rows = {arm: complete_rows[arm] for arm in order}
    if settings.reference is None:
        comparison = compare_with_first(ranked_rows, compared_with, metrics, items)
    else:
        comparison = compare(ranked_rows, compared_with, metrics, items)
    is_final = state.phase == "done"
    comparison = replace(
        comparison, verdicts=tuple(replace(verdict, is_final=is_final) for verdict in comparison.verdicts)
    )
    return Findings(basis, compared_with, state, comparison, seeds_of_noise)


def _reference_scores(state: Looks) -> dict[str, Interval]:
    """Maps each metric that has a verdict to the reference arm's score."""
    metrics = dict.fromkeys(verdict.metric for verdict in state.verdicts)
    return {name: score for (arm, name), score in state.scores.items() if arm == state.reference and name in metrics}


def _in_rank(
    complete_rows: Mapping[int, Sequence[Row]], objective: Objective, broken: Mapping[int, float]
) -> list[int]:
    means = {arm: mean_score(arm_rows, objective.metric) for arm, arm_rows in complete_rows.items()}
    return ranked_arms({arm: mean for arm, mean in means.items() if mean is not None}, (), objective, broken)


def _seeds_of_noise(rows: Mapping[int, Sequence[Row]], metric: str) -> int:
    numbers = [len(with_metric(arm_rows, metric)) for arm_rows in rows.values()]
    return sum(number for number in numbers if number > 1)
