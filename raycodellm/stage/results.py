"""The results of a stage that is trained to its end: its model, ledger, metrics and record."""

from __future__ import annotations

import math

from raycodellm.engine import StorageError, gather
from raycodellm.files import Folder
from raycodellm.finished import OPTIMIZER
from raycodellm.records import LedgerRow, StageJob, StageRecord
from raycodellm.stage import metrics
from raycodellm.stage.checkpoints import StageCheckpoints, with_whole_checksum
from raycodellm.stage.folder import CHECKPOINTS
from raycodellm.stage.metrics import Tally, ratio
from raycodellm.stage.setup import StageSetup


def finish(
    setup: StageSetup, tally: Tally, checkpoints: StageCheckpoints, finished_record: StageRecord | None
) -> StageRecord:
    """Leaves the stage's results in its folder, DONE last; returns the record, the same on all ranks.

    `finished_record`: that of a stage that had already finished, and was trained again for its optimizer state; only
    that state is then written. Raises StorageError on all ranks alike.
    """
    job, world, folder = setup.job, setup.world, setup.folder
    checkpoints.complete()
    if job.keep_optimizer:
        setup.engine.checkpoints.save_optimizer(folder / OPTIMIZER)
    tally = with_whole_checksum(tally, world)
    record = finished_record or gather(world, record_of(job, tally, world.world_size, metrics.ledger(job, tally)))[0]
    error: OSError | None = None
    try:
        if finished_record is None:
            _leave_model(setup)
        if world.rank == 0:
            if finished_record is None:
                folder.leave_results(job, record, tally.rows, setup.details)
            folder.delete(CHECKPOINTS)
    except OSError as caught:
        error = caught
    # No rank goes on to another job, or takes this one for done, before rank 0 has written all.
    problem = gather(world, None if error is None else str(error))[0]
    if problem is not None:
        raise StorageError(f"the results of stage {job.key} could not be written: {problem}") from error
    return record


def _leave_model(setup: StageSetup) -> None:
    weights = setup.engine.whole_weights()
    if setup.world.rank == 0:
        tokenizer = Folder(setup.job.tokenizer)
        setup.folder.leave_model(lambda directory: setup.engine.export(directory, weights, tokenizer))


def record_of(job: StageJob, tally: Tally, num_devices: int, ledger: tuple[LedgerRow, ...]) -> StageRecord:
    """The record of a stage that has come as far as the tally says."""
    return StageRecord(
        identity=job.identity,
        name=job.stage.name,
        num_steps=tally.step,
        num_tokens=sum(row.tokens for row in ledger),
        final_loss=ratio(*tally.last_loss),
        wall_seconds=tally.wall_seconds,
        device_seconds=tally.wall_seconds * num_devices,
        order_checksum=f"{tally.checksum:016x}",
        resumed_at=tuple(tally.resumed_at),
        ledger=ledger,
        skipped_steps=tally.skipped_steps,
        held_out_bpb=_last_held_out_bpb(job, tally),
        trunk_steps=tally.trunk_steps,
        trunk_tokens=tally.trunk_tokens,
        trunk_seconds=tally.trunk_seconds * num_devices,
        trunk_by=tally.trunk_by,
        trained_by=job.sweep,
    )


def _last_held_out_bpb(job: StageJob, tally: Tally) -> dict[str, float]:
    """Bits per byte of held-out text after the last row of metrics, of each source that has any."""
    last_row = tally.rows[-1] if tally.rows else {}
    bits_per_byte = {source.name: last_row.get(f"bpb/{source.name}", float("nan")) for source in job.sources}
    return {name: value for name, value in bits_per_byte.items() if math.isfinite(value)}
