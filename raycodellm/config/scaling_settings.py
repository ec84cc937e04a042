"""Where a sweep runs, and how a stage is spread over its workers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raycodellm.config.field_types import NO_TRUTH_VALUE, Frozen, Number, Whole


class DeepSpeed(Frozen):
    """How DeepSpeed spreads a stage over its workers. The older keys `precision`, `attention` and `config` still work
    here: they set `numerics` of every stage."""

    zero: Annotated[Literal[0, 1, 2, 3], NO_TRUTH_VALUE] = 1
    """ZeRO stage: 1 shards the optimizer's state over the workers, 2 the gradients too, 3 also the weights."""
    micro_batch: Annotated[Whole, Field(ge=1)] | Literal["auto"] | None = None
    """Sequences per worker and forward pass; the worker's whole share of the batch when left out. `auto`: the most that
    fit into memory, found once per stage and kept in its stage.json."""
    activation_checkpointing: bool = False
    """Computes each block's activations again in the backward pass: less memory for a third more computation."""
    compile: bool = False
    """Compiles each block of the model and the loss by torch.compile; not with ZeRO 3. The first steps take longer."""
    deterministic: bool = False
    """Uses only algorithms that give the same bits each time, on GPUs too, where they are slower."""


class Scaling(Frozen):
    """Where a sweep runs; never part of what is computed."""

    workers: Annotated[Whole, Field(ge=1)] = 1
    """Training workers per slot."""
    gpus_per_worker: Annotated[Number, Field(ge=0)] = 0
    """GPUs per worker; 0 trains on the CPU, a fraction shares a GPU among workers."""
    device: str | None = None
    """Name of the GPU that the sweep is meant for, such as `H100`. Where this machine has no GPU, `check` reckons for
    such a one elsewhere, as with `--device`. It chooses nothing: a run takes the GPUs that are there."""
    cpus_per_worker: Annotated[Number, Field(gt=0)] = 1
    """CPU cores per worker."""
    slots: Annotated[Whole, Field(ge=1)] | Literal["auto"] = "auto"
    """Worker groups at once. `auto`: as many as the cluster, and its autoscaler, can hold."""
    deepspeed: DeepSpeed = DeepSpeed()
    """How a stage is spread over its workers."""
    checkpoint_seconds: Annotated[Number, Field(gt=0)] = 600.0
    """Seconds between the checkpoints that a killed stage continues from."""
    checkpoint_tokens: Annotated[Whole, Field(gt=0)] | None = None
    """Trained tokens between checkpoints, in place of `checkpoint_seconds`."""
    checkpoints_kept: Annotated[Whole, Field(ge=1)] = 2
    """Newest checkpoints kept of a stage in training; more than one, in case the newest turns out damaged."""
    background_checkpoints: bool | None = None
    """Writes checkpoints in a thread while training goes on, from a copy in host memory; when left out, only
    checkpoints of over 64 MB per worker."""
    peak_tflops: Annotated[Number, Field(gt=0)] | None = None
    """Peak of one worker's device in 10^12 FLOP/s, for the share of the peak that training uses (MFU); from a table of
    devices, or measured, when left out."""
    reader: Literal["ray", "thread"] = "ray"
    """Reader of the training data: tasks of Ray Data outside the training processes, or a thread in each of them."""
    cache: Literal["none", "local"] = "none"
    """`local`: each node copies the token stores that its stages draw from to its own disk, once. Meant for object
    storage."""
    cache_gib: Annotated[Number, Field(gt=0)] = 100.0
    """Most GiB (2^30 bytes) of copies per node. A store that would exceed them is not copied, and a warning says so."""
    cache_folder: str = "~/.cache/raycodellm"
    """Folder of the copies, on each node's own disk."""
    fresh_workers: bool = False
    """Starts a new worker group for each job: isolation over speed."""
    max_failures: Annotated[Whole, Field(ge=0)] = 3
    """Times that a job's workers may die before the job has failed."""
    max_preemptions: Annotated[Whole, Field(ge=0)] = 50
    """Times that a job's workers may be told to leave (a spot node's notice, SIGTERM) before the job has failed."""
