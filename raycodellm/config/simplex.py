"""Whole mixtures as a search space: the weights of several sources, each within its bounds, which sum to 1.

A mixture of n free sources has n - 1 *units*, numbers from 0 to 1 that a sampler draws. Unit k gives weight k, given
the weights before it, by the inverse of that weight's survival function under the uniform distribution over all
mixtures within the bounds (Rosenblatt 1952, Remarks on a Multivariate Transformation). So independent uniform units
give uniform mixtures, and every mixture has its units. The survival function is a ratio of volumes of boxes cut by a
plane, which inclusion and exclusion of the boxes' corners gives in closed form. Survival, not distribution: a weight
near 1 has a unit near 0, where floats are dense.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from raycodellm.config.errors import shown

WHOLE = 1_000_000
"""Weights are whole numbers of millionths, so that they add up to 1 on every machine."""
_MOST_CORNERS = 20_000


@dataclass(frozen=True)
class Simplex:
    """All mixtures of `sources` within their bounds. Weights and bounds are counted in millionths."""

    name: str
    """Path of the weights in the sweep file, for example `pretrain.weights`."""
    sources: tuple[str, ...]
    """In the order of the file."""
    lows: tuple[int, ...]
    highs: tuple[int, ...]
    """The bounds that a mixture can reach: no low is below what the other sources' highs leave, nor a high above."""

    @property
    def names(self) -> tuple[str, ...]:
        """The sources' parameters: `pretrain.weights.books`."""
        return tuple(f"{self.name}.{source}" for source in self.sources)

    @property
    def with_unit(self) -> tuple[int, ...]:
        """Places of the sources that have a unit: all that are free but the last, which gets the rest."""
        return tuple(place for place, width in enumerate(self._widths) if width)[:-1]

    def weights(self, units: Sequence[float]) -> tuple[float, ...]:
        """The mixture of these units, one per source of `with_unit`."""
        excesses, unit_at = [0] * len(self.sources), dict(zip(self.with_unit, units, strict=True))
        for place, width in enumerate(self._widths):
            least, most = self._range(excesses[:place])
            if place in unit_at:
                excesses[place] = self._quantile(place, least, most, sum(excesses[:place]), unit_at[place])
            else:  # fixed, or the last free source, to which the others leave one value
                excesses[place] = most if width else 0
        return tuple((low + excess) / WHOLE for low, excess in zip(self.lows, excesses, strict=True))

    def units(self, weights: Sequence[float]) -> tuple[float, ...]:
        """The units of a mixture. Raises ValueError for weights outside the bounds, or that do not add up to 1."""
        excesses = [round(weight * WHOLE) - low for weight, low in zip(weights, self.lows, strict=True)]
        inside = all(0 <= excess <= width for excess, width in zip(excesses, self._widths, strict=True))
        if sum(excesses) != self._room or not inside:
            raise ValueError(f"{self.name}: {list(weights)} is no mixture within the bounds")
        units = []
        for place in self.with_unit:
            least, most = self._range(excesses[:place])
            remaining = self._room - sum(excesses[:place])
            volume = _volume_below(self._widths[place + 1 :])
            volume_of_range = volume(remaining - least) - volume(remaining - most)
            share = (
                (volume(remaining - excesses[place]) - volume(remaining - most)) / volume_of_range
                if volume_of_range > 0
                else 0.5
            )
            units.append(min(1.0, max(0.0, share)))
        return tuple(units)

    def as_sampled(self, weights: Sequence[float]) -> tuple[float, ...]:
        """The mixture that a sampler gives for the units of `weights`: the same, unless these are so near to a corner
        that floats do not tell them from their neighbours. Raises ValueError as `units` does."""
        total, rounded = 0.0, []
        for weight in weights:  # sums are rounded, not weights, so that the rounded weights add up to 1
            rounded.append(round((total + weight) * WHOLE) - round(total * WHOLE))
            total += weight
        sampled = self.weights(
            self.units([min(max(weight, low), high) / WHOLE for weight, low, high in self._rows(rounded)])
        )
        return self.weights(self.units(sampled))

    def completed(self, given_weights: Mapping[str, float]) -> dict[str, float]:
        """A mixture with `given_weights`, as near as the bounds allow; the other sources share the rest in
        proportion to their free ranges."""
        order = sorted(range(len(self.sources)), key=lambda place: self.sources[place] not in given_weights)
        free_width, remaining, weights = sum(self._widths), self._room, {}
        for place in order:
            width, source = self._widths[place], self.sources[place]
            free_width -= width
            target = remaining * width / max(1, free_width + width)
            if source in given_weights:
                target = given_weights[source] * WHOLE - self.lows[place]
            excess = round(min(width, remaining, max(0, remaining - free_width, target)))
            remaining -= excess
            weights[source] = (self.lows[place] + excess) / WHOLE
        return {source: weights[source] for source in self.sources}

    @property
    def _widths(self) -> tuple[int, ...]:
        return tuple(high - low for low, high in zip(self.lows, self.highs, strict=True))

    @property
    def _room(self) -> int:
        """Sum of the weights above their lows."""
        return WHOLE - sum(self.lows)

    def _rows(self, millionths: Sequence[int]) -> list[tuple[int, int, int]]:
        return list(zip(millionths, self.lows, self.highs, strict=True))

    def _range(self, earlier: Sequence[int]) -> tuple[int, int]:
        """Least and most of the next source above its low, given those before it."""
        place, remaining = len(earlier), self._room - sum(earlier)
        return max(0, remaining - sum(self._widths[place + 1 :])), min(self._widths[place], remaining)

    def _quantile(self, place: int, least: int, most: int, sum_before: int, unit: float) -> int:
        """The value above the low that a share of `unit` of all mixtures exceeds, given what the sources before use."""
        volume, remaining = _volume_below(self._widths[place + 1 :]), self._room - sum_before
        outside = volume(remaining - most)
        target = unit * (volume(remaining - least) - outside)
        low, high = float(least), float(most)
        while high - low > 1e-3:
            middle = (low + high) / 2
            low, high = (middle, high) if volume(remaining - middle) - outside > target else (low, middle)
        return min(most, max(least, round((low + high) / 2)))


@lru_cache(maxsize=1_000)
def _volume_below(widths: tuple[int, ...]) -> Callable[[float], float]:
    """A function of y, in millionths: m! times the volume of the points x of the box 0 <= x_j <= widths_j of m free
    sources whose sum is at most y."""
    free_widths = tuple(width for width in widths if width)
    total = sum(free_widths) / WHOLE
    full_volume = math.factorial(len(free_widths)) * math.prod(width / WHOLE for width in free_widths)
    corners = sorted((corner / WHOLE, count) for corner, count in _corners(free_widths).items())

    def corner_sum(y: float) -> float:
        corners_below = itertools.takewhile(lambda item: item[0] < y, corners)
        return math.fsum(count * (y - corner) ** len(free_widths) for corner, count in corners_below)

    def volume(millionths: float) -> float:
        y = max(0.0, millionths / WHOLE)
        # The nearer end of the box is taken: there the corners' volumes cancel least.
        return corner_sum(y) if y <= total / 2 else full_volume - corner_sum(max(0.0, total - y))

    return volume


@lru_cache(maxsize=1_000)
def _corners(widths: tuple[int, ...]) -> dict[int, int]:
    """Sum of a set of the widths -> how many even sets have it, less how many odd ones; sums below 1 only.

    Raises ValueError where there are too many sums.
    """
    counts = {0: 1}
    for width in widths:
        for corner, count in list(counts.items()):
            if corner + width < WHOLE:
                counts[corner + width] = counts.get(corner + width, 0) - count
        if len(counts) > _MOST_CORNERS:
            raise ValueError("has too many different bounds; give several sources the same bounds")
    return counts


def read_simplex(name: str, bounds: Any) -> Simplex:
    """The simplex of `{source: [low, high], ...}` at the path `name`. Raises ValueError with what would work."""
    if not isinstance(bounds, dict) or not all(isinstance(source, str) for source in bounds):
        raise ValueError(f"simplex holds {shown(bounds)}; give each source its bounds, {{books: [0, 1], code: [0, 1]}}")
    if len(bounds) < 2:
        raise ValueError(f"simplex names {len(bounds)} of the sources; give at least two that share the tokens")
    for source, pair in bounds.items():
        if not _are_bounds(pair):
            raise ValueError(f"simplex.{source} holds {shown(pair)}; give two numbers from 0 to 1, the lower first")
    lows = [round(low * WHOLE) for low, _ in bounds.values()]
    highs = [round(high * WHOLE) for _, high in bounds.values()]
    if sum(lows) > WHOLE:
        raise ValueError(f"the lower bounds add up to {sum(lows) / WHOLE:g}; make them add up to at most 1")
    if sum(highs) < WHOLE:
        raise ValueError(f"the upper bounds add up to {sum(highs) / WHOLE:g}; make them add up to at least 1")
    reached_lows = [max(low, WHOLE - sum(highs) + high) for low, high in zip(lows, highs, strict=True)]
    reached_highs = [min(high, WHOLE - sum(lows) + low) for low, high in zip(lows, highs, strict=True)]
    if reached_lows == reached_highs:
        raise ValueError("the bounds leave one mixture only; widen them, or write the weights without a search")
    simplex = Simplex(name, tuple(bounds), tuple(reached_lows), tuple(reached_highs))
    simplex.weights([0.5] * len(simplex.with_unit))  # refuses bounds that take too long
    return simplex


def _are_bounds(pair: Any) -> bool:
    if not isinstance(pair, list) or len(pair) != 2:
        return False
    if any(isinstance(bound, bool) or not isinstance(bound, (int, float)) for bound in pair):
        return False
    return 0 <= pair[0] <= pair[1] <= 1
