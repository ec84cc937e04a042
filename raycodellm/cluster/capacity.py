"""Says what fits on a cluster, and why something does not: arithmetic on `Node` records, without Ray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm.config import Scaling

SPARE_CPUS = 1
"""Left to Ray Data's tasks: training workers that hold every CPU wait for their own data for ever."""


@dataclass(frozen=True)
class Node:
    cpus: float
    """Logical: what Ray may hand out, busy or not."""
    gpus: float = 0.0
    memory_bytes: int = 0
    kind: str = ""
    """The autoscaler's name of the node type, where there is one."""


def bundles_that_fit(node: Node, scaling: Scaling) -> int:
    """Workers that `node` can hold at once. A part of a GPU lies on one GPU: two workers of 0.6 need two."""
    fit = math.floor(node.cpus / scaling.cpus_per_worker + 1e-9)
    share = scaling.gpus_per_worker
    if share > 1 and share != int(share):
        return 0  # Ray refuses such a request
    if share >= 1:
        fit = min(fit, math.floor(node.gpus / share + 1e-9))
    elif share > 0:
        fit = min(fit, math.floor(node.gpus + 1e-9) * math.floor(1 / share + 1e-9))
    return max(0, fit)


def slots_that_fit(nodes: Sequence[Node], scaling: Scaling) -> int:
    """Worker groups that `nodes` can hold at once, with a CPU of one node left to Ray Data.

    A worker lies on one node, a group may lie on several.
    """
    bundles = [bundles_that_fit(node, scaling) for node in nodes]
    lost = [
        fit - bundles_that_fit(Node(node.cpus - SPARE_CPUS, node.gpus), scaling)
        for node, fit in zip(nodes, bundles, strict=True)
        if node.cpus >= SPARE_CPUS
    ]
    return (sum(bundles) - min(lost)) // scaling.workers if lost else 0


def why_not(nodes: Sequence[Node], autoscaled: Sequence[Node], scaling: Scaling) -> str | None:
    """Why not one worker group can ever be placed on `nodes` and those that the autoscaler may add; None if it can."""
    everything = [*nodes, *autoscaled]
    if slots_that_fit(everything, scaling):
        return None
    share = scaling.gpus_per_worker
    if share > 1 and share != int(share):
        return f"scaling.gpus_per_worker is {share:g}, but a worker gets whole GPUs or a part of one; use {int(share)}"
    need = f"{scaling.cpus_per_worker:g} CPU" + (f" + {share:g} GPU" if share else "")
    group = f"a worker group needs {scaling.workers} × ({need})"
    has = f"the cluster has {_total(nodes)}"
    if autoscaled:
        has += f", and the autoscaler may add {_total(autoscaled)}"
    fit = sum(bundles_that_fit(node, scaling) for node in everything)
    if fit >= scaling.workers:
        return (
            f"{group}, which leaves no CPU free for reading data: {has}; "
            f"add a CPU, or lower scaling.workers or scaling.cpus_per_worker"
        )
    if share and not any(node.gpus for node in everything):
        return f"{group}, but {has}: no GPU; set scaling.gpus_per_worker to 0 or add GPU nodes"
    if fit == 0:
        largest = max(everything, key=lambda node: (node.gpus, node.cpus) if share else (node.cpus, 0), default=Node(0))
        what = f"{largest.cpus:g} CPU + {largest.gpus:g} GPU" if share else f"{largest.cpus:g} CPU"
        return (
            f"{group}, but {has}, and no node holds one worker (the largest: {what}); "
            "lower scaling.cpus_per_worker or scaling.gpus_per_worker, or add larger nodes"
        )
    return f"{group}, but only {fit} such workers fit: {has}; set scaling.workers to {fit} or less, or add nodes"


def _total(nodes: Sequence[Node]) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return f"{cpus:g} CPU + {gpus:g} GPU on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"


@dataclass(frozen=True)
class Autoscaler:
    """The nodes that a cluster's autoscaler may start."""

    max_workers: int
    """Nodes beside the head, of all kinds together."""
    kinds: tuple[tuple[Node, int], ...]
    """Each kind of node, and how many of it there may be."""

    def still_to_add(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        """Nodes that may be started beside `nodes`, the largest first."""
        names = {node.kind for node, _ in self.kinds}
        left = self.max_workers - sum(node.kind in names for node in nodes)
        found = [
            node for node, most in self.kinds for _ in range(most - sum(other.kind == node.kind for other in nodes))
        ]
        found.sort(key=lambda node: (node.gpus, node.cpus), reverse=True)
        return tuple(found[: max(0, left)])


def read_autoscaler(tree: dict[str, Any]) -> Autoscaler:
    """The limits that a Ray cluster file sets."""
    total = int(tree.get("max_workers", 0))
    kinds = []
    for name, spec in tree.get("available_node_types", {}).items():
        if name != tree.get("head_node_type"):
            has = spec.get("resources", {})
            node = Node(has.get("CPU", 0), has.get("GPU", 0), int(has.get("memory", 0)), name)
            kinds.append((node, int(spec.get("max_workers", total))))
    return Autoscaler(total, tuple(kinds))
