"""Starts Ray on this machine, with patience on a busy machine, new tries after failures, and causes in words.

Ray waits 60 s for its dashboard and 30 s for its node process, whatever these processes are doing. Here a start goes on
for as long as the process that it waits for gets work done. A process that gets none is ended, and the start is tried
again on other ports.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from raycodellm.cluster import setup_worker
from raycodellm.cluster.auth_token import write_token
from raycodellm.cluster.environment import without_variables
from raycodellm.cluster.startup_wait import StartupWait, descendants, kill_ray_processes

logger = logging.getLogger("ray")

MAX_TRIES = 3
DASHBOARD_PORTS = range(8265, 8265 + 51)
"""Ports that Ray tries one after the other when no port is given."""


class RayNotStarted(Exception):
    """No Ray cluster could be started on this machine."""


def start(num_cpus: int, num_gpus: int, say: Callable[[str], None], metadata: Mapping[str, str] | None = None) -> Any:
    """Ray's context of a new cluster; `say` hears what the start waits for, and why it is tried again.

    `metadata`: what the dashboard tells of this process's job. Raises RayNotStarted with the cause in words.
    """
    from ray.job_config import JobConfig

    # Nobody takes this machine away with a notice, and the watcher for such notices is one more process per slot.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Ray asks for a token unless RAY_AUTH_MODE says otherwise. This default stays: Ray listens on every network
    # interface, and without the token anyone on the network could run code as this user.
    write_token()
    job = JobConfig(metadata=dict(metadata or {}))
    settings: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "job_config": job}
    if not any(map(is_free, DASHBOARD_PORTS)):  # Ray's dashboard would stand still for a minute, then give up
        settings["dashboard_port"] = free_port()
    began_at = time.monotonic()
    for tries_left in reversed(range(MAX_TRIES)):
        try:
            return _start_once(settings, say)
        except Exception as error:  # Ray raises no narrower class here
            reason = explain(str(error) or type(error).__name__)
            logger.warning("Ray did not start", exc_info=True)
            if not tries_left:
                seconds = time.monotonic() - began_at
                raise RayNotStarted(
                    f"Ray did not start on this machine, tried {MAX_TRIES} times in {seconds:.0f} s: {reason}; end "
                    "other programs, or start a cluster by `ray start --head` and give its --address"
                ) from error
            say(f"Ray did not start: {reason}; trying again on other ports")
            settings["dashboard_port"] = free_port()
    raise AssertionError("unreachable")


def _start_once(settings: dict[str, Any], say: Callable[[str], None]) -> Any:
    """Starts Ray once. Where the start fails, the processes that it left are ended."""
    import psutil
    import ray

    earlier_pids = {child.pid for child in psutil.Process().children(recursive=True)}
    try:
        with (
            without_variables("RAY_ADDRESS"),
            setup_worker.in_place_of_rays(),
            # Processes started with SIGHUP blocked outlive a terminal that is closed, so that stages can be saved.
            _blocked(signal.SIGHUP),
            StartupWait(earlier_pids, say),
        ):
            return ray.init(
                address="local",
                # Takes 1 s of 5, but Ray's clean-up after a killed training run asks the dashboard, and hangs without.
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                configure_logging=False,
                **settings,
            )
    except BaseException:
        kill_ray_processes(descendants(earlier_pids))
        raise


def explain(text: str) -> str:
    """Why Ray did not start, in words, from the text of its error: mostly the end of its dashboard's log."""
    log_path = re.search(r"(/\S+/(?:dashboard|gcs_server)\.(?:log|err|out))", text)
    log = f" (its log: {log_path[1]})" if log_path else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "valid port" in text or "already occupied" in text or "ddress already in use" in text:
        return f"its dashboard found no free port{log}"
    if "No space left" in text:
        return f"no space is left on the disk of /tmp/ray{log}"
    if "timed out during startup" in text:
        return "its node process (raylet) did not come up; its logs are in /tmp/ray/session_latest/logs"
    if "Failed to start GCS" in text:
        return f"its control service (GCS) did not answer{log}"
    if log_path or "dashboard" in text.lower():
        return f"its dashboard did not come up{log}"
    return lines[-1][:200] if lines else "no reason was given"


def is_free(port: int) -> bool:
    """True if this process could listen on the local TCP port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:  # another process has it
            return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _blocked(signal_number: int) -> Iterator[None]:
    """Holds the signal back until the body has ended; processes started in the body never receive it."""
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal_number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)
