"""Ray clusters: joining one, or starting one on this machine; what is known of it, and leaving it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raycodellm.cluster import join, machine, start, token_file
from raycodellm.cluster.capacity import Autoscaler, Node, bundles_that_fit, slots_that_fit, why_not
from raycodellm.cluster.environment import prepare_environment
from raycodellm.cluster.patience import replaced
from raycodellm.config import Scaling

_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "ray.rllib", "ray.serve")


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to."""

    address: str
    dashboard_url: str | None
    started_here: bool
    nodes: tuple[Node, ...]
    """Alive when `connect` looked."""
    autoscaler: Autoscaler | None = None
    limits_known: bool = True
    """False where an autoscaler runs that does not tell its limits (KubeRay's)."""

    @property
    def autoscaled(self) -> tuple[Node, ...]:
        """Nodes that could be added when `connect` looked."""
        return self.autoscaler.still_to_add(self.nodes) if self.autoscaler else ()

    def why_not(self, scaling: Scaling) -> str | None:
        """Why no worker group can ever be placed on the cluster as it is now; None if one can, or nobody can tell."""
        if not self.limits_known:
            return None
        nodes = join.nodes()
        return why_not(nodes, self.autoscaler.still_to_add(nodes) if self.autoscaler else (), scaling)

    def slots_that_fit(self, scaling: Scaling) -> int:
        """Worker groups that can run at once: what `scaling.slots: auto` means here."""
        fit = slots_that_fit([*self.nodes, *self.autoscaled], scaling)
        if self.started_here:  # its logical CPUs may be more than its cores
            gpus = sum(node.gpus for node in self.nodes)
            return min(fit, max(1, bundles_that_fit(Node(machine.cores(), gpus), scaling) // scaling.workers))
        return fit if self.limits_known else max(1, fit)

    @property
    def slots_at_once(self) -> int | None:
        """Worker groups that should come up together; None for any number. Each takes two cores of this machine."""
        return max(1, machine.cores() // 2) if self.started_here else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user."""
        said = []
        if self.started_here and self.dashboard_url and os.environ.get("RAY_AUTH_MODE") == "token":
            said.append("the dashboard asks once for a token: `ray get-auth-token` prints it")
            said += token_file.warnings_of_token()
        if not self.limits_known:
            said.append("the autoscaler does not tell its limits: workers that no node type can hold wait for ever")
        return tuple(said)


def connect(
    address: str | None, scaling: Scaling, *, log_to: Path, say: Callable[[str], None] = lambda line: None
) -> Cluster:
    """Joins the cluster at `address` (or RAY_ADDRESS), or starts one on this machine; Ray's messages go to `log_to`.

    `say`: hears what a start waits for that takes long. Whether the sweep fits is for `why_not` to say.
    Raises `UserError` naming the address when there is no such cluster, `RayNotStarted` where none can be started here.
    """
    prepare_environment()
    _log_to(log_to)
    address = address or os.environ.get("RAY_ADDRESS") or None
    with _handler_kept():
        if address not in (None, "local"):
            context = join.join(address)
            autoscaler, limits_known = join.autoscaler()
        else:
            gpus = machine.gpus()
            context = start.start(machine.local_cpus(machine.cores(), gpus, scaling), gpus, say)
            autoscaler, limits_known = None, True
    return Cluster(
        context.address_info["gcs_address"],
        f"http://{context.dashboard_url}" if context.dashboard_url else None,
        address in (None, "local"),
        join.nodes(),
        autoscaler,
        limits_known,
    )


def disconnect(cluster: Cluster) -> None:
    """Leaves the cluster; one that `connect` started ends."""
    import ray

    ray.shutdown()


@contextlib.contextmanager
def _handler_kept() -> Iterator[None]:
    """This process's handler of SIGTERM, where it has one, is in its place again after `ray.init`.

    Ray puts a handler of its own there, and below that one of its C++ library, which calls ours and then ends the
    process with SIGABRT after 3 s, while stages are being saved.
    """
    ours = signal.getsignal(signal.SIGTERM)
    if ours in (signal.SIG_DFL, None) or threading.current_thread() is not threading.main_thread():
        yield
        return
    from ray._private import utils

    with replaced(utils, "set_sigterm_handler", lambda handler: None):
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, ours)


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for old in [h for h in logger.handlers if isinstance(h, logging.FileHandler)]:
            logger.removeHandler(old)
            old.close()
        logger.setLevel(logging.INFO)
    # One handler at the root of Ray's loggers: the others pass their messages up to it.
    logging.getLogger("ray").addHandler(handler)
    logging.getLogger("ray").propagate = False
