"""Reads which nodes a cluster's autoscaler may start: from its file, or from a running cluster."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raycodellm.cluster.capacity import Node, device_of
from raycodellm.cluster.waiting import Launches
from raycodellm.slots.head import ON_HEAD

_STATUS_KEY = "__autoscaling_status"
"""Key under which an autoscaler leaves its reports in the store of Ray's control service (GCS)."""
_MONITOR_SCRIPTS = ("_private/monitor.py", "v2/monitor.py")
"""Scripts that an autoscaler's process on the head node runs: version 1, version 2."""


@dataclass(frozen=True)
class Autoscaler:
    """The limits of a cluster's autoscaler."""

    max_workers: int
    """Most nodes beside the head, of all kinds together."""
    kinds: tuple[tuple[Node, int], ...]
    """Each kind of node with the most nodes of that kind."""

    def addable_nodes(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        """Nodes that may be started while `nodes` run, the largest first."""
        running = Counter(self._kind_of(node) for node in nodes)
        num_left = self.max_workers - sum(running[node.kind] for node, _ in self.kinds)
        candidates = [node for node, max_nodes in self.kinds for _ in range(max_nodes - running[node.kind])]
        candidates.sort(key=lambda node: (node.gpus, node.cpus), reverse=True)
        return tuple(candidates[: max(0, num_left)])

    def _kind_of(self, node: Node) -> str:
        """The node's kind. Version 1 of the autoscaler does not tell a node its kind, which shows in its size then."""
        if node.kind:
            return node.kind
        kinds_of_size = (other.kind for other, _ in self.kinds if (other.cpus, other.gpus) == (node.cpus, node.gpus))
        return next(kinds_of_size, "")


def read_autoscaler(cluster_file: Mapping[str, Any]) -> Autoscaler:
    """The limits that a parsed Ray cluster file sets."""
    total = int(cluster_file.get("max_workers", 0))
    kinds = []
    for name, spec in cluster_file.get("available_node_types", {}).items():
        if name != cluster_file.get("head_node_type"):
            resources = spec.get("resources", {})
            memory_bytes = int(resources.get("memory", 0))
            node = Node(resources.get("CPU", 0), resources.get("GPU", 0), memory_bytes, name, device_of(resources))
            kinds.append((node, int(spec.get("max_workers", total))))
    return Autoscaler(total, tuple(kinds))


def find_autoscaler() -> tuple[Autoscaler | None, bool]:
    """The autoscaler of the cluster that this process has joined, and whether its limits are known.

    Ray's API does not tell the limits, so a task on the head node reads them from the autoscaler's own file.
    """
    import ray
    from ray.experimental.internal_kv import _internal_kv_get

    address = ray.get_runtime_context().gcs_address
    text = ray.get(ray.remote(_autoscaler_file).options(num_cpus=0, resources=ON_HEAD).remote(address))
    if text is None:
        # Without a monitor on the head, an autoscaler may run elsewhere, as KubeRay's does: version 1 leaves reports,
        # and for version 2 the head was started with a switch.
        return None, not (_internal_kv_get(_STATUS_KEY) or _is_version_2())
    return (read_autoscaler(yaml.safe_load(text)) if text else None), True


def find_launches() -> Launches:
    """The nodes that the autoscaler of the joined cluster is starting, and those that it could not start."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_get

    text = _internal_kv_get(_STATUS_KEY)
    if text:
        return read_report(json.loads(text))
    if not _is_version_2():
        return Launches()
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    starting = Counter(node.ray_node_type_name for node in status.pending_nodes)
    for launch in status.pending_launches:
        starting[launch.ray_node_type_name] += launch.count
    failures = {
        f"{launch.ray_node_type_name} ({launch.details or 'no reason told'})" for launch in status.failed_launches
    }
    return Launches(tuple(starting.items()), tuple(sorted(failures)))


def read_report(report: Mapping[str, Any]) -> Launches:
    """The launches in the report that version 1 of the autoscaler leaves every few seconds."""
    status = report.get("autoscaler_report") or {}
    starting = Counter({str(kind): int(count) for kind, count in (status.get("pending_launches") or {}).items()})
    starting.update(str(kind) for _, kind, *_ in status.get("pending_nodes") or ())
    kinds = (status.get("node_availability_summary") or {}).get("node_availabilities") or {}
    failures = []
    for kind, availability in kinds.items():
        reason = availability.get("unavailable_node_information")
        if not availability.get("is_available", True) and reason:
            failures.append(f"{kind} ({reason.get('category')}: {reason.get('description')})")
    return Launches(tuple((kind, count) for kind, count in starting.items() if count), tuple(failures))


def _is_version_2() -> bool:
    """True if the head was started with the switch of the autoscaler's version 2."""
    from ray._raylet import (  # type: ignore[attr-defined]  # constants of the compiled part
        GCS_AUTOSCALER_STATE_NAMESPACE,
        GCS_AUTOSCALER_V2_ENABLED_KEY,
    )
    from ray.experimental.internal_kv import _internal_kv_get

    return _internal_kv_get(GCS_AUTOSCALER_V2_ENABLED_KEY, namespace=GCS_AUTOSCALER_STATE_NAMESPACE) == b"1"


def _autoscaler_file(address: str) -> str | None:
    """Text of the autoscaler's file, read on the head node; "" without such a file, None where no autoscaler runs.

    `address`: host:port of the cluster's control service, since a machine may be the head of several clusters.
    """
    import psutil

    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    monitors = [words for words in commands if any(word.endswith(_MONITOR_SCRIPTS) for word in words)]
    candidates = [words for words in monitors if f"--gcs-address={address}" in words] or monitors[:1]
    for words in candidates:
        files = [word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")]
        return Path(files[0]).expanduser().read_text() if files and files[0] else ""
    return None
