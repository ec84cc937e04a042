"""Measures this machine's cores and GPUs, and the worker groups that a local cluster would hold. Starts nothing."""

from __future__ import annotations

import os

from raycodellm.cluster.capacity import Node, local_cpus, placement_problem, slots_that_fit
from raycodellm.cluster.environment import prepare_environment
from raycodellm.config import Scaling


def local_placement(scaling: Scaling) -> tuple[str | None, int]:
    """(why no worker group fits on a local cluster of this machine, or None; the number of groups that fit)."""
    node = Node(local_cpus(cores(), gpus(), scaling), gpus())
    reason = placement_problem([node], (), scaling)
    if reason and node.cpus > cores():
        reason = f"{reason} (of {cores()} cores, which a local Ray lends out as {node.cpus:g})"
    return reason, slots_that_fit([node], scaling)


def cores() -> int:
    """Cores that this process may use, by its container's limit and its affinity."""
    prepare_environment()
    from ray._private.utils import get_num_cpus

    return max(1, min(int(get_num_cpus(override_docker_cpu_warning=True)), len(os.sched_getaffinity(0))))


def gpus() -> int:
    """GPUs of this machine that CUDA_VISIBLE_DEVICES, or its like, leaves to this process."""
    prepare_environment()
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    num_gpus = int(manager.get_current_node_num_accelerators())
    visible = manager.get_current_process_visible_accelerator_ids()
    return num_gpus if visible is None else min(num_gpus, len(visible))
