"""Computes what fits on a cluster and explains what does not: arithmetic on `Node` records, without Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raycodellm.config import Scaling

SPARE_CPUS = 1
"""CPUs left to Ray Data's tasks. Training workers that hold every CPU would wait for their own data for ever."""
LOCAL_CPUS_PER_CORE = 4
"""Most logical CPUs of a local cluster per core: worker groups may share cores, but 64 workers need more than two."""


@dataclass(frozen=True)
class Node:
    """One machine of a cluster."""

    cpus: float
    """Logical CPUs that Ray may hand out, busy or not."""
    gpus: float = 0.0
    memory_bytes: int = 0
    kind: str = ""
    """The node type in the autoscaler's file, or "head"; empty where that is not known."""
    device: str = ""
    """Name of its GPUs as Ray knows it ("L4"); empty where Ray does not know."""


def device_of(resources: Mapping[str, float]) -> str:
    """Name of the GPUs among a node's logical resources: "L4" for `accelerator_type:L4`."""
    return next((key.partition(":")[2] for key in resources if key.startswith("accelerator_type:")), "")


def workers_on(node: Node, scaling: Scaling) -> int:
    """Workers that `node` can hold at once. A share of a GPU lies on one GPU: two workers of 0.6 need two GPUs."""
    num_workers = math.floor(node.cpus / scaling.cpus_per_worker + 1e-9)
    share = scaling.gpus_per_worker
    if _is_refused_by_ray(share):
        return 0
    if share >= 1:
        num_workers = min(num_workers, math.floor(node.gpus / share + 1e-9))
    elif share > 0:
        num_workers = min(num_workers, math.floor(node.gpus + 1e-9) * math.floor(1 / share + 1e-9))
    return max(0, num_workers)


def slots_that_fit(nodes: Sequence[Node], scaling: Scaling) -> int:
    """Worker groups that `nodes` can hold at once, with `SPARE_CPUS` of one node left to Ray Data.

    A worker lies on one node; the workers of a group may lie on several.
    """
    workers = [workers_on(node, scaling) for node in nodes]
    workers_lost_to_data = [
        num_workers - workers_on(Node(node.cpus - SPARE_CPUS, node.gpus), scaling)
        for node, num_workers in zip(nodes, workers, strict=True)
        if node.cpus >= SPARE_CPUS
    ]
    return (sum(workers) - min(workers_lost_to_data)) // scaling.workers if workers_lost_to_data else 0


def slots_at_once(num_cores: int) -> int:
    """Worker groups that should start together on one machine: each start keeps two cores busy."""
    return max(1, num_cores // 2)


def local_cpus(num_cores: int, num_gpus: int, scaling: Scaling) -> int:
    """Logical CPUs of a local cluster: the machine's cores, or more where worker groups and data tasks need them."""
    max_slots = max(1, workers_on(Node(num_cores, num_gpus), scaling) // scaling.workers)
    slots = scaling.slots if isinstance(scaling.slots, int) else max_slots
    needed_cpus = math.ceil(min(slots * scaling.workers * scaling.cpus_per_worker, LOCAL_CPUS_PER_CORE * num_cores))
    return max(num_cores, needed_cpus + 2)


def placement_problem(nodes: Sequence[Node], autoscaled: Sequence[Node], scaling: Scaling) -> str | None:
    """Why `nodes`, with those that the autoscaler may add, can never hold one worker group; None if they can."""
    all_nodes = [*nodes, *autoscaled]
    if slots_that_fit(all_nodes, scaling):
        return None
    share = scaling.gpus_per_worker
    if _is_refused_by_ray(share):
        return f"scaling.gpus_per_worker is {share:g}, but a worker gets whole GPUs or a part of one; use {int(share)}"
    demand = group_needed(scaling)
    supply = f"the cluster has {_total(nodes)}"
    if autoscaled:
        supply += f", and the autoscaler may add {_total(autoscaled)}"
    num_workers = sum(workers_on(node, scaling) for node in all_nodes)
    if num_workers >= scaling.workers:
        return (
            f"{demand}, which leaves no CPU free for reading data: {supply}; "
            f"add a CPU, or lower scaling.workers or scaling.cpus_per_worker"
        )
    if share and not any(node.gpus for node in all_nodes):
        return f"{demand}, but {supply}: no GPU; set scaling.gpus_per_worker to 0 or add GPU nodes"
    if num_workers == 0:
        largest = max(all_nodes, key=lambda node: (node.gpus, node.cpus) if share else (node.cpus, 0), default=Node(0))
        size = f"{largest.cpus:g} CPU + {largest.gpus:g} GPU" if share else f"{largest.cpus:g} CPU"
        return (
            f"{demand}, but {supply}, and no node holds one worker (the largest: {size}); "
            "lower scaling.cpus_per_worker or scaling.gpus_per_worker, or add larger nodes"
        )
    remedy = f"set scaling.workers to {num_workers} or less, or add nodes"
    return f"{demand}, but only {num_workers} such workers fit: {supply}; {remedy}"


def group_needed(scaling: Scaling) -> str:
    """The resources of one worker group, in words."""
    share = scaling.gpus_per_worker
    need = f"{scaling.cpus_per_worker:g} CPU" + (f" + {share:g} GPU" if share else "")
    return f"a worker group needs {scaling.workers} × ({need})"


def _is_refused_by_ray(gpus_per_worker: float) -> bool:
    """Ray takes whole GPUs or a part of one, but not one and a half."""
    return gpus_per_worker > 1 and gpus_per_worker != int(gpus_per_worker)


def _total(nodes: Sequence[Node]) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return f"{cpus:g} CPU + {gpus:g} GPU on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"
