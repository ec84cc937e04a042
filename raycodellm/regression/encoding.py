"""Parameters of arms as numbers: amounts as they are or scaled, choices one-hot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycodellm.config import Domain, SweepFile
from raycodellm.regression.forms import Array

Point = Mapping[str, Any]
"""Parameter name -> value."""


@dataclass(frozen=True)
class Column:
    """One column of the matrix."""

    name: str
    """The parameter's name."""
    domain: Domain
    option: Any = None
    """The option of a choice that the column is 1 for; None for a number."""
    is_presence: bool = False
    """True for the column that says whether an arm has the parameter."""

    @property
    def is_amount(self) -> bool:
        """True for a number, of which the root is a feature too."""
        return self.option is None and not self.is_presence

    def of(self, point: Point) -> float:
        """The column's entry for one arm; 0 where the arm lacks the parameter."""
        value = point.get(self.name)
        if self.is_presence:
            return float(value is not None)
        if value is None:
            return 0.0
        if self.option is not None:
            return float(value == self.option or str(value) == str(self.option))
        return _scaled(self.domain, float(value))


def _scaled(domain: Domain, value: float) -> float:
    """A weight as it is; another number by its place in its range, from 0 to 1, in logarithms if so sampled."""
    if domain.kind == "simplex":
        return value
    low, high = (min(domain.options), max(domain.options)) if domain.kind == "choice" else (domain.low, domain.high)
    if domain.kind == "loguniform":
        return math.log(value / low) / math.log(high / low)
    if low >= 0 and high <= 1:  # a ratio: its root counts from no token on
        return value
    return (value - low) / (high - low)


@dataclass(frozen=True)
class Encoding:
    """The columns of a sweep's search space."""

    columns: tuple[Column, ...]

    @staticmethod
    def of(file: SweepFile, points: Sequence[Point]) -> Encoding:
        """The columns in which `points` differ. A choice among numbers is a number."""
        columns: list[Column] = []
        for name, domain in file.domains.items():
            is_number = domain.kind != "choice" or all(map(_is_number, domain.options))
            if is_number:
                columns.append(Column(name, domain))
            else:
                columns += [Column(name, domain, option) for option in domain.options]
            if is_number and any(point.get(name) is None for point in points):
                columns.append(Column(name, domain, is_presence=True))
        differing = [column for column in columns if len({column.of(point) for point in points}) > 1]
        return Encoding(tuple(differing))

    def matrix(self, points: Sequence[Point]) -> Array:
        """Shape (points, columns)."""
        rows = [[column.of(point) for column in self.columns] for point in points]
        return np.array(rows, dtype=float).reshape(len(points), len(self.columns))

    @property
    def is_amount(self) -> Array:
        return np.array([column.is_amount for column in self.columns], dtype=bool)

    @property
    def num_free(self) -> int:
        """Columns that may be chosen freely: a mixture's weights, and the options of a choice, are one fewer."""
        mixtures = {column.domain.simplex for column in self.columns if column.domain.simplex is not None}
        choices = {column.name for column in self.columns if column.option is not None}
        return len(self.columns) - len(mixtures) - len(choices)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
