"""The memory that a training worker needs, and that there is: arithmetic that needs no model in memory.

Weights, gradients, Adam's moments and the activations that a forward pass keeps for the way back; each a little less
than the truth, since the libraries' own and what is made on the way back come on top. So what is refused cannot fit.
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
    """Bytes of one worker: of its GPU where it trains on one, else of host memory."""

    weights: float
    """Those that are trained, and the float32 copy that the optimizer steps."""
    gradients: float
    moments: float
    """Adam's two."""
    activations: float
    """Kept by a forward pass of `rows` sequences."""
    rows: int
    sequence_length: int

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.moments + self.activations

    def __str__(self) -> str:
        unit, name = (GIB, "GiB") if self.total >= GIB else (2**20, "MiB")
        parts = {n: getattr(self, n) / unit for n in ("weights", "gradients", "moments", "activations")}
        said = ", ".join(f"{part} {size:.3g}" for part, size in parts.items())
        passes = f"{self.rows:,} × {self.sequence_length:,} tokens per pass"
        return f"a worker needs {self.total / unit:.3g} {name} ({said}; {passes})"


def worker_need(shape: model.Shape, stage: Stage, scaling: Scaling) -> MemoryNeed:
    """ZeRO 1 shares moments and the float32 copy among the workers, ZeRO 2 gradients too, ZeRO 3 also the weights.

    What DeepSpeed is told to offload is not counted. `micro_batch: auto` is taken as one sequence.
    """
    zero, workers = scaling.deepspeed.zero, scaling.workers
    wide = 4 if stage.numerics.precision == "fp32" else 2
    offload = stage.numerics.deepspeed_config.get("zero_optimization")
    offload = offload if isinstance(offload, dict) and scaling.gpus_per_worker else {}

    def bytes_of(per_parameter: float, shared_from: int, offloaded: str) -> float:
        left = 0.0 if offload.get(offloaded) else per_parameter * shape.parameters
        return left / workers if zero >= shared_from else left

    copied = zero > 0 or wide == 2
    share = -(-stage.batch_sequences // workers)
    asked = scaling.deepspeed.micro_batch
    rows = 1 if asked == "auto" else min(share, asked or share)
    # What Llamas of 0.5 to 124 M parameters keep, counted with torch's hooks: 10.3 to 10.8 times the width and 4 times
    # the feed-forward width per token and block; with checkpointing the width, and one block's own.
    block = (8 if shape.parallel else 10) * shape.hidden + 4 * shape.feed_forward
    if scaling.deepspeed.activation_checkpointing:
        per_token = shape.layers * shape.hidden + block
    else:
        per_token = shape.layers * block
    return MemoryNeed(
        weights=bytes_of(wide, 3, "offload_param") + (bytes_of(4, 1, "offload_optimizer") if copied else 0.0),
        gradients=bytes_of(wide, 2, "offload_optimizer"),
        moments=bytes_of(8, 1, "offload_optimizer"),
        activations=float(wide * per_token * rows * stage.sequence_length),
        rows=rows,
        sequence_length=stage.sequence_length,
    )


def most_needed(file: SweepFile, vocab_size: int) -> MemoryNeed:
    """The most that a worker needs, over all stages and models that the sweep may try."""
    sweeps = [config.resolve(file, point) for point in file.corner_points()]
    shapes: dict[str, model.Shape] = {}

    def shape(one: Model) -> model.Shape:
        key = one.model_dump_json()
        if key not in shapes:
            shapes[key] = model.shape(one, vocab_size)
        return shapes[key]

    needs = (worker_need(shape(sweep.model), stage, sweep.scaling) for sweep in sweeps for stage in sweep.stages)
    return max(needs, key=lambda need: need.total)


def workers_that_fit(need: MemoryNeed, there: Iterable[float]) -> int:
    """Workers that may be in memory at once. `there`: bytes of each node, or of each GPU."""
    return sum(int(size // need.total) for size in there)


def why_not(need: MemoryNeed, scaling: Scaling, there: Sequence[float]) -> str | None:
    """Why a worker group can't be in memory; None if it can. `there`: bytes of each node, or of each GPU."""
    fit = workers_that_fit(need, there)
    if fit >= scaling.workers:
        return None
    most = max(there, default=0.0) / GIB
    what = "GPU" if scaling.gpus_per_worker else "machine"
    if fit:
        use = f"scaling.workers: {fit}"
    elif need.activations > need.total / 2:
        use = "scaling.deepspeed: {micro_batch: 1, activation_checkpointing: true}"
    else:
        use = "a smaller model, or more memory"
    return f"{need}, but the largest {what} has {most:.3g} GiB: {fit} of {scaling.workers} workers fit; use {use}"


# ---------------------------------------------------------------------------------------------------- what there is


def local_bytes(scaling: Scaling) -> list[float]:
    """Memory for the workers on this machine: of each GPU that they use, else of the machine; none where unknown."""
    share = scaling.gpus_per_worker
    return [size * min(1.0, share) for size in gpu_bytes()] if share else [machine_bytes()]


def machine_bytes() -> float:
    """Memory of this machine, or of the control group that this process is in where that has less."""
    sizes = [float(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal:")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        sizes += [float(line) for line in _lines(path) if line.isdigit()]
    return min(sizes, default=float("inf"))


def gpu_bytes() -> list[float]:
    """Memory of each GPU of this machine, as NVIDIA's driver tells it; none where there is no such driver."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [float(line) * 2**20 for line in told.split() if line.isdigit()]


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="ascii").splitlines() if Path(path).is_file() else []
