"""Where a sweep runs, and how a stage is spread over its workers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raycodellm.config.field_types import NO_TRUTH_VALUE, Frozen, Number, Whole


class DeepSpeed(Frozen):
    """How the engine spreads a stage over its workers. `precision`, `attention` and `config` belong to the stage; said
    here, they are those of all stages (`old_spellings`)."""

    zero: Annotated[Literal[0, 1, 2, 3], NO_TRUTH_VALUE] = 1
    micro_batch: Annotated[Whole, Field(ge=1)] | Literal["auto"] | None = None
    """Sequences per worker and forward pass; the worker's whole share of the batch when left out. auto: the most that
    fit into memory, found once per stage and kept in its stage.json."""
    activation_checkpointing: bool = False
    """Each block's activations are computed again on the way back: less memory for a third more computation."""
    compile: bool = False
    """torch.compile of each of the model's blocks; not with ZeRO 3. The first steps take longer."""
    deterministic: bool = False
    """Only algorithms that give the same bits each time, also on GPUs, where they are slower."""


class Scaling(Frozen):
    """Where a sweep runs; never part of what is computed."""

    workers: Annotated[Whole, Field(ge=1)] = 1
    """Training workers per slot."""
    gpus_per_worker: Annotated[Number, Field(ge=0)] = 0
    cpus_per_worker: Annotated[Number, Field(gt=0)] = 1
    slots: Annotated[Whole, Field(ge=1)] | Literal["auto"] = "auto"
    deepspeed: DeepSpeed = DeepSpeed()
    checkpoint_seconds: Annotated[Number, Field(gt=0)] = 600.0
    """Time between the checkpoints that a killed stage continues from."""
    checkpoint_tokens: Annotated[Whole, Field(gt=0)] | None = None
    """Trained tokens between checkpoints, in place of the time."""
    checkpoints_kept: Annotated[Whole, Field(ge=1)] = 2
    """The newest ones of a stage in training; more than one, in case the newest turns out damaged."""
    background_checkpoints: bool | None = None
    """Write checkpoints in a thread while training goes on, from a copy in host memory; when left out, those of over 64
    MB per worker."""
    peak_tflops: Annotated[Number, Field(gt=0)] | None = None
    """10^12 FLOP/s that one worker's device reaches at best, for the share of them that is used (MFU); when left out,
    from a table of devices, or measured."""
    reader: Literal["ray", "thread"] = "ray"
    """What reads training data: tasks of Ray Data, outside the training processes, or a thread of each of them."""
    cache: Literal["none", "local"] = "none"
    """local: each node copies the token stores that its stages draw from to its own disk, once; for object storage."""
    cache_gib: Annotated[Number, Field(gt=0)] = 100.0
    """2^30 bytes of copies per node; those not used for longest make room, and what does not fit is not copied."""
    cache_folder: str = "~/.cache/raycodellm"
    """On each node's own disk."""
    fresh_workers: bool = False
    """A new worker group for each job: isolation over speed."""
    max_failures: Annotated[Whole, Field(ge=0)] = 3
    """Deaths of a job's workers after which the job has failed."""
    max_preemptions: Annotated[Whole, Field(ge=0)] = 50
    """Times that a job's workers may be told to leave (a spot node's notice, SIGTERM) before the job has failed."""
