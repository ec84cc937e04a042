"""The number of seeds or items that would tell a difference of the size seen, at the noise seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from raycodellm.statistics.differences import Difference
from raycodellm.statistics.intervals import Variance

MOST_SEEDS, MOST_ITEMS = 1_000, 10_000_000
"""Numbers beyond which no more are tried."""


def power(difference: Difference, alpha: float = 0.05) -> float:
    """Probability that new data as noisy as these tell a true difference of this size, and its direction, at the error
    `alpha`; NaN while the seeds' noise is unknown.

    Student's noncentral t beyond the half-width that `Difference.half_width` expects: exact where seeds are all the
    noise, else with Satterthwaite's degrees of freedom for the sum of the variances of seeds and items.
    """
    error = difference.standard_error
    if not difference.is_known:
        return math.nan
    if error == 0:
        return float(difference.value != 0)
    from scipy.special import chdtr, nctdtr

    items_alone = max(difference.items.value - difference.both, 0.0)
    parts = [difference.seeds, Variance(items_alone, difference.items.degrees)]
    spread = sum(part.value**2 / part.degrees for part in parts if part.degrees)
    degrees = sum(part.value for part in parts if part.degrees) ** 2 / spread if spread else difference.items.degrees
    quantile, shift = difference.half_width(alpha) / error, abs(difference.value) / error
    probability = 1.0 - float(nctdtr(degrees, shift, quantile))
    # scipy gives NaN far from the centre, where the numerator's own noise is nothing beside the denominator's.
    return float(chdtr(degrees, degrees * (shift / quantile) ** 2)) if math.isnan(probability) else probability


def seeds_to_tell(
    difference: Difference, alpha: float = 0.05, target_power: float = 0.8, at_most: int = MOST_SEEDS
) -> int | None:
    """Fewest seeds per arm, over the same items, that tell the difference seen with probability `target_power`.

    `alpha`: the error at which it will be tested, such as the `level` of a correction. None while the noise is unknown,
    and where not even `at_most` seeds would tell: the difference is too small for these items, or for any number.
    """
    if not difference.is_known or difference.num_seeds < 1:
        return None
    num_seeds, degrees = difference.num_seeds, difference.seeds.degrees

    def with_seeds(number: int) -> Difference:
        # Noise pooled over other arms has more degrees of freedom than (now - 1); each further seed adds as many again.
        grown_degrees = degrees * (number - 1) / (num_seeds - 1) if num_seeds > 1 else degrees + (number - num_seeds)
        seeds = Variance(difference.seeds.value * num_seeds / number, grown_degrees)
        both = difference.both * num_seeds / number
        items = difference.items._replace(value=difference.items.value - difference.both + both)
        return replace(difference, seeds=seeds, items=items, both=both, num_seeds=number)

    return _fewest(lambda number: power(with_seeds(number), alpha) >= target_power, 2, at_most)


def items_to_tell(
    difference: Difference, alpha: float = 0.05, target_power: float = 0.8, at_most: int = MOST_ITEMS
) -> int | None:
    """Fewest items (or clusters of items), with the same seeds, that tell the difference seen with probability
    `target_power`.

    While the seeds' noise is unknown it is taken as none: so many items are needed at least. None where the items are
    not known, or where not even `at_most` items would tell: the seeds' noise is too large.
    """
    num_items = difference.num_items
    if num_items < 1 or not difference.items.degrees:
        return None

    def with_items(number: int) -> Difference:
        share = num_items / number
        items = Variance(difference.items.value * share, difference.items.degrees / share)
        seeds = difference.seeds
        if seeds.degrees:
            seeds = seeds._replace(value=max(seeds.value - difference.both * (1 - share), 0.0))
        else:
            seeds = Variance(0.0, math.inf)
        return replace(difference, seeds=seeds, items=items, both=difference.both * share, num_items=number)

    return _fewest(lambda number: power(with_items(number), alpha) >= target_power, 2, at_most)


def _fewest(tells: Callable[[int], bool], least: int, most: int) -> int | None:
    """The least number from `least` to `most` that tells, if more always tell where fewer do; None without one."""
    if not tells(most):
        return None
    low, high = least - 1, least
    while high < most and not tells(high):
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if tells(middle) else (middle, high)
    return high
