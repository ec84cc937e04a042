"""This machine's processors, GPUs and memory, and the workers that a cluster on it alone would hold. Starts nothing."""

from __future__ import annotations

import math
import os

from raycodellm.cluster.capacity import Node, bundles_that_fit, slots_that_fit, why_not
from raycodellm.config import Scaling

LOCAL_CPUS_PER_CORE = 4
"""Logical CPUs that a local cluster may have per core: worker groups may share cores, but 64 workers no two of them."""


def local_placement(scaling: Scaling) -> tuple[str | None, int]:
    """(why no worker group fits on a local cluster of this machine, or None; how many fit). Starts nothing."""
    node = Node(local_cpus(cores(), gpus(), scaling), gpus())
    reason = why_not([node], (), scaling)
    if reason and node.cpus > cores():
        reason = f"{reason} (of {cores()} cores, which a local Ray lends out as {node.cpus:g})"
    return reason, slots_that_fit([node], scaling)


def local_cpus(num_cores: int, num_gpus: int, scaling: Scaling) -> int:
    """Logical CPUs of a local cluster: its cores, or some more where worker groups and data tasks need them."""
    slots = scaling.slots
    if slots == "auto":
        slots = max(1, bundles_that_fit(Node(num_cores, num_gpus), scaling) // scaling.workers)
    asked = math.ceil(min(slots * scaling.workers * scaling.cpus_per_worker, LOCAL_CPUS_PER_CORE * num_cores))
    return max(num_cores, asked + 2)


def cores() -> int:
    from ray._private.utils import get_num_cpus

    return max(1, min(int(get_num_cpus(override_docker_cpu_warning=True)), len(os.sched_getaffinity(0))))


def gpus() -> int:
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    there = manager.get_current_node_num_accelerators()
    visible = manager.get_current_process_visible_accelerator_ids()
    return there if visible is None else min(there, len(visible))
