"""Connects this process to a Ray cluster, one that runs already or a new one on this machine, and describes it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from raycodellm.cluster import auth_token, autoscaler, capacity, join, machine, start, waiting
from raycodellm.cluster.autoscaler import Autoscaler
from raycodellm.cluster.capacity import Node
from raycodellm.cluster.environment import prepare_environment
from raycodellm.config import Scaling

if TYPE_CHECKING:
    from raycodellm.dispatch import Sight

_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "ray.rllib", "ray.serve")


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to."""

    address: str
    """host:port of the control service (GCS) on the head node."""
    dashboard_url: str | None
    started_here: bool
    """True if `connect` started the cluster, on this machine alone."""
    nodes: tuple[Node, ...]
    """The nodes that lived when `connect` looked."""
    autoscaler: Autoscaler | None = None
    limits_known: bool = True
    """False where an autoscaler runs that does not tell its limits (KubeRay's)."""
    session_folder: str = ""
    """Folder of the Ray session, the same path on all nodes; its `logs` are what the dashboard's Logs page shows."""

    @property
    def autoscaled(self) -> tuple[Node, ...]:
        """Nodes that the autoscaler could add when `connect` looked."""
        return self._addable(self.nodes)

    def placement_problem(self, scaling: Scaling) -> str | None:
        """Why the cluster, as it is now, can never hold a worker group; None if it can, or its limits are unknown."""
        return self._placement_problem(join.nodes(), scaling)

    def look(self, scaling: Scaling) -> Sight:
        """Looks at the room that the cluster has now."""
        from raycodellm.dispatch import Sight

        live = join.live_nodes()
        nodes = tuple(node.total for node in live)
        reason = None
        if join.waits_for_place(scaling):
            launches = waiting.Launches() if self.started_here else autoscaler.find_launches()
            reason = waiting.waiting_reason(live, self._addable(nodes), scaling, launches, self.limits_known)
        return Sight(len(live), reason, self._placement_problem(nodes, scaling))

    def _placement_problem(self, nodes: Sequence[Node], scaling: Scaling) -> str | None:
        if not self.limits_known:
            return None
        return capacity.placement_problem(nodes, self._addable(nodes), scaling)

    def _addable(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        return self.autoscaler.addable_nodes(nodes) if self.autoscaler else ()

    def slots_that_fit(self, scaling: Scaling) -> int:
        """Worker groups that can run at once: the meaning of `scaling.slots: auto` on this cluster."""
        num_slots = capacity.slots_that_fit([*self.nodes, *self.autoscaled], scaling)
        if self.started_here:  # a local cluster may have more logical CPUs than cores
            gpus = sum(node.gpus for node in self.nodes)
            return min(num_slots, max(1, capacity.workers_on(Node(machine.cores(), gpus), scaling) // scaling.workers))
        if self.limits_known:
            return num_slots
        return scaling.slots if isinstance(scaling.slots, int) else max(1, num_slots)

    @property
    def slots_at_once(self) -> int | None:
        """Worker groups that should start together; None for any number."""
        return capacity.slots_at_once(machine.cores()) if self.started_here else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user."""
        notes = []
        if self.started_here and self.dashboard_url and os.environ.get("RAY_AUTH_MODE") == "token":
            notes.append("the dashboard asks once for a token: `ray get-auth-token` prints it")
            notes += auth_token.token_warnings()
        if not self.limits_known:
            notes.append(
                "the autoscaler does not tell its limits: set scaling.slots to the worker groups that it may make room "
                "for, since auto counts the nodes that run now; workers that no node type can hold wait for ever"
            )
        return tuple(notes)


def connect(
    address: str | None,
    scaling: Scaling,
    *,
    log_to: Path,
    say: Callable[[str], None] = lambda line: None,
    metadata: Mapping[str, str] | None = None,
) -> Cluster:
    """Joins the cluster at `address` (or RAY_ADDRESS), or starts one on this machine; Ray's messages go to `log_to`.

    `say` hears what a long start waits for. `metadata`: what the dashboard tells of this process's job; `job_name` is
    its name. Whether the sweep fits is for `Cluster.placement_problem` to say.
    Raises `UserError` naming the address where no cluster answers, `RayNotStarted` where none can be started here.
    """
    prepare_environment()
    _log_to(log_to)
    address = address or os.environ.get("RAY_ADDRESS") or None
    starts_here = address in (None, "local")
    with _keep_sigterm_handler():
        if address is None or address == "local":
            gpus = machine.gpus()
            context = start.start(capacity.local_cpus(machine.cores(), gpus, scaling), gpus, say, metadata)
            limits, limits_known = None, True
        else:
            context = join.join(address, metadata)
            limits, limits_known = autoscaler.find_autoscaler()
    dashboard_url = f"http://{context.dashboard_url}" if context.dashboard_url else None
    gcs_address = context.address_info["gcs_address"]
    session_folder = context.address_info["session_dir"]
    return Cluster(gcs_address, dashboard_url, starts_here, join.nodes(), limits, limits_known, session_folder)


def looked_at_again(cluster: Cluster, log_to: Path) -> Cluster:
    """The cluster that this process is still connected to, with the nodes that live now; Ray's messages go to
    `log_to` from now on."""
    _log_to(log_to)
    return replace(cluster, nodes=join.nodes())


def disconnect() -> None:
    """Leaves the cluster; a cluster that `connect` started ends."""
    import ray

    ray.shutdown()


@contextlib.contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    """Puts this process's own handler of SIGTERM back after `ray.init`, and lets it answer a SIGTERM meanwhile.

    Ray's handler exits. Below it, Ray's C++ library installs another, which calls ours and ends the process with
    SIGABRT 3 s later, while stages are being saved.
    """
    ours = signal.getsignal(signal.SIGTERM)
    if ours in (signal.SIG_DFL, None) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit:  # Ray's handler of SIGTERM
        if callable(ours):
            ours(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, ours)


def _log_to(path: Path) -> None:
    """Sends the messages of Ray's loggers to the file, and to no earlier file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for attached in list(logger.handlers):
            if isinstance(attached, logging.FileHandler):
                logger.removeHandler(attached)
                attached.close()
        logger.setLevel(logging.INFO)
    # One handler at the root of Ray's loggers: the others pass their messages up to it.
    logging.getLogger("ray").addHandler(handler)
    logging.getLogger("ray").propagate = False
