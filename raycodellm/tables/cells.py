"""Cells of numbers: the text that `formats` gives, with the number to sort by."""

from __future__ import annotations

from typing import Any

from raycodellm.tables import formats
from raycodellm.tables.table import Cell


def score(value: float | None, kind: str = "") -> Cell:
    return Cell(formats.score(value), value, kind)


def value(setting: Any) -> Cell:
    """A parameter's value; a number is sorted as one."""
    is_number = isinstance(setting, (int, float)) and not isinstance(setting, bool)
    return Cell(formats.value(setting), float(setting) if is_number else None)


def count(number: float | None) -> Cell:
    """A number of tokens in three digits."""
    return Cell(formats.count(number) if number else formats.NOTHING, number or 0.0)


def whole(number: int) -> Cell:
    """A whole number with its thousands set apart."""
    return Cell(f"{number:,}", number)


def seconds(number: float | None) -> Cell:
    """A duration."""
    return Cell(formats.seconds(number) if number else formats.NOTHING, number or 0.0)
