"""Sets a stage up for training: its token stores, its micro batch, its model under the engine, its first stage.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from raycodellm import engine as engines
from raycodellm import ingest
from raycodellm import model as models
from raycodellm.engine import Engine, StorageError, World
from raycodellm.files import Folder
from raycodellm.mixture import Plan
from raycodellm.records import StageJob, as_json
from raycodellm.stage import faults
from raycodellm.stage.folder import StageFolder
from raycodellm.stage.held_out import HeldOut, StageTokenStore
from raycodellm.stage.metrics import Tally
from raycodellm.stage.progress import ProgressReporter
from raycodellm.storage_files import attempt


@dataclass(frozen=True)
class StageSetup:
    """All that a stage's training uses and does not replace."""

    job: StageJob
    world: World
    folder: StageFolder
    plan: Plan
    stores: list[StageTokenStore]
    """The token stores of the job's sources, in their order."""
    engine: Engine
    held_out: HeldOut
    micro_batch: int | None
    """Sequences per forward pass; None for a worker's whole share of a step."""
    details: dict[str, Any]
    """Entries of stage.json besides the job and the record."""
    flops_per_token: float
    peak_flops: float
    """Peak FLOP/s of all workers' devices together."""

    @property
    def phase_ends(self) -> tuple[int, ...]:
        """Position, in sequences, where each phase of the stage ends."""
        return self.job.phase_ends or (self.plan.num_sequences,)

    def position(self, tally: Tally) -> int:
        """Sequences of the plan that have been drawn."""
        return tally.step * self.job.stage.batch_sequences


def set_up(job: StageJob, world: World, plan: Plan, progress: ProgressReporter, is_finished: bool) -> StageSetup:
    """Opens the stores, begins the stage's folder and builds the model and its engine. A collective.

    `is_finished`: the stage's results exist and stay as they are. Raises UserError for settings that cannot work,
    StorageError on all ranks alike where the folder cannot be written.
    """
    folder, stores = StageFolder(job.folder), open_stores(job)
    build = _model_builder(job, stores)
    micro_batch = _find_micro_batch(job, world, folder, build, progress)
    details = {}
    if job.scaling.deepspeed.micro_batch == "auto" and not is_finished:
        details["micro_batch"] = {"sequences": micro_batch, **_micro_batch_conditions(world)}
    _begin_folder(job, world, folder, details, is_finished)
    model = build()
    faults.require_context(job, models.context_length_of(model.config))
    flops_per_token = models.flops_per_token_of(model, job.stage.sequence_length)  # before ZeRO 3 empties the weights
    rows_per_pass = micro_batch or -(-job.stage.batch_sequences // world.world_size)
    deepspeed = job.scaling.deepspeed.model_copy(update={"micro_batch": micro_batch})
    engine = Engine.create(
        model,
        job.stage,
        job.scaling.model_copy(update={"deepspeed": deepspeed}),
        world,
        num_sources=len(job.sources),
        num_micro_batches=ingest.micro_batches_per_step(job.stage.batch_sequences, world.world_size, micro_batch),
        seed=job.seed,
        start_rate=job.start_rate,
        rate_factors=models.rate_factors(job.model),
    )
    peak_tflops = job.scaling.peak_tflops
    peak = peak_tflops * 1e12 if peak_tflops else engines.peak_flops(world.device, job.stage.numerics.precision)
    return StageSetup(
        job=job,
        world=world,
        folder=folder,
        plan=plan,
        stores=stores,
        engine=engine,
        held_out=HeldOut(job, stores, world, rows_per_pass),
        micro_batch=micro_batch,
        details=details,
        flops_per_token=flops_per_token,
        peak_flops=peak * world.world_size,
    )


def open_stores(job: StageJob) -> list[StageTokenStore]:
    """The token stores of the job's sources, in their order, packed as the stage says, without held-out documents."""
    from raycodellm.tokens import Reading, TokenStore

    stores = [TokenStore.open(Folder(source.store)) for source in job.sources]
    for source, store in zip(job.sources, stores, strict=True):
        if any(source.planned) or source.held_out_sequences:
            store.verify_before_use()
    readings = [
        Reading(job.stage.packing, source.held_out_tokens, prompts_count=not job.stage.responses_only)
        for source in job.sources
    ]
    return [ingest.cached(store.packed(reading), job.scaling) for store, reading in zip(stores, readings, strict=True)]


def _model_builder(job: StageJob, stores: list[StageTokenStore]) -> Callable[[], Any]:
    """A function that builds the model that the stage starts from: the parent's, or a new one."""
    parent = Folder(job.parent) / "model" if job.parent is not None else None
    eos_id = int(getattr(stores[0].manifest, "eos_id", 0))
    return partial(
        models.build, job.model, job.vocab_size, job.seed, parent, eos_id, eos_id, job.stage.numerics.attention
    )


def _find_micro_batch(
    job: StageJob, world: World, folder: StageFolder, build: Callable[[], Any], progress: ProgressReporter
) -> int | None:
    """Sequences per forward pass: the setting, or for `auto` the number that fits.

    The number that was found is kept in stage.json: a stage that as many workers continue on the same device gives the
    same bits only if its batches are cut in the same way.
    """
    setting = job.scaling.deepspeed.micro_batch
    if setting != "auto":
        return setting
    stage_json: dict[str, Any] = attempt(lambda: folder.read_json("stage.json"), progress.say, {}) or {}
    stored = engines.gather(world, stage_json.get("micro_batch"))[0]
    if isinstance(stored, dict) and isinstance(stored.get("sequences"), int):
        shape = _micro_batch_conditions(world)
        if {name: stored.get(name) for name in shape} == shape:
            return int(stored["sequences"])
    model = f"{job.model.model_dump_json()}/{job.vocab_size}"
    num_sequences = engines.find_micro_batch(build, model, job.stage, job.scaling, world)
    progress.say(f"micro batches of {num_sequences} sequences fit into memory")
    return num_sequences


def _micro_batch_conditions(world: World) -> dict[str, Any]:
    """The circumstances under which a kept micro batch still fits."""
    return {"workers": world.world_size, "device": world.device_type}


def _begin_folder(job: StageJob, world: World, folder: StageFolder, details: dict[str, Any], is_finished: bool) -> None:
    """Rank 0 writes the settings into stage.json; raises StorageError on all ranks alike where it cannot."""
    error: OSError | None = None
    if world.rank == 0 and not is_finished:
        try:
            folder.write_json("stage.json", {"job": as_json(job), **details})
        except OSError as caught:
            error = caught
    problem = engines.gather(world, None if error is None else str(error))[0]
    if problem is not None:
        raise StorageError(f"stage {job.key} cannot be begun: {problem}") from error
