"""Checks that `check` and `run` both make before anything is started: do models, machine and memory suffice?"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from raycodellm import cluster, config, memory_needs, model
from raycodellm.config import Scaling, Sweep, SweepFile, UserError
from raycodellm.memory_needs import GIB, MemoryNeed

RAYS_SHARE = 0.7
"""Share of a node's memory that Ray hands out as `memory`; it keeps the rest for its object store."""


@dataclass(frozen=True)
class Room:
    """A worker's need of memory, and the number of worker groups that this machine holds."""

    need: MemoryNeed
    groups: int | None = None
    """None where a cluster is joined: only that knows."""
    memory: str = ""
    """The memory that there is, in words."""

    def __str__(self) -> str:
        return f"memory: {self.need}" + (f"; {self.memory}" if self.memory else "")


def look(file: SweepFile, address: str | None) -> Room:
    """Raises `UserError` for a sequence that no model of the sweep takes, and for what this machine cannot hold.

    `address`: of the cluster that the sweep is to run on, as the command line has it.
    """
    _check_contexts(file)
    _check_deepspeed(file)
    need = memory_needs.most_needed(file, vocab_size(file.example()))
    address = address or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        return Room(need)
    return _local_room(file.example().scaling, need)


def on_cluster(room: Room, connected: cluster.Cluster, scaling: Scaling) -> Room:
    """The room with a joined cluster's memory, where that is known. Raises `UserError` where no worker group fits."""
    there = [node.memory_bytes / RAYS_SHARE for node in connected.nodes]
    if scaling.gpus_per_worker or connected.autoscaled or not connected.limits_known or not all(there):
        return replace(room, memory="what its nodes have is not known here")
    reason = memory_needs.why_not(room.need, scaling, there)
    if reason:
        raise UserError(f"scaling: {reason}")
    return replace(room, memory=f"the largest of its {len(there)} nodes has {max(there) / GIB:.3g} GiB")


def vocab_size(sweep: Sweep) -> int:
    """Entries of the tokenizer; of one that is not opened here, as many as they have about."""
    return sweep.tokenizer.train.vocab_size if sweep.tokenizer.train else 50_000


def _check_contexts(file: SweepFile) -> None:
    known: dict[str, int | None] = {}
    for sweep in (config.resolve(file, point) for point in file.corner_points()):
        key = sweep.model.model_dump_json()
        if key not in known:
            known[key] = model.context_length(sweep.model, vocab_size(sweep))
        for stage in sweep.stages:
            if known[key] is not None and stage.sequence_length > known[key]:
                raise UserError(
                    f"stages.{stage.name}.sequence_length: found {stage.sequence_length}, which is over the model's "
                    f"context of {known[key]} tokens; use less"
                )


def _check_deepspeed(file: SweepFile) -> None:
    """Raises UserError for what DeepSpeed, or the device, would refuse in a worker."""
    for sweep in (config.resolve(file, point) for point in file.corner_points()):
        for stage in sweep.stages:
            if (
                stage.numerics.deepspeed_config or stage.numerics.precision == "fp16"
            ):  # else nothing is refused; torch takes seconds
                from raycodellm.engine import World, deepspeed_config

                device = "cuda:0" if sweep.scaling.gpus_per_worker else "cpu"
                one = sweep.scaling.deepspeed.model_copy(update={"micro_batch": 1})
                scaling = sweep.scaling.model_copy(update={"deepspeed": one})
                deepspeed_config(stage, scaling, World(0, sweep.scaling.workers, device), num_micro_batches=1)


def _local_room(scaling: Scaling, need: MemoryNeed) -> Room:
    reason, groups = cluster.local_placement(scaling)
    there = memory_needs.local_bytes(scaling)
    reason = reason or (memory_needs.why_not(need, scaling, there) if there else None)
    if reason:
        raise UserError(f"scaling: {reason}")
    if not there:
        return Room(need, groups, "the GPU's memory is not known here")
    what = "GPU" if scaling.gpus_per_worker else "machine"
    in_memory = memory_needs.workers_that_fit(need, there) // scaling.workers
    return Room(need, min(groups, in_memory), f"this {what} has {max(there) / GIB:.3g} GiB")
