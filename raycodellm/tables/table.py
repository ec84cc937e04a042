"""A table as plain text cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Header and rows of cells, ready to be rendered."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Each row has as many cells as the header."""
    left: tuple[int, ...] = (0,)
    """Columns of words, which are aligned to the left; the other columns hold numbers."""
    is_first_best: bool = False
    """True if the first row is marked as the best."""

    def first(self, num_rows: int) -> Table:
        """The same table with at most `num_rows` rows."""
        return Table(self.header, self.rows[:num_rows], self.left, self.is_first_best)
