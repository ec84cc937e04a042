"""Nodes that are processes of this machine, for Ray's autoscaler; one whose raylet has ended is gone, as in a cloud."""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class PretendedNodes(FakeMultiNodeProvider):
    """Ray's own lists a node for ever after it has died, and waits for it."""

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self.lock:
            for name, description in list(self._nodes.items()):
                node: Any = description.get("node")
                if node is not None and any(kind == "raylet" for kind, _ in node.dead_processes()):
                    node.kill_all_processes(check_alive=False, allow_graceful=False)
                    del self._nodes[name]
        return super().non_terminated_nodes(tag_filters)
