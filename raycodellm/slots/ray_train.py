"""What a worker and Ray Train say to each other while jobs run: rows of metrics, and that a node will be taken away.

Each of these calls to Ray Train is a barrier of all workers, which they must come to in the same order: so all of them
come from one thread, a round every few seconds, and training waits for none.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)

ROUND_SECONDS = 2.0


def nodes_are_watched() -> bool:
    """Whether Ray Train looks out for nodes that are being taken away; `cluster` switches it off for this machine."""
    return os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1").lower() not in ("0", "false")


class RayTrain:
    """One worker's side of the rounds."""

    def __init__(self, on_preemption: Callable[[str], None]) -> None:
        """`on_preemption`: hears the cause, once, when a node of the worker group is being taken away."""
        self._on_preemption = on_preemption
        self._row: Mapping[str, Any] = {}

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Leaves a row for the next round, where only the newest is reported: `metrics.parquet` has them all."""
        self._row = row

    def start(self, ask_for_nodes: bool) -> None:
        """Begins the rounds. A collective; `ask_for_nodes`: whether Ray Train watches them, the same on all ranks."""
        settings = {"target": self._rounds, "args": (ask_for_nodes,), "name": "raycodellm-ray-train"}
        threading.Thread(**settings, daemon=True).start()

    def _rounds(self, ask_for_nodes: bool) -> None:
        import ray.train
        from ray.train import collective

        never, reported = threading.Event(), self._row
        while not never.wait(ROUND_SECONDS):
            try:
                info = ray.train.get_preemption_info() if ask_for_nodes else None
                if info is not None:
                    nodes = ", ".join(node[:8] for node in info.preempted_node_ids)
                    self._on_preemption(f"Ray is taking node {nodes} away")
                    return
                row = self._row
                if collective.broadcast_from_rank_zero(row is not reported):
                    ray.train.report(dict(row))
                    reported = row
            except ray.exceptions.RayError:  # the worker group is coming to its end, and its barrier is gone
                logger.info("no longer talking to Ray Train", exc_info=True)
                return
