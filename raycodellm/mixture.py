"""The plan: which sequence of which source stands at position *i* of a stage's data. A pure function, never stored.

Position i belongs to one source. Let T_s(i) be the sequences that the schedule grants source s in the first i
positions, and C_s(i) those it has been given. The plan keeps floor(T_s(i)) <= C_s(i) <= ceil(T_s(i)) at every i:
every prefix is less than one sequence away from its schedule, for every source at once. Such an order always exists
(Tijdeman 1980, "The chairman assignment problem", Discrete Mathematics 32) and earliest deadline first finds
it: the k-th sequence of s may stand from the first position where T_s passes k-1, and must stand by the first
where T_s reaches k (Steiner and Yeomans 1993, "Level schedules for mixed-model, just-in-time processes").
"""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raycodellm.records import SourceSlice, StageJob
from raycodellm.schedule import Schedule, code_ratio_of

_ROUNDING = 1e-7  # sequences; sums of float64 weights over 1e8 positions are off by less


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
        source = self._order[start:stop]
        sequence = np.empty(stop - start, dtype=np.int64)
        epoch = np.empty(stop - start, dtype=np.int32)
        before = self.counts(start)
        for index, part in enumerate(self.sources):
            mine = np.flatnonzero(source == index)
            drawn = part.start + before[index] + np.arange(len(mine))
            passes, place = np.divmod(drawn, max(1, part.num_sequences))
            epoch[mine] = passes
            for number in np.unique(passes):
                of_pass = passes == number
                key = _key(self.seed, part.name, int(number))
                sequence[mine[of_pass]] = permute(place[of_pass], part.num_sequences, key)
        return PlanRows(np.arange(start, stop, dtype=np.int64), source, sequence, epoch)

    def counts(self, position: int) -> np.ndarray:
        """int64[sources]: sequences of each source among the first `position`."""
        return np.bincount(self._order[:position], minlength=len(self.sources)).astype(np.int64)

    def code_ratio(self, position: int) -> float:
        """Planned code ratio at `position`."""
        curve = code_ratio_of(self.schedule, [source.is_code for source in self.sources])
        return float(curve(position / self.num_sequences))

    @cached_property
    def _order(self) -> np.ndarray:
        return source_order(self.schedule, self.num_sequences)


def plan(job: StageJob) -> Plan:
    """The plan of a stage's job; raises ValueError when a source that it draws from holds no whole sequence."""
    progress, weights = zip(*job.breakpoints, strict=True)
    made = Plan(Schedule(progress, weights, job.interpolation), job.sources, job.stage.num_sequences, job.seed)
    for source, drawn in zip(job.sources, made.counts(made.num_sequences), strict=True):
        if drawn and not source.num_sequences:
            raise ValueError(
                f"stage {job.stage.name!r}: source {source.name!r} holds no whole sequence of "
                f"{job.stage.sequence_length} tokens; use more data or a smaller sequence_length"
            )
    return made


def source_order(schedule: Schedule, num_sequences: int) -> np.ndarray:
    """int16[num_sequences]: the source at each position, by earliest deadline first."""
    granted = schedule.integral(np.arange(num_sequences + 1) / num_sequences) * num_sequences
    release, deadline, owner = _windows(granted)
    by_release = np.lexsort((owner, deadline, release))
    order = np.empty(num_sequences, dtype=np.int16)
    waiting: list[tuple[int, int]] = []
    rows = zip(release[by_release].tolist(), deadline[by_release].tolist(), owner[by_release].tolist(), strict=True)
    upcoming = next(rows, None)
    for position in range(1, num_sequences + 1):
        # The second condition fills a position that rounding left without a released sequence.
        while upcoming is not None and (upcoming[0] <= position or not waiting):
            heapq.heappush(waiting, upcoming[1:])
            upcoming = next(rows, None)
        order[position - 1] = heapq.heappop(waiting)[1]
    return order


def _windows(granted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last position (1-based) and source of every sequence that may be drawn."""
    num_sequences = len(granted) - 1
    parts = []
    for source in range(granted.shape[1]):
        curve = granted[:, source]
        most = int(np.ceil(curve[-1] - _ROUNDING))
        numbers = np.arange(1, most + 1)
        release = np.searchsorted(curve, numbers - 1 + _ROUNDING, side="right")
        # The last, partial sequence has no deadline inside the stage: the largest remainder goes first.
        deadline = np.searchsorted(curve, numbers - _ROUNDING, side="left")
        late = deadline > num_sequences
        deadline[late] = num_sequences + 1 + np.round((most - curve[-1]) * 1e6).astype(np.int64)
        parts.append((np.maximum(release, 1), deadline, np.full(most, source)))
    release, deadline, owner = (np.concatenate(column) for column in zip(*parts, strict=True))
    return release, deadline, owner


def _key(seed: int, source: str, epoch: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{source}/{epoch}".encode(), digest_size=8).digest(), "little")


def permute(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """int64: where each of `places` (0..size-1) goes in a shuffle of `size` chosen by `key`.

    Four Feistel rounds on the smallest even number of bits that holds `size`, walked until inside: a permutation whose
    every value is computed alone (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    if size <= 1:
        return np.zeros(len(places), dtype=np.int64)
    half = max(1, (int(size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    found = np.asarray(places, dtype=np.uint64)
    outside = np.arange(len(found))
    while len(outside):
        value = found[outside]
        left, right = value >> shift, value & mask
        for turn in range(4):
            left, right = right, left ^ (_mix(right, key + turn) & mask)
        found[outside] = (left << shift) | right
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)


def _mix(value: np.ndarray, key: int) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014) over value and key."""
    with np.errstate(over="ignore"):
        mixed = value + np.uint64((key * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def planned_sequences(schedule: Schedule, num_sequences: int) -> list[int]:
    """Sequences per source that the whole stage draws."""
    return np.bincount(source_order(schedule, num_sequences), minlength=len(schedule.weights[0])).tolist()
