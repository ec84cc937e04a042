"""Writes numbers of arms for people."""

from __future__ import annotations

from collections.abc import Iterable


def in_ranges(numbers: Iterable[int]) -> str:
    """`0–5, 7` for 0, 1, 2, 3, 4, 5, 7: each number once, in order."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
