"""The workers that train together: their process group, and what they tell each other."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """The workers that train together, as one of them sees them."""

    rank: int = 0
    """This worker's number, from 0."""
    world_size: int = 1
    """Number of workers."""
    device: str = "cpu"
    """This worker's device: cpu, or cuda:0."""

    @property
    def device_type(self) -> str:
        """cpu or cuda."""
        return self.device.split(":")[0]


def init_process(world: World, num_threads: int = 1) -> None:
    """Prepares this process for training on `num_threads` CPU threads; may be called before every stage.

    An existing process group (Ray Train's) is used. Without one, a group is made from the usual environment variables,
    or for this process alone. The group is kept for the next engine: DeepSpeed's own groups do not survive a new one.
    Raises RuntimeError when the process has another rank in its group than `world` says.
    """
    is_cpu = world.device_type == "cpu"
    os.environ["DS_ACCELERATOR"] = world.device_type
    os.environ.setdefault("LOCAL_RANK", str(world.rank))
    if world.device_type == "cuda":
        # cuBLAS reads the variable at a process's first multiplication, which may come before the first stage that
        # asks for determinism.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ["LOCAL_RANK"] = str(torch.device(world.device).index or 0)  # DeepSpeed's number of the device
        torch.cuda.set_device(world.device)
    else:
        torch.set_num_threads(max(1, num_threads))  # results are bitwise equal only for equal numbers of threads
    # DeepSpeed calls functions that torch has renamed; torch would warn at every exchange.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.c10d_logger")
    import deepspeed
    import deepspeed.ops

    if is_cpu:
        # Otherwise DeepSpeed compiles a shared-memory collective at start-up: 20 s, and it needs a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "gloo" if is_cpu else "nccl"
    if not dist.is_initialized():
        if world.world_size == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(backend, rank=world.rank, world_size=world.world_size)
    if (dist.get_rank(), dist.get_world_size()) != (world.rank, world.world_size):
        raise RuntimeError(
            f"this process is {dist.get_rank()} of {dist.get_world_size()} in its process group, "
            f"but was asked to train as {world.rank} of {world.world_size}"
        )
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def gather(world: World, value: Any) -> list[Any]:
    """The picklable `value` of every worker, in the order of ranks. A collective."""
    if world.world_size == 1:
        return [value]
    values: list[Any] = [None] * world.world_size
    dist.all_gather_object(values, value)
    return values


def sum_over_workers(world: World, values: torch.Tensor) -> torch.Tensor:
    """The sum of all workers' `values`, in place. A collective."""
    if world.world_size > 1:
        dist.all_reduce(values)
    return values
