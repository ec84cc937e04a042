"""Says why no further slot fits on a cluster now, and what would end that: arithmetic on what each node has free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raycodellm.cluster.capacity import Node, group_needed, placement_problem, workers_on
from raycodellm.config import Scaling

MOST_NODES = 4
"""Nodes that a sentence names one by one; of more it names those with the most room."""


@dataclass(frozen=True)
class LiveNode:
    """A node that lives, with the part of it that nobody uses."""

    name: str
    """Its address, or "the head"."""
    total: Node
    free: Node


@dataclass(frozen=True)
class Launches:
    """A cluster's autoscaler's report of its own work."""

    starting: tuple[tuple[str, int], ...] = ()
    """Each kind of node with how many of them are being started."""
    failures: tuple[str, ...] = ()
    """Why nodes could not be started, in the provider's words, by kind."""


def waiting_reason(
    live: Sequence[LiveNode],
    addable: Sequence[Node],
    scaling: Scaling,
    launches: Launches = Launches(),
    limits_known: bool = True,
) -> str | None:
    """Why a slot that waits for a place gets none; None if it fits on what is free.

    `addable`: nodes that the autoscaler may still start. `limits_known`: False where an autoscaler runs that does not
    tell which these are.
    """
    num_free_places = sum(workers_on(node.free, scaling) for node in live)
    if num_free_places >= scaling.workers:
        return None
    need = f"{group_needed(scaling)}; free: {_free(live, scaling)}"
    if launches.starting:
        nodes = " and ".join(f"{count} × {kind}" for kind, count in launches.starting)
        return f"{need}. The autoscaler is starting {nodes}{_launch_failures(launches)}"
    if num_free_places + sum(workers_on(node, scaling) for node in addable) >= scaling.workers:
        kinds = " or ".join(_kinds(addable, scaling))
        return f"{need}. Waits for the autoscaler, which may add {kinds}{_launch_failures(launches)}"
    if sum(workers_on(node.total, scaling) for node in live) >= scaling.workers:
        condition = "other work on these nodes ends, or nodes are added"
        return f"{need}. Starts when {condition}{_launch_failures(launches)}"
    if not limits_known:
        return f"{need}. Waits for the autoscaler, which does not tell what it may add{_launch_failures(launches)}"
    return placement_problem([node.total for node in live], addable, scaling)


def _free(live: Sequence[LiveNode], scaling: Scaling) -> str:
    """The free part of each node: "1 of 1 CPU on the head, 0 of 2 CPU on 10.0.0.7"."""
    with_gpus = scaling.gpus_per_worker > 0
    roomiest_first = sorted(live, key=lambda node: (node.free.gpus if with_gpus else 0, node.free.cpus), reverse=True)
    parts = []
    for node in roomiest_first[:MOST_NODES]:
        amounts = f"{node.free.cpus:g} of {node.total.cpus:g} CPU"
        if with_gpus:
            amounts += f" + {node.free.gpus:g} of {node.total.gpus:g} GPU"
        parts.append(f"{amounts} on {node.name}")
    num_unnamed = len(roomiest_first) - MOST_NODES
    if num_unnamed > 0:
        parts.append(f"less on {num_unnamed} other node{'s' if num_unnamed > 1 else ''}")
    return ", ".join(parts) or "no node"


def _kinds(addable: Sequence[Node], scaling: Scaling) -> list[str]:
    """The nodes that may be added and hold a worker, counted by kind: "2 × gpu (4 CPU + 1 GPU)"."""
    useful = [node for node in addable if workers_on(node, scaling)]
    kinds = dict.fromkeys(useful)  # in their order, the largest first
    return [
        f"{useful.count(node)} × {node.kind or 'node'} ({node.cpus:g} CPU"
        + (f" + {node.gpus:g} GPU)" if node.gpus else ")")
        for node in kinds
    ]


def _launch_failures(launches: Launches) -> str:
    return f"; it could not start others: {'; '.join(launches.failures)}" if launches.failures else ""
