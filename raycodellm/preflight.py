"""The checks that `check` and `run` make before anything is started: do context, DeepSpeed and memory suffice?"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from raycodellm import cluster, config, memory_needs, model
from raycodellm.config import Scaling, Sweep, SweepFile, UserError
from raycodellm.memory_needs import GIB, MemoryNeed

RAYS_SHARE = 0.7
"""Share of a node's memory that Ray hands out as `memory`; Ray keeps the rest for its object store."""


@dataclass(frozen=True)
class MemoryFit:
    """A worker's need of memory, and the number of worker groups that fit on this machine."""

    need: MemoryNeed | None
    """None where nothing is trained: a model that no GPU holds is spread over those of its node."""
    groups: int | None = None
    """None where the sweep runs on a joined cluster, which alone knows, or elsewhere."""
    available: str = ""
    """The available memory, in words."""

    def __str__(self) -> str:
        needed = self.need or "nothing is trained; a model that no GPU holds is spread over the GPUs of its node"
        return f"memory: {needed}" + (f"; {self.available}" if self.available else "")


def check_before_start(file: SweepFile, address: str | None, *, elsewhere: bool = False) -> MemoryFit:
    """Checks the sweep; returns how it fits into memory. `address`: of the cluster to join, as on the command line.

    `elsewhere`: the sweep is for another machine, so that what this one has says nothing.

    Raises `UserError` for a sequence longer than a model's context, for settings that DeepSpeed or the device would
    refuse, and for a worker group that does not fit on this machine.
    """
    _check_contexts(file)
    _check_deepspeed(file)
    need = memory_needs.largest_need(file, vocab_size(file.example())) if file.example().stages else None
    address = address or os.environ.get("RAY_ADDRESS")
    if elsewhere or (address and address != "local"):
        return MemoryFit(need)
    return _fit_on_this_machine(file.example().scaling, need)


def fit_on_cluster(fit: MemoryFit, connected: cluster.Cluster, scaling: Scaling) -> MemoryFit:
    """The fit on a joined cluster, where its memory is known. Raises `UserError` where no worker group fits."""
    nodes = [node for node in connected.nodes if cluster.workers_on(node, scaling)]  # a head without CPUs holds none
    available = [node.memory_bytes / RAYS_SHARE for node in nodes]
    is_known = connected.limits_known and available and all(available)
    if scaling.gpus_per_worker or connected.autoscaled or not is_known:
        return replace(fit, available="what its nodes have is not known here")
    reason = memory_needs.reason_it_cannot_fit(fit.need, scaling, available) if fit.need else None
    if reason:
        raise UserError(f"scaling: {reason}")
    largest = max(available) / GIB
    subject = f"the largest of its {len(available)} nodes" if len(available) > 1 else "its node"
    return replace(fit, available=f"{subject} has {largest:.3g} GiB")


def vocab_size(sweep: Sweep) -> int:
    """Entries of the tokenizer. A pretrained tokenizer is not opened here and counts as 50,000, a usual size. 0 in a
    sweep without a tokenizer, each of whose models has its own."""
    if sweep.tokenizer is None:
        return 0
    return sweep.tokenizer.train.vocab_size if sweep.tokenizer.train else 50_000


def _check_contexts(file: SweepFile) -> None:
    if not file.example().stages:  # an item that is too long for a given model is counted
        return
    contexts: dict[str, int | None] = {}
    for sweep in (config.resolve(file, point) for point in file.probe_points()):
        key = sweep.model.model_dump_json()
        if key not in contexts:
            contexts[key] = model.context_length(sweep.model, vocab_size(sweep))
        context = contexts[key]
        for stage in sweep.trained_stages:
            if context is not None and stage.sequence_length > context:
                raise UserError(
                    f"stages.{stage.name}.sequence_length: found {stage.sequence_length}, which is over the model's "
                    f"context of {context} tokens; use less"
                )


def _check_deepspeed(file: SweepFile) -> None:
    """Raises UserError for settings that DeepSpeed, or the device, would refuse in a worker."""
    for sweep in (config.resolve(file, point) for point in file.probe_points()):
        for stage in sweep.trained_stages:
            # Nothing else is ever refused, and the engine imports torch, which takes seconds.
            if stage.numerics.deepspeed_config or stage.numerics.precision == "fp16":
                from raycodellm.engine import World, deepspeed_config

                device = "cuda:0" if sweep.scaling.gpus_per_worker else "cpu"
                deepspeed = sweep.scaling.deepspeed.model_copy(update={"micro_batch": 1})
                scaling = sweep.scaling.model_copy(update={"deepspeed": deepspeed})
                deepspeed_config(stage, scaling, World(0, sweep.scaling.workers, device), num_micro_batches=1)


def _fit_on_this_machine(scaling: Scaling, need: MemoryNeed | None) -> MemoryFit:
    reason, groups = cluster.local_placement(scaling)
    available = memory_needs.local_bytes(scaling)
    reason = reason or (memory_needs.reason_it_cannot_fit(need, scaling, available) if available and need else None)
    if reason:
        raise UserError(f"scaling: {reason}")
    if not available:
        return MemoryFit(need, groups, "the GPU's memory is not known here")
    device = "GPU" if scaling.gpus_per_worker else "machine"
    in_memory = memory_needs.workers_that_fit(need, available) // scaling.workers if need else groups
    return MemoryFit(need, min(groups, in_memory), f"this {device} has {max(available) / GIB:.3g} GiB")
