"""The points of `sampler: qmc`: a scrambled Sobol sequence, which fills the space more evenly than random points do.

The sequence is a function of the space and the sweep's seed, and a trial gets the first of its points that no arm has.
So a continued study goes on along the sequence, and a rebuilt one too. Optuna's QMCSampler (5.0) keeps its place in the
study instead: a rebuilt study has lost it, and a trial that is continued takes another place. It also draws the first
point at random, and every parameter that the first point lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from raycodellm.config import SweepFile
from raycodellm.search.space import coordinates, sample

_BLOCK = 8
"""Points are drawn 2 to this power at once."""
_FRUITLESS_BLOCKS = 4
"""Blocks without a new point after which a space of few points is taken to have no more."""


def space_filling(file: SweepFile) -> Iterator[dict[str, Any]]:
    """The points along the sweep's sequence by Optuna's keys, each once; ends where no new point comes."""
    from scipy.stats import qmc

    keys = coordinates(file)
    engine = qmc.Sobol(max(1, len(keys)), scramble=True, seed=file.example().seed)
    texts: set[str] = set()
    fruitless = 0
    while fruitless < _FRUITLESS_BLOCKS:
        fruitless += 1
        for row in engine.random(2**_BLOCK):
            sequence_point = _SequencePoint(dict(zip(keys, map(float, row), strict=False)))
            sample(file, sequence_point)
            if repr(sequence_point.point) not in texts:
                texts.add(repr(sequence_point.point))
                fruitless = 0
                yield sequence_point.point


class _SequencePoint:
    """A point of the sequence as an asker: each parameter has its own coordinate, a number from 0 to 1."""

    def __init__(self, shares: dict[str, float]) -> None:
        self._shares = shares
        self.point: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._keep(name, choices[min(len(choices) - 1, int(self._shares[name] * len(choices)))])

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return self._keep(name, min(high, low + int(self._shares[name] * (high - low + 1))))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        share = self._shares[name]
        value = low * (high / low) ** share if log else low + share * (high - low)
        return self._keep(name, min(high, max(low, value)))

    def _keep(self, name: str, value: Any) -> Any:
        self.point[name] = value
        return value
