"""Waits for a start of Ray for as long as the part of Ray that it waits for gets work done."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from raycodellm.cluster.environment import LONGEST_START_SECONDS

if TYPE_CHECKING:
    from psutil import Process

logger = logging.getLogger("ray")

SAY_SECONDS = 15.0
"""Between two lines about a start that takes long."""
STUCK_SECONDS = 60.0
"""A part that uses less than `WORK_SECONDS` of a core in this time is stuck."""
WORK_SECONDS = 1.0
_RAYLET = "node process (raylet)"
_PARTS = (("raylet", _RAYLET), ("dashboard.py", "dashboard"), ("gcs_server", "control service (GCS)"))
"""(word in the command line, name for the user) of each part of Ray; the part that Ray starts last comes first."""


class ProgressMeter:
    """Tells from CPU seconds whether a part of Ray still gets work done."""

    def __init__(self, now: float) -> None:
        """`now`: seconds on a monotonic clock, as in `is_stuck`."""
        self._marks: dict[str, tuple[float, float]] = {}
        self.began = now

    def is_stuck(self, part: str, cpu_seconds: float, now: float) -> bool:
        """`cpu_seconds`: used so far by the processes of `part`. Each part is measured from its first call on."""
        marked_at, marked_cpu_seconds = self._marks.setdefault(part, (now, cpu_seconds))
        # CPU seconds fall when a child process has ended, which is work too.
        if abs(cpu_seconds - marked_cpu_seconds) >= WORK_SECONDS:
            self._marks[part] = (now, cpu_seconds)
            return False
        return now - marked_at >= STUCK_SECONDS or now - self.began >= LONGEST_START_SECONDS


class StartupWait:
    """A context in which `ray.init` waits for as long as the part that it waits for makes progress."""

    def __init__(self, earlier_pids: set[int], say: Callable[[str], None]) -> None:
        """`earlier_pids`: ids of this process's descendants before the start. `say` hears what is waited for."""
        self._earlier_pids, self._say = earlier_pids, say
        self._ended, self._stuck = threading.Event(), False
        self._patches = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._watch, name="raycodellm-ray-start", daemon=True)

    def __enter__(self) -> None:
        from ray._private import services

        get_node = getattr(services, "get_node", None)
        if get_node is not None:

            def patient_get_node(*names: Any) -> Any:
                return self._wait_for_node(get_node, names)

            self._patches.enter_context(_replaced(services, "get_node", patient_get_node))
        self._thread.start()

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._thread.join()
        self._patches.close()

    def _wait_for_node(self, get_node: Callable[..., Any], names: Sequence[Any]) -> Any:
        """The node's description. Ray's `get_node` raises until the node has reported, and Ray calls it for 30 s."""
        while True:
            try:
                return get_node(*names)
            except RuntimeError:
                part, _ = _part_in_start(descendants(self._earlier_pids))
                if self._stuck or part != _RAYLET:  # the raylet is stuck, or has ended
                    raise
            time.sleep(0.1)

    def _watch(self) -> None:
        meter = ProgressMeter(time.monotonic())
        said_at = time.monotonic()
        while not self._ended.wait(1.0):
            part, processes = _part_in_start(descendants(self._earlier_pids))
            now = time.monotonic()
            if meter.is_stuck(part, _cpu_seconds(processes), now):
                self._stuck = True
                logger.warning("Ray's %s gets no work done; ending it", part)
                kill_ray_processes(processes)
            elif now - said_at >= SAY_SECONDS:
                said_at = now
                self._say(f"starting Ray: waiting for its {part}, {now - meter.began:.0f} s so far")


def _part_in_start(processes: Sequence[Process]) -> tuple[str, list[Process]]:
    """(the part of Ray that was started last and so is waited for, its processes with their descendants)."""
    for word, part in _PARTS:
        running = [process for process in processes if any(word in argument for argument in _command(process))]
        if running:
            return part, [*running, *(child for process in running for child in _children(process))]
    return _PARTS[-1][1], list(processes)


def descendants(earlier_pids: set[int]) -> list[Process]:
    """Processes below this one, without those whose ids are in `earlier_pids`."""
    import psutil

    return [child for child in psutil.Process().children(recursive=True) if child.pid not in earlier_pids]


def _children(process: Process) -> list[Process]:
    import psutil

    try:
        return process.children(recursive=True)
    except psutil.Error:  # the process has ended
        return []


def _command(process: Process) -> list[str]:
    import psutil

    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _cpu_seconds(processes: Sequence[Process]) -> float:
    import psutil

    total_seconds = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total_seconds += times.user + times.system
    return total_seconds


def kill_ray_processes(processes: Sequence[Process]) -> None:
    """Ends those of the processes that belong to Ray."""
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            if any("ray" in word for word in _command(process)):
                process.kill()


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Gives the module's attribute another value while the body runs."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
