"""Predictions for points that were not run: the score along one parameter, and how two parameters act together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from raycodellm.config import Domain, SweepFile
from raycodellm.regression.encoding import Encoding, Point
from raycodellm.regression.forms import Array
from raycodellm.regression.measured import MeasuredArm, seed_spread
from raycodellm.regression.posterior import Band, Posterior
from raycodellm.regression.space_points import RandomAsker
from raycodellm.regression.suggestion import arms_needed
from raycodellm.search.space import is_relevant, sample, sampling_order

LEVEL = 0.95
_PLACES = 25
"""Points along a curve of numbers."""
_MOST_ARMS = 300
"""Arms that are fitted: the work grows with their third power."""
_SPREAD_OVER = 24
"""Random points of the space that an interaction is the mean over."""
_MOST_PAIRS = 15
_WITHIN_HALF = (0.25, 0.75)
"""Places within a half of the range that stand for the half."""


@dataclass(frozen=True)
class Curve:
    """The predicted score along one parameter, all others held."""

    name: str
    values: tuple[Any, ...]
    """The parameter's values, in order."""
    band: Band
    """One per value: the surface with its pointwise 95 % interval, without noise."""


Words = tuple[str, str, str, str, str, str]
"""The first six fields of an `Interaction`."""


class Interaction(NamedTuple):
    """How the effect of one parameter depends on another."""

    one: str
    other: str
    one_from: str
    one_to: str
    other_from: str
    other_to: str
    """The values that are compared, in words: options, or halves of a range."""
    value: float
    """Effect of `one` at `other_to`, less that at `other_from`."""
    low: float
    high: float
    """Ends of the interval, which holds for all interactions of the sweep at once."""

    @property
    def is_told(self) -> bool:
        return self.low > 0 or self.high < 0


_Levels = tuple[list[Any], list[Any]]
"""Two sets of values of a parameter, each of which is averaged over."""


@dataclass(frozen=True)
class WhatIf:
    """A sweep's surface."""

    file: SweepFile
    encoding: Encoding
    posterior: Posterior
    num_arms: int
    """Arms that were fitted."""
    knows_seeds: bool
    """True if an arm has a second seed: else the noise is what neighbours do not share."""

    @staticmethod
    def of(file: SweepFile, arms: Sequence[MeasuredArm]) -> WhatIf | int:
        """The surface of the first objective; the number of arms that it needs where there are fewer.

        More than 300 arms are thinned, evenly along their numbers.
        """
        encoding = Encoding.of(file, [arm.params for arm in arms])
        needed = arms_needed(encoding)
        if len(arms) < needed or not encoding.columns:
            return needed
        fitted = [arms[place] for place in sorted(set(np.linspace(0, len(arms) - 1, _MOST_ARMS).round().astype(int)))]
        posterior = Posterior.of(
            encoding.matrix([arm.params for arm in fitted]),
            np.array([arm.score for arm in fitted]),
            encoding.is_amount,
            np.array([len(arm.by_seed) for arm in fitted], dtype=float),
            seed_spread(fitted),
        )
        return WhatIf(file, encoding, posterior, len(fitted), any(len(arm.by_seed) > 1 for arm in fitted))

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in which the arms differ, in the order of the sweep file."""
        return tuple(dict.fromkeys(column.name for column in self.encoding.columns))

    def curve(self, name: str, base: Point) -> Curve | None:
        """The score along `name` with all else as in `base`; None where `base` lacks it, or less than two values can
        stand there. A weight of a mixture takes from the others, or gives to them, in proportion; a parameter without
        effect in `base` that gets one is as in the reference, or the first option."""
        if base.get(name) is None:
            return None
        points = [(value, self._whole_point_with(base, name, value)) for value in _values(self.file.domains[name])]
        whole = [(value, point) for value, point in points if point is not None]
        if len(whole) < 2:
            return None
        band = self.posterior.band(self.encoding.matrix([point for _, point in whole]), level=LEVEL)
        return Curve(name, tuple(value for value, _ in whole), band)

    def _whole_point_with(self, base: Point, name: str, value: Any) -> dict[str, Any] | None:
        """`base` with another value; None where the space has no such point, or the parameter no effect in it."""
        whole = self._whole_point(self._changed_point(base, name, value))
        return whole if whole is not None and name in whole else None

    def _changed_point(self, base: Point | None, name: str, value: Any) -> dict[str, Any] | None:
        """`base` with another value, whatever else that decides. A weight of a mixture takes from the others, or gives
        to them, in proportion; None where one of them would leave its bounds."""
        if base is None:
            return None
        point = {**base, name: value}
        simplex = self.file.domains[name].simplex
        if simplex is None:
            return point
        other_share = 1.0 - float(base[name])
        others = [other for other in simplex.names if other != name]
        share = (1.0 - value) / other_share if other_share > 0 else 0.0
        point |= {other: share * float(base[other]) for other in others}
        if other_share <= 0:
            point |= {other: (1.0 - value) / len(others) for other in others}
        domains = self.file.domains
        inside = all(
            domains[weight].low - 1e-9 <= point[weight] <= domains[weight].high + 1e-9 for weight in simplex.names
        )
        return point if inside else None

    def _whole_point(self, point: Point | None) -> dict[str, Any] | None:
        """The point as a trial has it; None where a parameter has no value.

        Parameters that have no effect in it are left out. One that has an effect, and no value in the point, such as
        the schedule where code begins, is as in the reference; without a reference it is the first option.
        """
        if point is None:
            return None
        values = {**self._defaults, **{name: value for name, value in point.items() if value is not None}}
        whole: dict[str, Any] = {}
        for parameter in sampling_order(self.file):
            if is_relevant(self.file, parameter, whole):
                if parameter.name not in values:
                    return None
                whole[parameter.name] = values[parameter.name]
        return whole

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        """The reference's values as the sweep file has them, and the first options of choices that depend on no other
        choice."""
        plain = [
            parameter
            for parameter in self.file.parameters
            if parameter.conditions == ((),) and parameter.domain.kind == "choice"
        ]
        return {**{parameter.name: parameter.domain.options[0] for parameter in plain}, **(self.file.reference() or {})}

    def interactions(self) -> list[Interaction]:
        """The interactions of each two parameters, the clearest first; a parameter that depends on another choice is
        left out, and so are two weights of one mixture, of which one cannot change with the other held.

        Of numbers the upper half of the range is compared with the lower, of a choice each option with the first. A
        weight takes from its mixture's others in proportion. The others are averaged over the whole space.
        """
        always = [parameter.name for parameter in self.file.parameters if parameter.conditions == ((),)]
        plain = [name for name in self.names if name in always]
        pairs = [pair for pair in itertools.combinations(plain, 2) if not self._are_of_one_mixture(*pair)][:_MOST_PAIRS]
        rng = np.random.default_rng(0)
        points = [sample(self.file, RandomAsker(rng, at_an_end=0.0)) for _ in range(_SPREAD_OVER)]
        contrasts = [contrast for pair in pairs for contrast in self._contrasts(*pair, points)]
        if not contrasts:
            return []
        level = 1 - (1 - LEVEL) / len(contrasts)
        interactions = []
        for words, rows, weights in contrasts:
            band = self.posterior.band(rows, weights[None, :], level)
            interactions.append(Interaction(*words, float(band.value[0]), float(band.low[0]), float(band.high[0])))
        return sorted(
            interactions,
            key=lambda interaction: -abs(interaction.value) / max(interaction.high - interaction.low, 1e-12),
        )

    def _contrasts(self, one: str, other: str, points: Sequence[Mapping[str, Any]]) -> list[tuple[Words, Array, Array]]:
        """(names and words, rows, weights) of each difference of differences of two parameters."""
        one_levels, other_levels = _levels(self.file.domains[one]), _levels(self.file.domains[other])
        contrasts: list[tuple[Words, Array, Array]] = []
        for (from_word, low), (to_word, high) in ((one_levels[0], level) for level in one_levels[1:]):
            for (other_from, below), (other_to, above) in ((other_levels[0], level) for level in other_levels[1:]):
                words: Words = (one, other, from_word, to_word, other_from, other_to)
                rows, weights = self._corners(one, other, (low, high), (below, above), points)
                if rows:
                    contrasts.append((words, self.encoding.matrix(rows), np.array(weights)))
        return contrasts

    def _corners(
        self, one: str, other: str, one_levels: _Levels, other_levels: _Levels, points: Sequence[Point]
    ) -> tuple[list[Point], list[float]]:
        """The points, with their weights, whose weighted sum is the difference of differences; without those of
        `points` of which the space lacks one of the corners."""
        rows: list[Point] = []
        weights: list[float] = []
        num_whole = 0
        for point in points:
            corners: list[Point | None] = []
            signs: list[float] = []
            for values, sign in zip(one_levels, (-1.0, 1.0), strict=True):
                for others, other_sign in zip(other_levels, (-1.0, 1.0), strict=True):
                    pairs = itertools.product(values, others)
                    corner_points = [
                        self._whole_point(self._changed_point(self._changed_point(point, one, a), other, b))
                        for a, b in pairs
                    ]
                    corners += corner_points
                    signs += [sign * other_sign / len(corner_points)] * len(corner_points)
            whole = [corner for corner in corners if corner is not None]
            if len(whole) == len(corners):
                rows, weights, num_whole = rows + whole, weights + signs, num_whole + 1
        return rows, [weight / num_whole for weight in weights]

    def _are_of_one_mixture(self, one: str, other: str) -> bool:
        simplex = self.file.domains[one].simplex
        return simplex is not None and simplex == self.file.domains[other].simplex


def _values(domain: Domain) -> list[Any]:
    """Values along a domain."""
    if domain.kind == "choice":
        return list(domain.options)
    if domain.kind == "int":
        return sorted({round(value) for value in np.linspace(domain.low, domain.high, _PLACES)})
    if domain.kind == "loguniform":
        return [float(value) for value in np.geomspace(domain.low, domain.high, _PLACES)]
    return [float(value) for value in np.linspace(domain.low, domain.high, _PLACES)]


def _levels(domain: Domain) -> list[tuple[str, list[Any]]]:
    """(words, values): the options of a choice, or the lower and the upper half of a range."""
    if domain.kind == "choice":
        return [(str(option), [option]) for option in domain.options]

    def at(share: float) -> float | int:
        if domain.kind == "loguniform":
            return float(domain.low * (domain.high / domain.low) ** share)
        value = domain.low + share * (domain.high - domain.low)
        return round(value) if domain.kind == "int" else float(value)

    middle = f"{at(0.5):.3g}"
    halves = ((f"below {middle}", 0.0), (f"above {middle}", 0.5))
    return [(words, sorted({at(start + place / 2) for place in _WITHIN_HALF})) for words, start in halves]
