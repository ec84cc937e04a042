"""The plan of a stage's data: position i -> (source, sequence, epoch). A pure function of the job, never stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raycodellm.mixture.order import SourceOrder, planned_sequences
from raycodellm.mixture.shuffle import epoch_key, shuffled
from raycodellm.records import SourceSlice, StageJob
from raycodellm.schedule import Schedule, code_ratio_of


@dataclass(frozen=True)
class PlanRows:
    """Some positions of the plan: arrays of one length."""

    position: np.ndarray
    """int64: place in the stage's data, from 0."""
    source: np.ndarray
    """int16: index into the stage's sources."""
    sequence: np.ndarray
    """int64: number of the sequence in that source's token store."""
    epoch: np.ndarray
    """int32: passes over the source that were finished before, in this stage and the stages before it."""

    def __len__(self) -> int:
        return len(self.position)


@dataclass(frozen=True)
class Plan:
    """The sequence at every position of a stage's data; equal for equal fields."""

    schedule: Schedule
    sources: tuple[SourceSlice, ...]
    num_sequences: int
    """Sequences of the whole stage."""
    seed: int

    def rows(self, start: int, stop: int) -> PlanRows:
        """The rows of positions start..stop-1, the same however a stage is cut into blocks.

        Raises ValueError for positions outside the plan.
        """
        if not 0 <= start <= stop <= self.num_sequences:
            raise ValueError(f"rows {start}..{stop} are not inside a plan of {self.num_sequences} sequences")
        source = self._order.sources(start, stop)
        sequence = np.empty(stop - start, dtype=np.int64)
        epoch = np.empty(stop - start, dtype=np.int32)
        counts_before = self.counts(start)
        for index, source_slice in enumerate(self.sources):
            places = np.flatnonzero(source == index)
            if len(places):
                sequence[places], epoch[places] = self._draw(
                    source_slice, source_slice.num_sequences_consumed + int(counts_before[index]), len(places)
                )
        return PlanRows(np.arange(start, stop, dtype=np.int64), source, sequence, epoch)

    def _draw(self, source_slice: SourceSlice, first: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(sequence, epoch) of the draws first..first+number-1 of a source; each epoch has its own order."""
        size = max(1, source_slice.num_sequences)
        sequence = np.empty(number, dtype=np.int64)
        epoch = np.empty(number, dtype=np.int32)
        num_drawn = 0
        while num_drawn < number:
            passes, place = divmod(first + num_drawn, size)
            length = min(number - num_drawn, size - place)
            key = epoch_key(self.seed, source_slice.name, passes)
            draws = slice(num_drawn, num_drawn + length)
            sequence[draws] = shuffled(place, place + length, size, key, source_slice.shuffle_group_size)
            epoch[draws] = passes
            num_drawn += length
        return sequence, epoch

    def counts(self, position: int) -> np.ndarray:
        """int64[sources]: sequences of each source before `position`."""
        return self._order.counts(position)

    def starting_at(self, position: int, counts: Sequence[int]) -> Plan:
        """This plan, ready to continue at `position` without working out the positions before.

        `counts`: sequences drawn of each source before `position`. Raises ValueError for counts that the plan cannot
        have there.
        """
        self._order.learn(position, np.asarray(counts, dtype=np.int64))
        return self

    def code_ratio(self, position: int) -> float:
        """The scheduled code ratio at `position`."""
        curve = code_ratio_of(self.schedule, [source.is_code for source in self.sources])
        return float(curve(position / self.num_sequences))

    def code_ratio_until(self, position: int) -> float:
        """The scheduled code ratio of all data before `position`; at position 0, that of the first."""
        if position == 0:
            return self.code_ratio(0)
        progress = position / self.num_sequences
        return float(self.schedule.integral(progress)[[source.is_code for source in self.sources]].sum() / progress)

    @cached_property
    def _order(self) -> SourceOrder:
        return SourceOrder(self.schedule, self.num_sequences)


def make_plan(job: StageJob) -> Plan:
    """The plan of a stage's job. Raises ValueError when a source that the stage draws from holds no whole sequence."""
    progress, weights = zip(*job.breakpoints, strict=True)
    schedule = Schedule(progress, weights, job.interpolation)
    for place, source in enumerate(job.sources):
        if not source.num_sequences and any(row[place] for row in weights):
            raise ValueError(
                f"stage {job.stage.name!r}: source {source.name!r} holds no whole sequence of "
                f"{job.stage.sequence_length} tokens; use more data or a smaller sequence_length"
            )
    return Plan(schedule, job.sources, job.stage.num_sequences, job.seed)


def planned_by_phase(job: StageJob) -> list[list[int]]:
    """Sequences that each phase of the stage draws of each source: the job's own numbers, or else worked out."""
    if all(source.planned for source in job.sources):
        return [list(row) for row in zip(*(source.planned for source in job.sources), strict=True)]
    plan = make_plan(job)
    edges = planned_sequences(plan.schedule, plan.num_sequences, job.phase_ends or (plan.num_sequences,))
    return np.diff(edges, axis=0, prepend=[[0] * len(job.sources)]).tolist()
