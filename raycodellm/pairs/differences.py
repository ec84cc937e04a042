"""Differences between two models over the items that both were scored on, and their tests.

One metric of each task is tested: McNemar's exact test for the accuracy of items that are independent, Student's paired
test over items, or over clusters of items, for anything else. Holm's correction is over all pairs and tasks together.
A bootstrap's p is too small over few clusters: with 20 of them, 10 of 100 simulated comparisons of equal models claimed
a difference; Student's test did in 17 of 300.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from raycodellm import evaluation, statistics
from raycodellm.statistics import ERROR, Interval, Sample

Test = Literal["McNemar", "Student"]
Averages = Mapping[str, Sequence[str]]
Pair = tuple[str, str]
"""(base, other)"""


@dataclass(frozen=True)
class Gap:
    """The difference between two models in one metric: the other's score less the base's."""

    interval: Interval
    """The difference with its 95 % interval over items."""
    items: int
    """Items, or clusters of items that depend on each other, that the difference is over."""
    p: float | None = None
    """Probability of so large a difference by the choice of items alone; None where it is not tested."""
    test: Test | None = None
    """The test that gave `p`."""
    p_corrected: float | None = None
    """`p`, corrected for all pairs and tasks."""
    bootstrap: Interval | None = None
    """The difference with its bootstrap interval, beside the other one; None where it is not tested."""


@dataclass(frozen=True)
class _Samples:
    """The values of both models in one metric, over the items that both were scored on."""

    base: Sequence[Sample]
    other: Sequence[Sample]


def compare(
    tables: Mapping[str, pa.Table], pairs: Sequence[Pair], averages: Averages | None = None, preferred: str = "acc"
) -> dict[Pair, dict[str, Gap | None]]:
    """Maps each pair to its differences in each metric of each named task or group, in their parts' accuracy, in the
    mean over tasks, and in the suites' `averages`; None where no item has a score of both models.

    `tables`: the items of each model. `preferred`: the kind of metric that is tested in each task that has it.
    """
    samples = {pair: _samples(tables[pair[0]], tables[pair[1]], averages) for pair in pairs}
    gaps = {pair: _gaps(pair_samples) for pair, pair_samples in samples.items()}
    tasks = {model: [*evaluation.named_tasks(table)] for model, table in tables.items()}
    tested = {pair: tested_metrics(gaps[pair], tasks[pair[0]], preferred) for pair in pairs}
    p_values: dict[tuple[Pair, str], float] = {}
    for pair, metrics in tested.items():
        for metric in metrics:
            gap, both = gaps[pair][metric], samples[pair][metric]
            if gap is not None and both is not None:
                p, test = _test(both)
                bootstrap = statistics.paired_bootstrap(both.base, both.other)
                gaps[pair][metric] = replace(gap, p=p, test=test, bootstrap=bootstrap)
                p_values[pair, metric] = p
    for (pair, metric), corrected in statistics.holm(p_values, ERROR).items():
        gap = gaps[pair][metric]
        assert gap is not None, "only differences that are known have a p-value"
        gaps[pair][metric] = replace(gap, p_corrected=corrected.p)
    return gaps


def differences(base: pa.Table, other: pa.Table, averages: Averages | None = None) -> dict[str, Gap | None]:
    """`compare` of a single pair."""
    return compare({"base": base, "other": other}, [("base", "other")], averages)["base", "other"]


def tested_metrics(names: Sequence[str] | Mapping[str, object], tasks: Sequence[str], preferred: str) -> list[str]:
    """One metric of each task: of the `preferred` kind, or else its accuracy, or else bits per byte, or else the first
    that it has; none of open instructions, whose answers are longer or shorter and not better for it. `names`: the
    metrics that there are."""
    tested = []
    for task in (task for task in tasks if task != evaluation.OPEN_INSTRUCTIONS):
        preferences = (f"{task}/{kind}" for kind in (preferred, "acc", "bpb"))
        task_metrics = [name for name in names if name.rpartition("/")[0] == task]
        if task_metrics:
            tested.append(next((name for name in preferences if name in task_metrics), task_metrics[0]))
    return tested


def _test(both: _Samples) -> tuple[float, Test]:
    """The p-value, and the test that gave it."""
    exact = statistics.mcnemar(both.base[0], both.other[0]) if len(both.base) == len(both.other) == 1 else None
    if exact is not None:
        return exact.p, "McNemar"
    pairs = zip(both.base, both.other, strict=True)
    return _student_p([{item: b[item] - a[item] for item in a.keys() & b.keys()} for a, b in pairs]), "Student"


def _student_p(gaps: Sequence[Sample]) -> float:
    """Two-sided p of no difference, by Student's paired test; where all gaps are equal, that of the sign test."""
    from scipy.special import stdtr

    mean = math.fsum(math.fsum(gap.values()) / len(gap) for gap in gaps) / len(gaps)
    error = statistics.mean_variance(gaps)
    if not mean or not error.degrees:
        return 1.0
    if error.value <= 0:
        return float(min(1.0, 2.0 ** (1 - sum(map(len, gaps)))))
    return float(2 * stdtr(error.degrees, -abs(mean) / math.sqrt(error.value)))


def _gaps(samples: Mapping[str, _Samples | None]) -> dict[str, Gap | None]:
    gaps: dict[str, Gap | None] = {}
    for name, both in samples.items():
        interval = None if both is None else statistics.paired_difference(both.base, both.other)
        gaps[name] = None if both is None or interval is None else Gap(interval, _num_items(both))
    return gaps


def _num_items(both: _Samples) -> int:
    return sum(len(base.keys() & other.keys()) for base, other in zip(both.base, both.other, strict=True))


def _samples(base: pa.Table, other: pa.Table, averages: Averages | None) -> dict[str, _Samples | None]:
    """The values of each metric that either model has; None where no item has a value of both."""
    names = [*evaluation.named_tasks(base)]
    all_items = [evaluation.Items(table, averages) for table in (base, other)]
    common = _scored_in_both(base, other)
    is_all = [table.num_rows for table in common] == [base.num_rows, other.num_rows]
    common_items = all_items if is_all else [evaluation.Items(table, averages) for table in common]
    metrics = dict.fromkeys(name for items in all_items for name in items.metric_names())
    tasks = [*names, evaluation.MEAN] if len(names) > 1 else names
    samples: dict[str, _Samples | None] = {}
    for name in [*(f"{task}/{metric}" for task in tasks for metric in metrics), *(averages or ())]:
        base_samples, other_samples = (items.samples(name) for items in common_items)
        # A task that no model has such a score of is left out.
        if base_samples or other_samples or any(items.samples(name) for items in all_items):
            samples[name] = _Samples(base_samples, other_samples) if base_samples and other_samples else None
    return samples


def _scored_in_both(base: pa.Table, other: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The items that were scored for both models. A cluster of items is one value in a difference, so an item that is
    too long for one model alone may not be in it."""
    keys = [
        [*zip(*(table.column(name).to_pylist() for name in ("task", "item")), strict=True)] for table in (base, other)
    ]
    scored = [
        {key for key, *left_out in zip(item_keys, *_left_out(table), strict=True) if not any(left_out)}
        for item_keys, table in zip(keys, (base, other), strict=True)
    ]
    common = scored[0] & scored[1]
    # With its type a mask may be empty, as it is where a model answered the suite win-rate alone.
    masks = [pa.array([key in common for key in item_keys], pa.bool_()) for item_keys in keys]
    return base.filter(masks[0]), other.filter(masks[1])


def _left_out(table: pa.Table) -> list[list[bool | None]]:
    """A list per reason to leave items out that is a column of the table: whether it holds for each item."""
    return [table.column(name).to_pylist() for name in ("too_long", "not_run") if name in table.column_names]
