"""How long a start of Ray is waited for: while the process that it waits for gets work done."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from raycodellm.cluster.environment import without

logger = logging.getLogger("ray")

SAY_SECONDS = 15.0
"""Between two lines about a start that takes long."""
STUCK_SECONDS = 60.0
"""After which a process that used less than `WORK_SECONDS` of a core is taken for stuck."""
WORK_SECONDS = 1.0
LONGEST_SECONDS = 600.0
"""For one try, however busy."""
GCS_SECONDS = 120.0
"""For the control service alone, which Ray waits for without a look at whether it still runs."""
_PARTS = (("raylet", "node process (raylet)"), ("dashboard.py", "dashboard"), ("gcs_server", "control service (GCS)"))
"""In their command lines, the last one started first."""


class Progress:
    """True if a process still gets work done, by the CPU seconds it has used."""

    def __init__(self, now: float) -> None:
        self._marks: dict[str, tuple[float, float]] = {}
        self.began = now

    def is_stuck(self, part: str, cpu_seconds: float, now: float) -> bool:
        """`part`: what is waited for; another one starts anew."""
        at, used = self._marks.setdefault(part, (now, cpu_seconds))
        # Less than before: a child of it has ended, which is work too.
        if abs(cpu_seconds - used) >= WORK_SECONDS:
            self._marks[part] = (now, cpu_seconds)
            return False
        return now - at >= STUCK_SECONDS or now - self.began >= LONGEST_SECONDS


class Patience:
    """While inside, `ray.init` waits for as long as what it waits for makes progress."""

    def __init__(self, before: set[int], say: Callable[[str], None]) -> None:
        self._before, self._say = before, say
        self._ended, self._stuck = threading.Event(), False
        self._stack = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._watch, name="raycodellm-ray-start", daemon=True)

    def __enter__(self) -> None:
        from ray._private import ray_constants, services

        self._stack.enter_context(replaced(ray_constants, "RAY_DASHBOARD_STARTUP_TIMEOUT_S", LONGEST_SECONDS))
        get_node = getattr(services, "get_node", None)
        if get_node is not None:
            self._stack.enter_context(replaced(services, "get_node", lambda *names: self._when_there(get_node, names)))
        self._stack.enter_context(_variable("RAY_gcs_server_port_wait_time_s", f"{GCS_SECONDS:.0f}"))
        self._thread.start()

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._thread.join()
        self._stack.close()

    def _when_there(self, get_node: Callable[..., Any], names: Sequence[Any]) -> Any:
        """The node's description as Ray's own function gives it, which raises until the node has reported."""
        while True:
            try:
                return get_node(*names)
            except RuntimeError:
                part, _ = _waited_for(children(self._before))
                if self._stuck or part != _PARTS[0][1]:  # or it has ended
                    raise
            time.sleep(0.1)

    def _watch(self) -> None:
        progress = Progress(time.monotonic())
        said = time.monotonic()
        while not self._ended.wait(1.0):
            part, processes = _waited_for(children(self._before))
            now = time.monotonic()
            if progress.is_stuck(part, _cpu_seconds(processes), now):
                self._stuck = True
                logger.warning("Ray's %s gets no work done; ending it", part)
                kill(processes)
            elif now - said >= SAY_SECONDS:
                said = now
                self._say(f"starting Ray: waiting for its {part}, {now - progress.began:.0f} s so far")


def _waited_for(children: Sequence[Any]) -> tuple[str, list[Any]]:
    """(what a start waits for, in words; its processes)."""
    for name, words in _PARTS:
        found = [child for child in children if any(name in word for word in _command(child))]
        if found:
            below = [grandchild for child in found for grandchild in _below(child)]
            return words, [*found, *below]
    return _PARTS[-1][1], list(children)


def children(before: set[int]) -> list[Any]:
    """Processes under this one that were not there before."""
    import psutil

    return [child for child in psutil.Process().children(recursive=True) if child.pid not in before]


def _below(process: Any) -> list[Any]:
    import psutil

    try:
        return process.children(recursive=True)
    except psutil.Error:  # ended meanwhile
        return []


def _command(process: Any) -> list[str]:
    import psutil

    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _cpu_seconds(processes: Sequence[Any]) -> float:
    import psutil

    used = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def kill(processes: Sequence[Any]) -> None:
    """Ray's processes among these."""
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            if any("ray" in word for word in _command(process)):
                process.kill()


@contextlib.contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, the module's attribute has another value. Where a version of Ray has none, it goes on as it would."""
    if not hasattr(module, name):
        yield
        return
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    with without(name):
        os.environ[name] = value
        try:
            yield
        finally:
            del os.environ[name]
