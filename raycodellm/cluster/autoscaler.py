"""Reads which nodes a cluster's autoscaler may start: from its file, or from a running cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raycodellm.cluster.capacity import Node

_STATUS_KEY = "__autoscaling_status"
"""Where an autoscaler leaves its reports in the key-value store of Ray's control service (GCS)."""
_MONITOR_SCRIPTS = ("_private/monitor.py", "v2/monitor.py")
"""Scripts that an autoscaler's process on the head node runs: version 1, version 2."""


@dataclass(frozen=True)
class Autoscaler:
    """The limits of a cluster's autoscaler."""

    max_workers: int
    """Most nodes beside the head, of all kinds together."""
    kinds: tuple[tuple[Node, int], ...]
    """Each kind of node with the most nodes of that kind."""

    def still_to_add(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        """Nodes that may be started while `nodes` run, the largest first."""
        names = {node.kind for node, _ in self.kinds}
        left = self.max_workers - sum(node.kind in names for node in nodes)
        addable = [
            node for node, most in self.kinds for _ in range(most - sum(other.kind == node.kind for other in nodes))
        ]
        addable.sort(key=lambda node: (node.gpus, node.cpus), reverse=True)
        return tuple(addable[: max(0, left)])


def read_autoscaler(cluster_file: Mapping[str, Any]) -> Autoscaler:
    """The limits that a parsed Ray cluster file sets."""
    total = int(cluster_file.get("max_workers", 0))
    kinds = []
    for name, spec in cluster_file.get("available_node_types", {}).items():
        if name != cluster_file.get("head_node_type"):
            resources = spec.get("resources", {})
            memory_bytes = int(resources.get("memory", 0))
            node = Node(resources.get("CPU", 0), resources.get("GPU", 0), memory_bytes, name)
            kinds.append((node, int(spec.get("max_workers", total))))
    return Autoscaler(total, tuple(kinds))


def find_autoscaler() -> tuple[Autoscaler | None, bool]:
    """The autoscaler of the cluster that this process has joined, and whether its limits are known.

    Ray's API does not tell the limits, so a task on the head node reads them from the autoscaler's own file.
    """
    import ray
    from ray.experimental.internal_kv import _internal_kv_get
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    address = ray.get_runtime_context().gcs_address
    head = next((n["NodeID"] for n in ray.nodes() if n["Alive"] and "node:__internal_head__" in n["Resources"]), None)
    if head is None:
        return None, False
    on_head = NodeAffinitySchedulingStrategy(head, soft=False)
    text = ray.get(ray.remote(_autoscaler_file).options(num_cpus=0, scheduling_strategy=on_head).remote(address))
    if text is None:
        # Without a monitor on the head, reports come from an autoscaler that runs elsewhere, as KubeRay's does.
        return None, not _internal_kv_get(_STATUS_KEY)
    return (read_autoscaler(yaml.safe_load(text)) if text else None), True


def _autoscaler_file(address: str) -> str | None:
    """Text of the autoscaler's file, read on the head node; "" without such a file, None where no autoscaler runs.

    `address`: host:port of the cluster's control service, since a machine may be the head of several clusters.
    """
    import psutil

    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    monitors = [words for words in commands if any(word.endswith(_MONITOR_SCRIPTS) for word in words)]
    of_cluster = [words for words in monitors if f"--gcs-address={address}" in words] or monitors[:1]
    for words in of_cluster:
        files = [word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")]
        return Path(files[0]).expanduser().read_text() if files and files[0] else ""
    return None
