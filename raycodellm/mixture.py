"""The plan: which sequence of which source stands at position *i* of a stage's data. A pure function, never stored.

Position i belongs to one source. Let T_s(i) be the sequences that the schedule grants source s in the first i
positions, and C_s(i) those it has been given. The plan keeps floor(T_s(i)) <= C_s(i) <= ceil(T_s(i)) at every i:
every prefix is less than one sequence away from its schedule, for every source at once. Such an order always exists
(Tijdeman 1980, "The chairman assignment problem", Discrete Mathematics 32) and earliest deadline first finds
it: the k-th sequence of s may stand from the first position where T_s passes k-1, and must stand by the first
where T_s reaches k (Steiner and Yeomans 1993, "Level schedules for mixed-model, just-in-time processes").

What follows position i depends on i and C(i) alone. So a plan opens at any position whose counts are known (a
checkpoint holds them) at no cost, and a long stretch is worked out in many short lanes side by side: the counts at
each lane's start are guessed, and the few lanes whose guess turns out wrong are worked out again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from raycodellm.records import SourceSlice, StageJob
from raycodellm.schedule import Schedule, code_ratio_of

_ROUNDING = 1e-7  # sequences; sums of float64 weights over 1e8 positions are off by less
_BLOCK = 1 << 16
"""Positions worked out at a time where only the next ones are asked for; the ends of stretches are its multiples."""
_STRETCH = 1 << 18
"""Positions worked out at a time where many are asked for: some 50 MB of memory with five sources."""
_NEVER = np.int32(2**31 - 1)


@dataclass(frozen=True)
class PlanRows:
    """A block of the plan: equally long arrays."""

    position: np.ndarray
    """int64: place in the stage's data, 0 first."""
    source: np.ndarray
    """int16: index into the stage's sources."""
    sequence: np.ndarray
    """int64: sequence of that source's token store."""
    epoch: np.ndarray
    """int32: passes over the source finished before, in this stage and those before it."""

    def __len__(self) -> int:
        return len(self.position)


@dataclass(frozen=True)
class Plan:
    schedule: Schedule
    sources: tuple[SourceSlice, ...]
    num_sequences: int
    """Of the whole stage."""
    seed: int

    def rows(self, start: int, stop: int) -> PlanRows:
        """Positions start..stop-1; equal for equal arguments, however a stage is cut into blocks."""
        if not 0 <= start <= stop <= self.num_sequences:
            raise ValueError(f"rows {start}..{stop} are not inside a plan of {self.num_sequences} sequences")
        source = self._order.sources(start, stop)
        sequence = np.empty(stop - start, dtype=np.int64)
        epoch = np.empty(stop - start, dtype=np.int32)
        before = self.counts(start)
        for index, part in enumerate(self.sources):
            mine = np.flatnonzero(source == index)
            if len(mine):
                sequence[mine], epoch[mine] = self._draw(
                    part, part.num_sequences_consumed + int(before[index]), len(mine)
                )
        return PlanRows(np.arange(start, stop, dtype=np.int64), source, sequence, epoch)

    def _draw(self, part: SourceSlice, first: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(sequence, epoch) of the draws first..first+number-1 of a source, each epoch in an order of its own."""
        size = max(1, part.num_sequences)
        sequence = np.empty(number, dtype=np.int64)
        epoch = np.empty(number, dtype=np.int32)
        done = 0
        while done < number:
            passes, place = divmod(first + done, size)
            length = min(number - done, size - place)
            key = _key(self.seed, part.name, passes)
            sequence[done : done + length] = shuffled(place, place + length, size, key, part.shuffle_group_size)
            epoch[done : done + length] = passes
            done += length
        return sequence, epoch

    def counts(self, position: int) -> np.ndarray:
        """int64[sources]: sequences of each source among the first `position`."""
        return self._order.counts(position)

    def starting_at(self, position: int, counts: Sequence[int]) -> Plan:
        """This plan, ready to go on at `position`, where each source has been drawn `counts` times, without working
        out what comes before. Raises ValueError for counts that the plan cannot have there."""
        self._order.learn(position, np.asarray(counts, dtype=np.int64))
        return self

    def code_ratio(self, position: int) -> float:
        """What the schedule says at `position`."""
        curve = code_ratio_of(self.schedule, [source.is_code for source in self.sources])
        return float(curve(position / self.num_sequences))

    def code_ratio_until(self, position: int) -> float:
        """What the schedule says of all before `position` together."""
        if position == 0:
            return self.code_ratio(0)
        done = position / self.num_sequences
        return float(self.schedule.integral(done)[[source.is_code for source in self.sources]].sum() / done)

    @cached_property
    def _order(self) -> SourceOrder:
        return SourceOrder(self.schedule, self.num_sequences)


def plan(job: StageJob) -> Plan:
    """The plan of a stage's job; raises ValueError when a source that it draws from holds no whole sequence."""
    progress, weights = zip(*job.breakpoints, strict=True)
    made = Plan(Schedule(progress, weights, job.interpolation), job.sources, job.stage.num_sequences, job.seed)
    for place, source in enumerate(job.sources):
        if not source.num_sequences and any(row[place] for row in weights):
            raise ValueError(
                f"stage {job.stage.name!r}: source {source.name!r} holds no whole sequence of "
                f"{job.stage.sequence_length} tokens; use more data or a smaller sequence_length"
            )
    return made


def planned_by_phase(job: StageJob) -> list[list[int]]:
    """Sequences that each phase of the stage draws of each source: as the job says, else worked out."""
    if all(source.planned for source in job.sources):
        return [list(row) for row in zip(*(source.planned for source in job.sources), strict=True)]
    made = plan(job)
    edges = planned_sequences(made.schedule, made.num_sequences, job.phase_ends or (made.num_sequences,))
    return np.diff(edges, axis=0, prepend=[[0] * len(job.sources)]).tolist()


# ------------------------------------------------------------------------------------------ the order of sources


def source_order(schedule: Schedule, num_sequences: int) -> np.ndarray:
    """int16[num_sequences]: the source at each position of a stage."""
    return SourceOrder(schedule, num_sequences).sources(0, num_sequences)


def planned_sequences(schedule: Schedule, num_sequences: int, edges: Sequence[int]) -> list[list[int]]:
    """Sequences per source that a stage draws up to each of the positions `edges`."""
    order = SourceOrder(schedule, num_sequences)
    return [order.counts(edge).tolist() for edge in edges]


@dataclass
class SourceOrder:
    """The source at each position, worked out stretch by stretch from the nearest position with known counts."""

    schedule: Schedule
    num_sequences: int
    _known: dict[int, np.ndarray] = field(default_factory=dict)
    """Counts (int64[sources]) at the ends of the stretches worked out so far."""
    _stretches: dict[int, np.ndarray] = field(default_factory=dict)
    """The last two stretches, by their first position."""

    def __post_init__(self) -> None:
        self._known[0] = np.zeros(len(self.schedule.weights[0]), dtype=np.int64)

    def learn(self, position: int, counts: np.ndarray) -> None:
        granted = _granted(self.schedule, self.num_sequences, position, position)[:, 0]
        if counts.sum() != position or (np.abs(counts - granted) > 1.0 + _ROUNDING).any():
            raise ValueError(f"counts {counts.tolist()} are not the plan's at position {position}")
        self._known[position] = counts

    def counts(self, position: int) -> np.ndarray:
        if position not in self._known:
            begin, order = self._stretch(position - 1, position)
            counts = self._known[begin] + np.bincount(order[: position - begin], minlength=len(self._known[0]))
            return counts.astype(np.int64)
        return self._known[position]

    def sources(self, start: int, stop: int) -> np.ndarray:
        """int16[stop - start]"""
        found = np.empty(stop - start, dtype=np.int16)
        position = start
        while position < stop:
            begin, order = self._stretch(position, stop)
            piece = order[position - begin : stop - begin]
            found[position - start : position - start + len(piece)] = piece
            position += len(piece)
        return found

    def _stretch(self, position: int, stop: int) -> tuple[int, np.ndarray]:
        """(first position, sources) of a stretch that holds `position`; it goes on towards `stop`."""
        for begin, order in self._stretches.items():
            if begin <= position < begin + len(order):
                return begin, order
        while True:
            begin = max(known for known in self._known if known <= position)
            end = min(max(stop, begin + 1), begin + _STRETCH)
            end = min(-(-end // _BLOCK) * _BLOCK, self.num_sequences, *(k for k in self._known if k > begin))
            order, self._known[end] = _earliest_deadline_first(
                self.schedule, self.num_sequences, begin, end, self._known[begin]
            )
            if position < end:
                break
        for old in list(self._stretches)[:-1]:
            del self._stretches[old]
        self._stretches[begin] = order
        return begin, order


def _granted(schedule: Schedule, num_sequences: int, start: int, stop: int) -> np.ndarray:
    """float64[sources, stop - start + 1]: T_s at the positions start..stop."""
    granted = schedule.integral_between(start, stop, num_sequences)
    granted *= num_sequences
    return granted


@dataclass(frozen=True)
class _Windows:
    """The sequences that may be drawn in a stretch: source after source, each with its own in order."""

    release: np.ndarray
    """int32: first position (1 at the stretch's first) where it may stand; `_NEVER` past the source's last."""
    urgency: np.ndarray
    """int32: deadline times the number of sources, plus the source: less goes first."""
    first: np.ndarray
    """int64[sources]: where each source's begin."""
    finished: np.ndarray
    """int64[sources]: sequences that had to be drawn before the stretch; the first listed is the next one."""


def _windows(schedule: Schedule, num_sequences: int, start: int, stop: int, spare: int) -> _Windows:
    """`spare`: entries past each source's last that may be looked at."""
    granted = _granted(schedule, num_sequences, start, stop)
    granted += _ROUNDING
    due = np.floor(granted)
    granted -= 2 * _ROUNDING
    may = np.ceil(granted, out=granted)
    open_at_end = np.flatnonzero(may[:, -1] > due[:, -1])
    late = _late_deadlines(schedule, num_sequences, stop, open_at_end, may[open_at_end, -1])
    release: list[np.ndarray] = []
    urgency: list[np.ndarray] = []
    first = [0]
    num_sources = len(granted)
    for source in range(num_sources):
        released = np.flatnonzero(may[source, 1:] > may[source, :-1]) + 1
        if may[source, 0] > due[source, 0]:
            released = np.append(0, released)
        deadline = np.flatnonzero(due[source, 1:] > due[source, :-1]) + 1
        if source in late:
            deadline = np.append(deadline, stop - start + late[source])
        release += [released, np.full(spare, _NEVER)]
        urgency += [deadline * num_sources + source, np.full(spare, _NEVER)]
        first.append(first[-1] + len(released) + spare)
    return _Windows(
        np.concatenate(release, dtype=np.int32, casting="unsafe"),
        np.concatenate(urgency, dtype=np.int32, casting="unsafe"),
        np.array(first[:-1]),
        due[:, 0].astype(np.int64),
    )


def _late_deadlines(
    schedule: Schedule, num_sequences: int, stop: int, sources: np.ndarray, goal: np.ndarray
) -> dict[int, int]:
    """Rank (1 first) by deadline of the sequences that may be drawn before `stop` and need not be.

    The stage's last, partial sequences have no deadline inside it: the largest remainder goes first.
    """
    low, high = np.full(len(sources), stop), np.full(len(sources), num_sequences + 1)
    place = np.arange(len(sources))
    while (high - low > 1).any():
        middle = (low + high) // 2
        granted = schedule.integral(np.minimum(middle, num_sequences) / num_sequences) * num_sequences
        reached = granted[place, sources] >= goal - _ROUNDING
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    missing = goal - schedule.integral(1.0)[sources] * num_sequences
    remainder = np.where(high > num_sequences, np.round(missing * 1e6), 0)
    ordered = np.lexsort((sources, remainder, high))
    return {int(sources[index]): rank for rank, index in enumerate(ordered.tolist(), start=1)}


def _earliest_deadline_first(
    schedule: Schedule, num_sequences: int, start: int, stop: int, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(int16[stop - start] sources, int64[sources] counts at `stop`), from the counts at `start`.

    Worked out in lanes of equal length side by side, from guessed counts at each lane's start: all that is due and of
    the rest the most urgent. A lane that began wrong begins again where the one before it ended, until none did.
    """
    length = 1 << max(3, ((stop - start).bit_length() - 1) // 2)
    num_lanes = -(-(stop - start) // length)
    windows = _windows(schedule, num_sequences, start, stop, length + 1)
    begin = _guess(schedule, num_sequences, windows, start, length, num_lanes)
    begin[:, 0] = counts - windows.finished
    order = np.empty((num_lanes, length), dtype=np.int16)
    end = np.empty_like(begin)
    lanes = np.arange(num_lanes)
    while len(lanes):
        order[lanes], end[:, lanes] = _run_lanes(windows, lanes * length, begin[:, lanes], length)
        wrong = np.flatnonzero((begin[:, 1:] != end[:, :-1]).any(axis=0)) + 1
        begin[:, wrong] = end[:, wrong - 1]
        lanes = wrong
    found = order.reshape(-1)[: stop - start]
    return found, counts + np.bincount(found, minlength=len(counts))


def _guess(
    schedule: Schedule, num_sequences: int, windows: _Windows, start: int, length: int, num_lanes: int
) -> np.ndarray:
    """int64[sources, lanes]: likely counts at each lane's start, less those finished before the stretch."""
    at = start + np.arange(num_lanes) * length
    granted = (schedule.integral(at / num_sequences) * num_sequences).T
    due = np.floor(granted + _ROUNDING)
    more = (at - due.sum(axis=0)).astype(np.int64)
    due = due.astype(np.int64) - windows.finished[:, None]
    urgency = windows.urgency[windows.first[:, None] + due]
    open_ = windows.release[windows.first[:, None] + due] <= at - start
    urgency = np.where(open_, urgency, _NEVER)
    rank = np.argsort(np.argsort(urgency, axis=0, kind="stable"), axis=0)
    return due + (open_ & (rank < more))


def _run_lanes(windows: _Windows, offset: np.ndarray, begin: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(int16[lanes, length] sources, int64[sources, lanes] counts at each lane's end); `offset`: positions before."""
    num_sources, num_lanes = begin.shape
    next_ = (windows.first[:, None] + begin).reshape(-1)
    release, urgency = windows.release[next_], windows.urgency[next_]
    by_source = release.reshape(begin.shape), urgency.reshape(begin.shape)
    lane = np.arange(num_lanes)
    order = np.empty((length, num_lanes), dtype=np.int16)
    position = offset.astype(np.int32)
    for step in range(length):
        position += 1
        chosen = np.where(by_source[0] <= position, by_source[1], _NEVER).min(axis=0) % num_sources
        order[step] = chosen
        place = chosen * num_lanes + lane
        drawn = next_[place] + 1
        next_[place] = drawn
        release[place] = windows.release[drawn]
        urgency[place] = windows.urgency[drawn]
    return order.T, next_.reshape(begin.shape) - windows.first[:, None]


# --------------------------------------------------------------------------------------- the order inside a source


def _key(seed: int, source: str, epoch: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{source}/{epoch}".encode(), digest_size=16).digest(), "little")


def shuffled(start: int, stop: int, size: int, key: int, group: int = 1) -> np.ndarray:
    """int64[stop - start]: what stands at the places start..stop-1 of a shuffle of 0..size-1 chosen by `key`.

    Whole groups of `group` neighbours are shuffled, and stay together in order; `size` is a multiple of it.
    """
    if group == 1:
        return permute(np.arange(start, stop, dtype=np.int64), size, key)
    places = np.arange(start, stop, dtype=np.int64)
    return permute(places // group, size // group, key) * group + places % group


def permute(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """int64: where each of `places` (0..size-1) goes in a shuffle of `size` chosen by `key`.

    Every value is computed alone: multiplications by odd numbers and shifts, each of which permutes the numbers of as
    many bits as `size` needs, applied again until the value is inside (cycle walking: Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains").
    """
    bits = int(max(1, size - 1)).bit_length()
    word = np.uint32 if bits <= 32 else np.uint64  # processors multiply many 32-bit numbers at once
    rounds = [(word(factor), word(summand)) for factor, summand in _rounds(key, bits)]
    found = np.empty(len(places), dtype=np.int64)
    for first in range(0, len(found), _BLOCK):  # what the processor's cache holds
        part = places[first : first + _BLOCK].astype(word)
        _scramble(part, bits, rounds)
        outside = np.flatnonzero(part >= size)
        while len(outside):
            value = part[outside]
            _scramble(value, bits, rounds)
            part[outside] = value
            outside = outside[value >= size]
        found[first : first + _BLOCK] = part
    return found


_ROUNDS = 6


def _rounds(key: int, bits: int) -> list[tuple[int, int]]:
    """(odd factor, summand) of each round, `bits` wide."""
    stream = hashlib.shake_128(key.to_bytes(16, "little")).digest(16 * _ROUNDS)
    numbers = np.frombuffer(stream, dtype="<u8") & np.uint64((1 << bits) - 1)
    return [(int(numbers[2 * turn]) | 1, int(numbers[2 * turn + 1])) for turn in range(_ROUNDS)]


def _scramble(value: np.ndarray, bits: int, rounds: list[tuple[np.integer, np.integer]]) -> None:
    """In place, a permutation of 0..2^bits-1."""
    mask, shift = value.dtype.type((1 << bits) - 1), value.dtype.type(max(1, bits // 2))
    for factor, summand in rounds:
        value *= factor
        value += summand
        value &= mask
        value ^= value >> shift
