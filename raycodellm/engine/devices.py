"""Devices: their peak FLOP/s, the memory in use, determinism, and the message of a full memory."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

from raycodellm.device_peaks import listed_peak_flops
from raycodellm.engine.errors import OutOfMemory
from raycodellm.engine.world import World

_MATRIX_SIZE = {"cpu": 768, "cuda": 8192}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def peak_flops(device: str, precision: str) -> float:
    """Peak FLOP/s of one device: from the table, else measured once per process by multiplying matrices."""
    if device.startswith("cuda"):
        table_flops = listed_peak_flops(torch.cuda.get_device_name(device), precision)
        if table_flops is not None:
            return table_flops
    return _measured_flops(device, precision, torch.get_num_threads())


@lru_cache(maxsize=8)
def _measured_flops(device: str, precision: str, num_threads: int) -> float:
    """The best of four products of square matrices; takes 30 ms on one core, and varies by a tenth."""
    size = _MATRIX_SIZE[device.split(":")[0]]
    matrix = torch.ones(size, size, dtype=_DTYPES[precision], device=device)
    seconds = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        matrix @ matrix
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds = min(seconds, time.perf_counter() - began)
    return 2.0 * size**3 / seconds


def memory_bytes(world: World) -> int:
    """Peak bytes so far: those that torch allocated on this process's GPU; on a CPU, the process's resident memory."""
    if world.device_type == "cuda":
        return int(torch.cuda.max_memory_allocated(world.device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def on_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The values on the device; the host does not wait for the copy. Values already on the device are not copied."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def device_share(gpus_per_worker: float) -> float:
    """Share of a GPU's memory that one worker may take: two workers with half a GPU each share its memory."""
    return min(1.0, gpus_per_worker or 1.0)


def limit_memory(world: World, gpus_per_worker: float) -> None:
    """Makes a worker that exceeds its share of a GPU run out of memory, rather than its neighbour on that GPU."""
    if world.device_type == "cuda":
        torch.cuda.set_per_process_memory_fraction(device_share(gpus_per_worker), world.device)


def free_bytes() -> int:
    """Bytes of host memory that this process could still take, within the machine and its control group's limit."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, usage = (_lines(f"/sys/fs/cgroup/memory.{name}")[:1] for name in ("max", "current"))
    if limit and usage and limit[0].isdigit():
        available = min(available, int(limit[0]) - int(usage[0]))
    return max(0, available)


def _lines(path: str) -> list[str]:
    if not os.path.exists(path):  # another system, or one without control groups
        return []
    with open(path, encoding="ascii") as file:
        return file.read().splitlines()


def set_deterministic(enabled: bool) -> None:
    """Turns torch's deterministic algorithms on or off in this process; every stage sets its own choice."""
    torch.use_deterministic_algorithms(enabled)
    # Filling new memory only helps to find reads of memory never written, and made training 18 times as slow.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.deterministic = enabled
    if enabled:
        torch.backends.cudnn.benchmark = False


@contextmanager
def explained_out_of_memory(world: World, rows: int) -> Iterator[None]:
    """Turns torch's error into an OutOfMemory that says what helps; `rows`: sequences per forward pass."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(out_of_memory_message(world, rows, str(error))) from error


def out_of_memory_message(world: World, rows: int, cause: str) -> str:
    remedy = f"scaling.deepspeed.micro_batch: {rows // 2} or auto" if rows > 1 else "a shorter sequence_length"
    problem = "CUDA out of memory" if world.device_type == "cuda" else "not enough memory"
    return (
        f"{problem} on {world.device} (worker {world.rank} of {world.world_size}) with {rows} sequences per "
        f"forward pass. What would help, nearest first: {remedy}; scaling.deepspeed.activation_checkpointing: true; a "
        "higher scaling.deepspeed.zero with more workers; the stage's numerics.deepspeed_config: {zero_optimization: "
        "{offload_optimizer: {device: cpu}}}; numerics.precision: bf16; a smaller model. "
        f"torch says: {cause.splitlines()[0] if cause else 'nothing'}"
    )
