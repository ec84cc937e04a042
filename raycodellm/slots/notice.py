"""Notice to leave: SIGTERM to a worker's process, or Ray's message that the worker's node will be taken away.

A spot node gives 30 to 120 seconds. So a notice only sets a flag, which the stage reads before each step.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

_terminated = threading.Event()


def listen_for_sigterm() -> None:
    """Turns the next SIGTERM of this process into a notice. A second SIGTERM ends the process, as Ray expects.

    Call it on the main thread, where Python handles signals. The worker's main thread runs Ray's calls, at the latest
    the next health check (`RAY_TRAIN_HEALTH_CHECK_INTERVAL_S`); training runs in another thread.
    """
    previous_handler = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, previous_handler)
        _terminated.set()

    _terminated.clear()
    signal.signal(signal.SIGTERM, handle)


class Notice:
    """Hears whether one worker is told to leave, and why."""

    def __init__(self, on_notice: Callable[[str], None]) -> None:
        """`on_notice` is called with the cause, once, immediately and on another thread."""
        self._on_notice = on_notice
        self._preemption_cause: str | None = None

    @property
    def cause(self) -> str | None:
        """Why the worker was told to leave; None while it may stay."""
        return "SIGTERM" if _terminated.is_set() else self._preemption_cause

    def listen(self) -> Notice:
        """Starts a thread that waits for SIGTERM."""
        threading.Thread(target=self._wait_for_sigterm, name="raycodellm-sigterm", daemon=True).start()
        return self

    def preempted(self, cause: str) -> None:
        """The worker's node, or that of another worker of its group, is being taken away."""
        self._preemption_cause = cause
        self._on_notice(cause)

    def _wait_for_sigterm(self) -> None:
        _terminated.wait()
        self._on_notice("SIGTERM")


def sigterm_callback() -> Any:
    """A Ray Train callback: each worker listens for SIGTERM on its main thread before its loop begins."""
    # Private, and the only hook of Ray Train that runs on a worker's main thread.
    from ray.train.v2._internal.execution.callback import WorkerCallback

    class ListenForSigterm(WorkerCallback):
        def after_init_train_context(self) -> None:
            listen_for_sigterm()

    return ListenForSigterm()
