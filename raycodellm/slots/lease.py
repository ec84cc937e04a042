"""A stage is trained by one sweep at a time, also where several share a storage: a lease file in its folder.

The file is written anew every `BEAT_SECONDS`; one that stays the same for `STALE_SECONDS` belongs to a sweep that is
gone. No clocks are compared, and nothing is asked of a storage but that it shows what was written last. So the lease
saves work and is no lock: where two sweeps take it in the same instant both train, as they would without it, and the
stage is the same in the end. `sweep.ownership` keeps a run folder's driver in the same way.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from raycodellm.files import Folder

logger = logging.getLogger(__name__)

LEASE = "LEASE"
BEAT_SECONDS = 20.0
STALE_SECONDS = 120.0
SETTLE_SECONDS = 0.2
"""Between writing the lease and reading it back: who wrote last has it."""


class Lease:
    """One worker group's claim on one stage."""

    name = LEASE
    beat_seconds, stale_seconds, settle_seconds = BEAT_SECONDS, STALE_SECONDS, SETTLE_SECONDS

    def __init__(
        self,
        folder: Folder,
        holder: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`holder`: the sweep, by its run folder: it takes up its own lease at once, after whatever ended it."""
        self._folder, self._holder, self._clock, self._sleep = folder, holder, clock, sleep
        self.token = uuid.uuid4().hex
        self._beats = 0
        self._seen: Any = None
        self._seen_at = clock()

    def take(self) -> str | None:
        """Takes the lease where it is free; else who has it."""
        there = self.read()
        if there != self._seen:
            self._seen, self._seen_at = there, self._clock()
        stale = self._clock() - self._seen_at >= self.stale_seconds
        if there is not None and not stale and not self.may_take_up(there):
            return str(there["holder"])
        self._write()
        self._sleep(self.settle_seconds)
        there = self.read()
        return None if there is None or there["token"] == self.token else str(there["holder"])

    def may_take_up(self, there: Mapping[str, Any]) -> bool:
        """True if what the file says needs no waiting: its holder is this one, or known to be gone."""
        return there["holder"] == self._holder

    def beat(self) -> None:
        """Shows that the holder lives; not over a lease that another has taken."""
        there = self.read()
        if there is not None and there["token"] == self.token:
            self._write()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Shows it in a thread while the body runs, then gives the lease back."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self.beat_seconds):
                with contextlib.suppress(OSError):  # the storage is away: the next beat may reach it
                    self.beat()

        # Not named as the slots' threads are: those that are left mean that Ray must not be shut down.
        thread = threading.Thread(target=beat, name=f"keeps {self.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.give_back()

    def give_back(self) -> None:
        with contextlib.suppress(OSError):  # then it becomes stale
            there = self.read()
            if there is not None and there["token"] == self.token:
                self._folder.delete(self.name)

    def read(self) -> dict[str, Any] | None:
        """The file's content; None where there is none, or half of one."""
        try:
            there = self._folder.read_json(self.name)
        except (FileNotFoundError, ValueError):
            return None
        return there if isinstance(there, dict) and {"holder", "token"} <= set(there) else None

    def _write(self) -> None:
        self._beats += 1
        try:
            self._folder.write_json(self.name, {**self.told(), "beats": self._beats})
        except OSError:  # a full disk, say: the work itself will say so where that matters
            logger.warning("cannot write %s/%s", self._folder, self.name, exc_info=True)

    def told(self) -> dict[str, Any]:
        """The file's content, beside the number of its beats."""
        return {"holder": self._holder, "token": self.token}
