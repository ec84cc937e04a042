"""The measurements of a sweep's arms, from rows of `trials.parquet` and tables of items."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from raycodellm import evaluation
from raycodellm.statistics import ArmMeasurements, Interval, SeedNoise, mean_of_samples, seed_noise
from raycodellm.tables.trials import Row, metric_of, params_of

if TYPE_CHECKING:
    import pyarrow as pa

ItemTable: TypeAlias = "pa.Table | evaluation.Items"
"""A trial's evaluated items."""
ItemsOf: TypeAlias = "Mapping[int, ItemTable] | Callable[[int], ItemTable | None]"
"""Gives the items of a trial by its number, where they are known."""


def rows_by_arm(rows: Sequence[Row], phase: str | None = None) -> dict[int, list[Row]]:
    """The rows of each arm, in the order of their trials; those of one phase where `phase` is given."""
    by_arm: dict[int, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["number"]):
        if phase is None or phase_of(row) == phase:
            by_arm[row["arm"]].append(row)
    return dict(by_arm)


def stopped_arms(rows: Sequence[Row]) -> frozenset[int]:
    """The arms of which early stopping ended a trial. Such an arm has no score, also where one of its seeds had ended
    before: the moment of its end is chance, and of a worse arm the lucky seeds alone would be left."""
    return frozenset(row["arm"] for row in rows if row["state"] == "pruned")


def searched_arms(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """The rows of the search of each arm that was not stopped early."""
    stopped = stopped_arms(rows)
    return {arm: arm_rows for arm, arm_rows in rows_by_arm(rows, "search").items() if arm not in stopped}


def phase_of(row: Row) -> str:
    """The trial's phase; `search` for trials of versions that knew no other."""
    phase = row.get("phase")
    return phase if isinstance(phase, str) else "search"


def with_metric(rows: Sequence[Row], metric: str) -> list[Row]:
    """The complete rows that have a finite `metric`, by seed; the first trial's row where several have one seed."""
    by_seed: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: (row["seed"], row["number"])):
        if metric_of(row, metric) is not None:
            by_seed.setdefault(row["seed"], row)
    return list(by_seed.values())


def scored_arms(arms: Mapping[int, Sequence[Row]], metric: str) -> dict[int, list[Row]]:
    """Maps each arm that has a score in `metric` to its rows `with_metric`; `arms` maps each arm to its rows."""
    scored = {arm: with_metric(arm_rows, metric) for arm, arm_rows in arms.items()}
    return {arm: scored_rows for arm, scored_rows in scored.items() if scored_rows}


def measured_arms(
    metric: str, complete_rows: Mapping[int, Sequence[Row]], items: ItemsOf
) -> tuple[dict[int, ArmMeasurements], SeedNoise]:
    """Measurements of each arm that has complete rows, and the noise between their seeds.

    The items are looked at only where they count: while the noise is unknown, a score has its recorded interval.
    """
    measured = {arm: measurements(metric, arm_rows, {}) for arm, arm_rows in complete_rows.items() if arm_rows}
    noise = seed_noise({arm: arm_measurements.scores for arm, arm_measurements in measured.items()})
    needs_items = noise.single.degrees or any(
        arm_measurements.recorded is None for arm_measurements in measured.values()
    )
    if needs_items and (callable(items) or items):
        measured = {arm: measurements(metric, complete_rows[arm], items) for arm in measured}
    return measured, noise


def measurements(metric: str, scored_rows: Sequence[Row], items: ItemsOf) -> ArmMeasurements:
    """Measurements of one arm: `scored_rows` are its rows with a finite `metric`, one or more, each of another seed."""
    scores = {row["seed"]: float(row[f"metrics.{metric}"]) for row in scored_rows}
    low, high = (metric_of(scored_rows[0], f"{metric}_{end}") for end in ("low", "high"))
    return ArmMeasurements(
        scores=scores,
        samples={
            row["seed"]: _samples(items_of(items, row["number"]), metric, scores[row["seed"]]) for row in scored_rows
        },
        recorded=None if low is None or high is None else Interval(scores[scored_rows[0]["seed"]], low, high),
        place=_code_ratio(params_of(scored_rows[0])),
    )


def _code_ratio(params: Mapping[str, Any]) -> float | None:
    """Mean of the searched code ratios, by which arms have similar noise; None where none is searched."""
    ratios = [
        value for name, value in params.items() if name.endswith("code_ratio") and isinstance(value, (int, float))
    ]
    return statistics.fmean(ratios) if ratios else None


def items_of(items: ItemsOf, number: int) -> ItemTable | None:
    """The items of the trial with this number; None where they are not known."""
    return items.get(number) if isinstance(items, Mapping) else items(number)


def _samples(items: ItemTable | None, metric: str, score: float) -> Sequence[Mapping[Any, float]]:
    """The items' values; none unless `score` is their mean: an interval must belong to the score that is shown."""
    if items is None:
        return []
    samples = items.samples(metric) if isinstance(items, evaluation.Items) else evaluation.samples(items, metric)
    return samples if samples and math.isclose(mean_of_samples(samples), score, rel_tol=1e-6) else []
