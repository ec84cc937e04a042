"""A table as plain text cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class Cell(str):
    """A cell's text, with the number by which a page sorts the cell, and the kind by which a page marks it."""

    number: float | None
    kind: str

    def __new__(cls, text: str, number: float | None = None, kind: str = "") -> Cell:
        """`number`: None or NaN where the cell is sorted by its text."""
        cell = super().__new__(cls, text)
        cell.number = None if number is None or math.isnan(number) else number
        cell.kind = kind
        return cell


@dataclass(frozen=True)
class Table:
    """Header and rows of cells, ready to be rendered."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Each row has as many cells as the header. A `Cell` among them can be sorted by its number."""
    left: tuple[int, ...] = (0,)
    """Columns of words, which are aligned to the left; the other columns hold numbers."""
    is_first_best: bool = False
    """True if the first row is marked as the best."""
    kind: ClassVar[str] = "table"

    def first(self, num_rows: int) -> Table:
        """The same table with at most `num_rows` rows."""
        return Table(self.header, self.rows[:num_rows], self.left, self.is_first_best)
