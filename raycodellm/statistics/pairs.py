"""Two models on the same items: an exact test of their shares right, and a bootstrap of any mean's difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from raycodellm.statistics.intervals import Interval, paired_difference
from raycodellm.statistics.samples import Sample, share_an_item

RESAMPLES = 2_000
_BATCH = 1_000_000
"""Resampled values held at once."""


class McNemar(NamedTuple):
    """McNemar's exact test of two models that answered the same items."""

    only_base: int
    """Items that `base` alone answered right."""
    only_other: int
    p: float
    """Two-sided, exact: binomial over the items that exactly one of both answered right; 1 without such an item."""


def mcnemar(base: Sample, other: Sample) -> McNemar | None:
    """McNemar's exact test over the items that both have; None where a value is neither 0 nor 1 (such as the mean of a
    cluster: its items depend on each other, which this test does not know), or no item is in both."""
    items = base.keys() & other.keys()
    if not items or any(sample[item] not in (0, 1) for sample in (base, other) for item in items):
        return None
    from scipy.stats import binomtest

    only_base = sum(base[item] > other[item] for item in items)
    only_other = sum(base[item] < other[item] for item in items)
    discordant = only_base + only_other
    return McNemar(only_base, only_other, float(binomtest(only_base, discordant).pvalue) if discordant else 1.0)


def paired_bootstrap(
    base: Sequence[Sample],
    other: Sequence[Sample],
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Mean of `other` minus mean of `base`, unweighted over the samples, each over the items that both have.

    Items are resampled inside each sample, as pairs; an item that stands for a cluster is resampled as a whole. Samples
    that share items are resampled together. The interval is BCa's (Efron 1987); where all differences are
    equal, it is that of `paired_difference`. None where `paired_difference` is None.
    """
    plain_interval = paired_difference(base, other)
    if plain_interval is None:
        return None
    pairs = zip(base, other, strict=True)
    gaps = [{item: b[item] - a[item] for item in sorted(a.keys() & b.keys())} for a, b in pairs]
    if all(len(set(gap.values())) == 1 for gap in gaps):
        return plain_interval
    from scipy.stats import bootstrap

    result = bootstrap(
        *_data_and_statistic(gaps),
        vectorized=True,
        n_resamples=resamples,
        confidence_level=level,
        batch=max(1, _BATCH // sum(map(len, gaps))),
        rng=np.random.default_rng(seed),
    )
    low, high = (float(end) for end in result.confidence_interval)
    return Interval(plain_interval.value, low, high)


def _data_and_statistic(gaps: Sequence[Sample]) -> tuple[tuple[np.ndarray, ...], Callable[..., np.ndarray]]:
    """The data that scipy resamples, and the statistic: the unweighted mean of the samples' means."""
    if not any(share_an_item(one, other) for place, one in enumerate(gaps) for other in gaps[:place]):
        return tuple(np.array([*gap.values()]) for gap in gaps), _mean_of_means
    items = sorted({item for gap in gaps for item in gap})
    values = np.array([[gap.get(item, np.nan) for item in items] for gap in gaps])
    return (np.arange(len(items)),), lambda chosen, axis: np.nanmean(values[:, chosen], axis=axis).mean(axis=0)


def _mean_of_means(*samples: np.ndarray, axis: int) -> np.ndarray:
    return np.mean([sample.mean(axis=axis) for sample in samples], axis=0)
