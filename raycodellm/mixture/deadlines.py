"""Earliest deadline first over a stretch of positions, in many short lanes side by side.

A lane needs the counts at its start, which are guessed; the few lanes whose guess turns out wrong are worked out again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raycodellm.schedule import Schedule

ROUNDING = 1e-7
"""In sequences: sums of float64 weights over 1e8 positions are off by less."""
_NEVER = np.int32(2**31 - 1)


def granted_sequences(schedule: Schedule, num_sequences: int, start: int, stop: int) -> np.ndarray:
    """float64[sources, stop - start + 1]: sequences granted to each source before the positions start..stop."""
    granted = schedule.integral_between(start, stop, num_sequences)
    granted *= num_sequences
    return granted


@dataclass(frozen=True)
class _Windows:
    """The sequences that may be drawn in a stretch, source after source, those of one source in order."""

    release: np.ndarray
    """int32: first position (the stretch's first is 1) at which each may be drawn; `_NEVER` past the source's last."""
    urgency: np.ndarray
    """int32: deadline times the number of sources, plus the source; the least is drawn first."""
    first_place: np.ndarray
    """int64[sources]: place of each source's first sequence in `release` and `urgency`."""
    num_finished: np.ndarray
    """int64[sources]: sequences due before the stretch; the first one listed comes next."""


def _windows(schedule: Schedule, num_sequences: int, start: int, stop: int, num_spare: int) -> _Windows:
    """The windows of positions start..stop-1; `num_spare`: `_NEVER` entries after each source's last sequence."""
    granted = granted_sequences(schedule, num_sequences, start, stop)
    granted += ROUNDING
    num_due = np.floor(granted)
    granted -= 2 * ROUNDING
    num_allowed = np.ceil(granted, out=granted)
    open_sources = np.flatnonzero(num_allowed[:, -1] > num_due[:, -1])
    late_ranks = _late_deadlines(schedule, num_sequences, stop, open_sources, num_allowed[open_sources, -1])
    release: list[np.ndarray] = []
    urgency: list[np.ndarray] = []
    first_places = [0]
    num_sources = len(granted)
    for source in range(num_sources):
        released = np.flatnonzero(num_allowed[source, 1:] > num_allowed[source, :-1]) + 1
        if num_allowed[source, 0] > num_due[source, 0]:
            released = np.append(0, released)
        deadline = np.flatnonzero(num_due[source, 1:] > num_due[source, :-1]) + 1
        if source in late_ranks:
            deadline = np.append(deadline, stop - start + late_ranks[source])
        release += [released, np.full(num_spare, _NEVER)]
        urgency += [deadline * num_sources + source, np.full(num_spare, _NEVER)]
        first_places.append(first_places[-1] + len(released) + num_spare)
    return _Windows(
        np.concatenate(release, dtype=np.int32, casting="unsafe"),
        np.concatenate(urgency, dtype=np.int32, casting="unsafe"),
        np.array(first_places[:-1]),
        num_due[:, 0].astype(np.int64),
    )


def _late_deadlines(
    schedule: Schedule, num_sequences: int, stop: int, sources: np.ndarray, goal: np.ndarray
) -> dict[int, int]:
    """Rank by deadline, from 1, of each source's sequence that may be drawn before `stop` but is due later.

    `sources` have such a sequence, number `goal` of the source. A source's last, partial sequence has no deadline
    inside the stage: the source with the largest remainder comes first.
    """
    low, high = np.full(len(sources), stop), np.full(len(sources), num_sequences + 1)
    rows = np.arange(len(sources))
    while (high - low > 1).any():
        middle = (low + high) // 2
        granted = schedule.integral(np.minimum(middle, num_sequences) / num_sequences) * num_sequences
        is_reached = granted[rows, sources] >= goal - ROUNDING
        low, high = np.where(is_reached, low, middle), np.where(is_reached, middle, high)
    shortfall = goal - schedule.integral(1.0)[sources] * num_sequences
    remainder = np.where(high > num_sequences, np.round(shortfall * 1e6), 0)
    by_urgency = np.lexsort((sources, remainder, high))
    return {int(sources[index]): rank for rank, index in enumerate(by_urgency.tolist(), start=1)}


def earliest_deadline_first(
    schedule: Schedule, num_sequences: int, start: int, stop: int, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(int16[stop - start] sources, int64[sources] counts at `stop`), from the counts at `start`.

    Works in lanes of equal length side by side, from guessed counts at each lane's start. A lane that began with wrong
    counts runs again from the counts at the end of the lane before it, until all lanes fit together.
    """
    length = 1 << max(3, ((stop - start).bit_length() - 1) // 2)
    num_lanes = -(-(stop - start) // length)
    windows = _windows(schedule, num_sequences, start, stop, length + 1)
    begin = _guess_counts(schedule, num_sequences, windows, start, length, num_lanes)
    begin[:, 0] = counts - windows.num_finished
    order = np.empty((num_lanes, length), dtype=np.int16)
    end = np.empty_like(begin)
    lanes = np.arange(num_lanes)
    while len(lanes):
        order[lanes], end[:, lanes] = _run_lanes(windows, lanes * length, begin[:, lanes], length)
        wrong = np.flatnonzero((begin[:, 1:] != end[:, :-1]).any(axis=0)) + 1
        begin[:, wrong] = end[:, wrong - 1]
        lanes = wrong
    sources = order.reshape(-1)[: stop - start]
    return sources, counts + np.bincount(sources, minlength=len(counts))


def _guess_counts(
    schedule: Schedule, num_sequences: int, windows: _Windows, start: int, length: int, num_lanes: int
) -> np.ndarray:
    """int64[sources, lanes]: likely counts at each lane's start, less `windows.num_finished`: all sequences due, and
    others by urgency."""
    lane_starts = start + np.arange(num_lanes) * length
    granted = (schedule.integral(lane_starts / num_sequences) * num_sequences).T
    num_due = np.floor(granted + ROUNDING)
    num_extra = (lane_starts - num_due.sum(axis=0)).astype(np.int64)
    num_due = num_due.astype(np.int64) - windows.num_finished[:, None]
    urgency = windows.urgency[windows.first_place[:, None] + num_due]
    is_open = windows.release[windows.first_place[:, None] + num_due] <= lane_starts - start
    urgency = np.where(is_open, urgency, _NEVER)
    rank = np.argsort(np.argsort(urgency, axis=0, kind="stable"), axis=0)
    return num_due + (is_open & (rank < num_extra))


def _run_lanes(windows: _Windows, offset: np.ndarray, begin: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(int16[lanes, length] sources, int64[sources, lanes] counts at each lane's end).

    `offset`: positions of the stretch before each lane; `begin`: counts at each lane's start.
    """
    num_sources, num_lanes = begin.shape
    next_place = (windows.first_place[:, None] + begin).reshape(-1)
    release, urgency = windows.release[next_place], windows.urgency[next_place]
    by_source = release.reshape(begin.shape), urgency.reshape(begin.shape)
    lane = np.arange(num_lanes)
    order = np.empty((length, num_lanes), dtype=np.int16)
    position = offset.astype(np.int32)
    for step in range(length):
        position += 1
        source = np.where(by_source[0] <= position, by_source[1], _NEVER).min(axis=0) % num_sources
        order[step] = source
        cell = source * num_lanes + lane
        following = next_place[cell] + 1
        next_place[cell] = following
        release[cell] = windows.release[following]
        urgency[cell] = windows.urgency[following]
    return order.T, next_place.reshape(begin.shape) - windows.first_place[:, None]
