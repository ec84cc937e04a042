"""Stops a sweep at the user's wish."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol


class Halt(Protocol):
    """Says when no more trials should begin, and trials that end without a result stay open."""

    def is_set(self) -> bool: ...


@dataclass
class Stopper:
    """The first Ctrl-C, SIGTERM or SIGHUP stops running trials cleanly, or interrupts any other work; the next one
    interrupts in any case.

    SIGHUP stays ignored where it is ignored already, so that a run under `nohup` outlives its terminal.
    """

    stopping: threading.Event = field(default_factory=threading.Event)
    clean: bool = False
    """True if the code that runs now watches `stopping`; if not, a signal raises KeyboardInterrupt."""
    lost: threading.Event = field(default_factory=threading.Event)
    """Set when the sweep cannot continue, by no fault of a trial."""

    def is_set(self) -> bool:
        """True if no more trials should begin, and trials that end without a result stay open."""
        return self.stopping.is_set() or self.lost.is_set()

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    @contextlib.contextmanager
    def installed(self) -> Iterator[Stopper]:
        """Handles signals until the `with` ends. In any other thread than the main one, where Python takes no handlers,
        it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        self.install()
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        is_second = self.stopping.is_set()
        self.stopping.set()
        if is_second or not self.clean:
            raise KeyboardInterrupt
