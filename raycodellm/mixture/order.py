"""The source at each position of a stage, worked out stretch by stretch.

Let T_s(i) be the sequences that the schedule grants source s in the first i positions, and C_s(i) the sequences that
the order gives it. The order keeps floor(T_s(i)) <= C_s(i) <= ceil(T_s(i)) at every i: every prefix is less than one
sequence away from its schedule, for all sources at once. Such an order always exists (Tijdeman 1980, "The chairman
assignment problem", Discrete Mathematics 32), and earliest deadline first finds it: the k-th sequence of s may be drawn
from the first position where T_s passes k-1, and must be drawn by the first position where T_s reaches k (Steiner and
Yeomans 1993, "Level schedules for mixed-model, just-in-time processes").

The order after position i depends on i and C(i) alone. So it opens at any position whose counts are known, as a
checkpoint holds them, at no cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from raycodellm.mixture.deadlines import ROUNDING, earliest_deadline_first, granted_sequences
from raycodellm.schedule import Schedule

_BLOCK = 1 << 16
"""Positions worked out at a time when only the next ones are asked for; stretches end at multiples of this number."""
_ENDLESS = 1 << 27
"""Sequences of a stage without end, over the most that a stage may have. As a power of two it divides positions without
rounding."""
_MOST_COMPARED = 1 << 24
"""Positions in which a stage is compared with the endless one: 5 s."""
_STRETCH = 1 << 18
"""Positions worked out at a time when many are asked for: some 50 MB of memory with five sources."""


def planned_sequences(schedule: Schedule, num_sequences: int, edges: Sequence[int]) -> list[list[int]]:
    """Sequences per source that a stage draws before each of the positions `edges`."""
    order = SourceOrder(schedule, num_sequences)
    return [order.counts(edge).tolist() for edge in edges]


def rounded_sequences(schedule: Schedule, num_sequences: int, edges: Sequence[int]) -> list[list[int]]:
    """`planned_sequences` by rounding each source's share: up to one sequence off, and at once for any number."""
    shares = schedule.integral(np.asarray(edges) / num_sequences)
    return np.rint(shares * num_sequences).astype(np.int64).tolist()


def endless_positions(schedule: Schedule, num_sequences: int) -> int:
    """Leading positions of a stage of constant weights at which the order of sources is that of a stage without end.

    All of them but a few: near the stage's end a source's last, partial sequence has no deadline, and comes earlier or
    later than it would if the stage went on. Two stages of the same weights have the same order as far as both follow
    the endless one. Works out both orders, 0.3 µs per position, of at most `_MOST_COMPARED` positions.
    """
    if len(schedule.weights[0]) == 1:
        return num_sequences
    order, endless = SourceOrder(schedule, num_sequences), SourceOrder(schedule, _ENDLESS)
    end = min(num_sequences, _MOST_COMPARED)
    for start in range(0, end, _STRETCH):
        stop = min(start + _STRETCH, end)
        differing = np.flatnonzero(order.sources(start, stop) != endless.sources(start, stop))
        if len(differing):
            return start + int(differing[0])
    return end


@dataclass
class SourceOrder:
    """The source at each position of a stage of `num_sequences`, from the nearest position with known counts on."""

    schedule: Schedule
    num_sequences: int
    _known_counts: dict[int, np.ndarray] = field(default_factory=dict)
    """int64[sources] by position: counts at the start, at learnt positions and at the ends of stretches."""
    _stretches: dict[int, np.ndarray] = field(default_factory=dict)
    """int16[positions]: the sources of the last two stretches, by their first position."""

    def __post_init__(self) -> None:
        self._known_counts[0] = np.zeros(len(self.schedule.weights[0]), dtype=np.int64)

    def learn(self, position: int, counts: np.ndarray) -> None:
        """Takes the counts at `position` as known. Raises ValueError for counts that the plan cannot have there."""
        granted = granted_sequences(self.schedule, self.num_sequences, position, position)[:, 0]
        if counts.sum() != position or (np.abs(counts - granted) > 1.0 + ROUNDING).any():
            raise ValueError(f"counts {counts.tolist()} are not the plan's at position {position}")
        self._known_counts[position] = counts

    def counts(self, position: int) -> np.ndarray:
        """int64[sources]: sequences of each source before `position`."""
        if position not in self._known_counts:
            self._learn_whole_counts(position)
        if position not in self._known_counts:
            begin, order = self._stretch(position - 1, position)
            drawn = np.bincount(order[: position - begin], minlength=len(self._known_counts[0]))
            return (self._known_counts[begin] + drawn).astype(np.int64)
        return self._known_counts[position]

    def _learn_whole_counts(self, position: int) -> None:
        """Learns the counts at the last position up to `position`, and near it, where the schedule grants each source a
        whole number of sequences: the order has no choice there. So a constant mixture of 0.9 and 0.1 is worked out
        from the last multiple of ten on, not from the stage's start."""
        start = max(0, position - _BLOCK)
        granted = granted_sequences(self.schedule, self.num_sequences, start, position)
        counts = np.round(granted)
        whole_places = np.flatnonzero((np.abs(granted - counts) <= ROUNDING).all(axis=0))
        if len(whole_places):
            self._known_counts.setdefault(start + int(whole_places[-1]), counts[:, whole_places[-1]].astype(np.int64))

    def sources(self, start: int, stop: int) -> np.ndarray:
        """int16[stop - start]: the source at each of the positions start..stop-1."""
        sources = np.empty(stop - start, dtype=np.int16)
        position = start
        while position < stop:
            begin, order = self._stretch(position, stop)
            piece = order[position - begin : stop - begin]
            sources[position - start : position - start + len(piece)] = piece
            position += len(piece)
        return sources

    def _stretch(self, position: int, stop: int) -> tuple[int, np.ndarray]:
        """(first position, sources) of a stretch that holds `position` and reaches towards `stop`."""
        for begin, order in self._stretches.items():
            if begin <= position < begin + len(order):
                return begin, order
        while True:
            begin = max(known for known in self._known_counts if known <= position)
            end = min(max(stop, begin + 1), begin + _STRETCH)
            end = min(-(-end // _BLOCK) * _BLOCK, self.num_sequences, *(k for k in self._known_counts if k > begin))
            order, self._known_counts[end] = earliest_deadline_first(
                self.schedule, self.num_sequences, begin, end, self._known_counts[begin]
            )
            if position < end:
                break
        for old_start in list(self._stretches)[:-1]:
            del self._stretches[old_start]
        self._stretches[begin] = order
        return begin, order
