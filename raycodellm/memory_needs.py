"""The memory that a training worker needs and the memory that machines have, by arithmetic, without building a model.

A worker's need is its weights, gradients, Adam's moments, and the activations that a forward pass keeps for the
backward pass. Each estimate is slightly low, since the libraries' own memory and that of the backward pass come on top.
So a sweep that is refused cannot fit.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raycodellm import config, model
from raycodellm.config import Model, Scaling, Stage, SweepFile

GIB = 2**30


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that one worker needs: on its GPU where it trains on one, else in host memory."""

    weights: float
    """The trained weights and the float32 copy that the optimizer steps."""
    gradients: float
    moments: float
    """Adam's two running means."""
    activations: float
    """Activations that a forward pass of `rows` sequences keeps."""
    rows: int
    sequence_length: int

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.moments + self.activations

    def __str__(self) -> str:
        unit, name = (GIB, "GiB") if self.total >= GIB else (2**20, "MiB")
        parts = {part: getattr(self, part) / unit for part in ("weights", "gradients", "moments", "activations")}
        sizes = ", ".join(f"{part} {size:.3g}" for part, size in parts.items())
        passes = f"{self.rows:,} × {self.sequence_length:,} tokens per pass"
        return f"a worker needs {self.total / unit:.3g} {name} ({sizes}; {passes})"


def worker_need(shape: model.Shape, stage: Stage, scaling: Scaling) -> MemoryNeed:
    """The memory that one worker needs to train `stage`.

    ZeRO 1 shards the moments and the float32 copy over the workers, ZeRO 2 the gradients too, ZeRO 3 also the weights.
    Parts that DeepSpeed offloads from a GPU do not count. `micro_batch: auto` counts as one sequence.
    """
    zero, workers = scaling.deepspeed.zero, scaling.workers
    width = 4 if stage.numerics.precision == "fp32" else 2
    offload = stage.numerics.deepspeed_config.get("zero_optimization")
    offload = offload if isinstance(offload, dict) and scaling.gpus_per_worker else {}

    def bytes_of(per_parameter: float, sharded_from: int, offloaded: str) -> float:
        size = 0.0 if offload.get(offloaded) else per_parameter * shape.parameters
        return size / workers if zero >= sharded_from else size

    has_copy = zero > 0 or width == 2
    share = -(-stage.batch_sequences // workers)
    micro_batch = scaling.deepspeed.micro_batch
    rows = 1 if micro_batch == "auto" else min(share, micro_batch or share)
    # Counted with torch's hooks, Llamas of 0.5 to 124 M parameters keep 10.3 to 10.8 times the width and 4 times the
    # feed-forward width per token and block. With checkpointing each block keeps one width, and one block all of that.
    block = (8 if shape.parallel else 10) * shape.hidden + 4 * shape.feed_forward
    if scaling.deepspeed.activation_checkpointing:
        per_token = shape.layers * shape.hidden + block
    else:
        per_token = shape.layers * block
    return MemoryNeed(
        weights=bytes_of(width, 3, "offload_param") + (bytes_of(4, 1, "offload_optimizer") if has_copy else 0.0),
        gradients=bytes_of(width, 2, "offload_optimizer"),
        moments=bytes_of(8, 1, "offload_optimizer"),
        activations=float(width * per_token * rows * stage.sequence_length),
        rows=rows,
        sequence_length=stage.sequence_length,
    )


def largest_need(file: SweepFile, vocab_size: int) -> MemoryNeed:
    """The largest need of a worker, over all stages and models that the sweep may try."""
    sweeps = [config.resolve(file, point) for point in file.probe_points()]
    shapes: dict[str, model.Shape] = {}

    def shape(settings: Model) -> model.Shape:
        key = settings.model_dump_json()
        if key not in shapes:
            shapes[key] = model.shape(settings, vocab_size)
        return shapes[key]

    needs = (
        worker_need(shape(sweep.model), stage, sweep.scaling) for sweep in sweeps for stage in sweep.trained_stages
    )
    return max(needs, key=lambda need: need.total)


def workers_that_fit(need: MemoryNeed, available: Iterable[float]) -> int:
    """Workers that fit into memory at once. `available`: bytes of each node, or of each GPU."""
    return sum(int(size // need.total) for size in available)


def reason_it_cannot_fit(need: MemoryNeed, scaling: Scaling, available: Sequence[float]) -> str | None:
    """Why no worker group fits into memory; None if one does. `available`: bytes of each node, or of each GPU."""
    num_workers = workers_that_fit(need, available)
    if num_workers >= scaling.workers:
        return None
    largest_gib = max(available, default=0.0) / GIB
    device = "GPU" if scaling.gpus_per_worker else "machine"
    if num_workers:
        remedy = f"scaling.workers: {num_workers}"
    elif need.activations > need.total / 2:
        remedy = "scaling.deepspeed: {micro_batch: 1, activation_checkpointing: true}"
    else:
        remedy = "a smaller model, or more memory"
    fit = f"{num_workers} of {scaling.workers} workers fit"
    return f"{need}, but the largest {device} has {largest_gib:.3g} GiB: {fit}; use {remedy}"


# ----------------------------------------------------------------------------------------------------- available memory


def local_bytes(scaling: Scaling) -> list[float]:
    """Bytes for the workers on this machine: of each GPU that they use, else of the machine; empty where unknown."""
    share = scaling.gpus_per_worker
    return [size * min(1.0, share) for size in gpu_bytes()] if share else [machine_bytes()]


def machine_bytes() -> float:
    """Bytes of memory of this machine, or of this process's control group where that has less."""
    sizes = [float(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal:")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        sizes += [float(line) for line in _lines(path) if line.isdigit()]
    return min(sizes, default=float("inf"))


def gpu_bytes() -> list[float]:
    """Bytes of each GPU of this machine, from NVIDIA's driver; empty without that driver."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [float(line) * 2**20 for line in output.split() if line.isdigit()]


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="ascii").splitlines() if Path(path).is_file() else []
