"""A worker's talk with Ray Train while jobs run: it reports rows of metrics, and hears that a node will be taken away.

Each of these calls to Ray Train is a barrier of all workers, and all workers must make the calls in the same order. So
one thread makes them, in a round every few seconds, and training waits for none.
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
    """True if Ray Train watches for nodes that are being taken away; `cluster` switches that off on one machine."""
    return os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1").lower() not in ("0", "false")


class RayTrain:
    """One worker's side of the rounds."""

    def __init__(self, on_preemption: Callable[[str], None]) -> None:
        """`on_preemption` is called once, with the cause, when a node of the worker group is being taken away."""
        self._on_preemption = on_preemption
        self._row: Mapping[str, Any] = {}

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Keeps a row for the next round, which reports only the newest row; `metrics.parquet` has them all."""
        self._row = row

    def start(self, ask_for_nodes: bool, is_alone: bool = False) -> None:
        """Begins the rounds. A collective. `ask_for_nodes`: whether Ray Train watches the nodes, equal on all ranks;
        `is_alone`: whether the worker is the only one of its group, who need not agree with others."""
        arguments = (ask_for_nodes, is_alone)
        threading.Thread(target=self._rounds, args=arguments, name="raycodellm-ray-train", daemon=True).start()

    def _rounds(self, ask_for_nodes: bool, is_alone: bool) -> None:
        import ray.train
        from ray.train import collective

        no_event, reported_row = threading.Event(), self._row
        while not no_event.wait(ROUND_SECONDS):
            try:
                info = ray.train.get_preemption_info() if ask_for_nodes else None
                if info is not None:
                    nodes = ", ".join(node[:8] for node in info.preempted_node_ids)
                    self._on_preemption(f"Ray is taking node {nodes} away")
                    return
                row = self._row
                is_new = row is not reported_row
                if is_new if is_alone else collective.broadcast_from_rank_zero(is_new):
                    ray.train.report(dict(row))
                    reported_row = row
            except ray.exceptions.RayError:  # the worker group is ending, and its barrier is gone
                logger.info("no longer talking to Ray Train", exc_info=True)
                return
