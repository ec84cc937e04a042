"""How sure one can be: intervals of shares and means, and differences over the same evaluation items. All at 95 %."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import pyarrow as pa

Interval = tuple[float, float, float]
"""Value, and the low and high end of its 95 % interval."""

Z95 = statistics.NormalDist().inv_cdf(0.975)


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a share: `correct` of `n`. Never outside 0 to 1, and never of no width, also at 0 and at `n`."""
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} right of {n} is not a share")
    share, z2 = correct / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At the ends the formula gives the end itself up to rounding.
    return (0.0 if correct == 0 else middle - half), (1.0 if correct == n else middle + half)


def student_quantile(degrees: float) -> float:
    """97.5 % quantile of Student's t."""
    if degrees <= 0:
        raise ValueError(f"{degrees} degrees of freedom; more than 0 are needed")
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and its 95 % interval by Student's t. One value says nothing of its spread: the interval is infinite."""
    if not values:
        raise ValueError("there is no mean of no values")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, -math.inf, math.inf
    half = student_quantile(len(values) - 1) * math.sqrt(statistics.variance(values, mean) / len(values))
    return mean, mean - half, mean + half


def mean_of_intervals(intervals: Sequence[Interval]) -> Interval:
    """Unweighted mean of independent estimates; each side's distances add up in squares: lopsided intervals stay so."""
    n = len(intervals)
    mean = math.fsum(value for value, _, _ in intervals) / n
    below = math.hypot(*(value - low for value, low, _ in intervals)) / n
    above = math.hypot(*(high - value for value, _, high in intervals)) / n
    return mean, mean - below, mean + above


def paired_difference(items_a: pa.Table, items_b: pa.Table, task: str, column: str) -> Interval:
    """Mean of `column` in b minus in a, over the items of `task` scored in both, with its 95 % interval (Student).

    `column` is `correct` or `bits_per_byte`. Pairing takes out how hard the items are, which two intervals keep.
    """
    rows_a, rows_b = (
        {
            row["item"]: (row["doc_hash"], float(row[column]))
            for row in table.select(["task", "item", "doc_hash", column]).to_pylist()
            if row["task"] == task and row[column] is not None
        }
        for table in (items_a, items_b)
    )
    both = sorted(rows_a.keys() & rows_b.keys())
    if not both:
        raise ValueError(f"no item of task {task!r} has {column} in both tables")
    for item in both:
        if rows_a[item][0] != rows_b[item][0]:
            raise ValueError(f"item {item} of task {task!r} is not the same in both tables; they cannot be compared")
    return mean_interval([rows_b[item][1] - rows_a[item][1] for item in both])
