"""The records of a stage on its way: as it stood at the rungs of early stopping, where it was stopped, where it failed,
and after the steps that other stages of its trunk take over.

The stage's folder keeps these records, so that trials with equal stages, and drivers after this one, find the same
value at a rung, where the first measurement stands, and count the tokens of a stage that never ended.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from raycodellm import storage_files
from raycodellm.engine import StorageError, gather
from raycodellm.records import StageRecord, as_json
from raycodellm.stage import metrics, results
from raycodellm.stage.checkpoints import with_whole_checksum
from raycodellm.stage.metrics import Tally
from raycodellm.stage.setup import StageSetup

OnRung = Callable[[int, StageRecord], bool]
"""Is told on rank 0 of each rung, by its step and the stage's record until there; answers whether to give the stage
up: then no checkpoint is saved."""


class SoFar:
    """Keeps the stage's records at its rungs; every method but `is_due` is a collective."""

    def __init__(self, setup: StageSetup, on_rung: OnRung) -> None:
        self._setup, self._on_rung = setup, on_rung

    def is_due(self, step: int) -> bool:
        """True if the stage reaches a rung with its first `step` steps."""
        return step in self._setup.job.rungs

    def catch_up(self, tally: Tally) -> bool:
        """Reaches the rungs among the steps that the stage took over from another stage of its trunk, which measured
        there; returns whether to give the stage up. A rung that nobody has measured is left out.

        The record at such a rung counts what the stage had consumed when it took over.
        """
        rows = {int(row["step"]): row for row in tally.rows}
        inherited = [step for step in self._setup.job.rungs if step <= tally.step and step in rows]
        inherited = inherited if tally.trunk_steps else []
        return any(self.reach(replace(tally, rows=[rows[step]]), step) for step in inherited)

    def reach(self, tally: Tally, step: int | None = None) -> bool:
        """Keeps the record at a rung that was just measured, and tells of it; returns whether to give the stage up.
        `step`: of the rung, where it is not the tally's.

        Raises StorageError on all ranks alike.
        """
        step = tally.step if step is None else step
        record = self._keep_record(tally, step)
        is_given_up = record is not None and self._on_rung(step, record)
        return gather(self._setup.world, is_given_up)[0]

    def stop(self, tally: Tally) -> None:
        """Keeps the record of a stage that stops here: perhaps early stopping ends it for good.

        Raises StorageError on all ranks alike.
        """
        if self._setup.job.rungs:
            self._keep_record(tally, tally.step)

    def keep_for_branches(self, tally: Tally) -> None:
        """Keeps the record after steps that other stages of the trunk take over: should this one fail, they are counted
        here. Raises StorageError on all ranks alike."""
        trunk = self._setup.job.trunk
        if trunk is not None and tally.step in trunk.kept_steps:
            self._keep_record(tally, tally.step)

    def fail(self, tally: Tally) -> None:
        """Keeps the record of a stage that fails here by an error of all ranks, if the storage takes it."""
        with contextlib.suppress(StorageError):
            self._keep_record(tally, tally.step)

    def _keep_record(self, tally: Tally, at_step: int) -> StageRecord | None:
        """The record at a step as it is kept; None on other ranks than 0."""
        summed = with_whole_checksum(tally, self._setup.world)
        record, error = None, None
        if self._setup.world.rank == 0:
            try:
                kept_records = read(self._setup)
                record = kept_records.get(at_step)
                if record is None or not record.held_out_bpb:
                    record = _record_at(self._setup, summed, at_step)
                    records = {str(step): as_json(kept) for step, kept in {**kept_records, at_step: record}.items()}
                    self._setup.folder.write_json(storage_files.SO_FAR, records)
            except OSError as caught:
                error = caught
        problem = gather(self._setup.world, None if error is None else str(error))[0]
        if problem is not None:
            raise StorageError(f"stage {self._setup.job.key} cannot keep how far it is: {problem}") from error
        return record


def read(setup: StageSetup) -> Mapping[int, StageRecord]:
    """The records that are kept, by their steps; none of a file that is damaged."""
    return storage_files.attempt(lambda: storage_files.read_so_far(setup.folder), lambda line: None, {})


def _record_at(setup: StageSetup, tally: Tally, at_step: int) -> StageRecord:
    """The record of the stage until here, its plan too. The loss is that of the newest row of metrics; held-out text is
    in it if that row measured it at `at_step`."""
    position = setup.position(tally)
    edges = [setup.plan.counts(min(end, position)).tolist() for end in setup.phase_ends]
    starts = [[0] * len(edges[0]), *edges[:-1]]
    planned = [
        [end - start for start, end in zip(phase_start, phase_end, strict=True)]
        for phase_start, phase_end in zip(starts, edges, strict=True)
    ]
    ledger = metrics.ledger(setup.job, tally, planned)
    record = results.record_of(setup.job, tally, setup.world.world_size, ledger)
    newest = tally.rows[-1] if tally.rows else {"step": -1, "loss": math.nan}
    held_out_bpb = record.held_out_bpb if newest["step"] == at_step else {}
    return replace(record, final_loss=newest["loss"], held_out_bpb=held_out_bpb)
