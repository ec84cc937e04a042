"""The connection of this process to a Ray cluster: of one sweep, or kept for the sweeps of a ladder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from raycodellm.slots.threads import threads_left

if TYPE_CHECKING:
    from raycodellm.cluster import Cluster


class ClusterConnection:
    """Connects at the first sweep, and again only after `close`."""

    def __init__(self, *, is_kept: bool = False) -> None:
        """`is_kept`: the cluster stays after a sweep, for the next one."""
        self._is_kept = is_kept
        self._cluster: Cluster | None = None

    @property
    def is_open(self) -> bool:
        return self._cluster is not None

    def get(self, connect: Callable[[], Cluster], log: Path) -> Cluster:
        """The cluster, as it is now. `log`: the file of Ray's messages from now on."""
        from raycodellm import cluster

        if self._cluster is None:
            self._cluster = connect()
        else:
            self._cluster = cluster.looked_at_again(self._cluster, log)
        return self._cluster

    def end_sweep(self) -> None:
        """To be called when a sweep has ended."""
        if not self._is_kept:
            self.close()

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        from raycodellm import cluster

        self._cluster = None
        if not threads_left():  # to disconnect would crash a thread that waits for Ray
            cluster.disconnect()
