"""A stage is trained by one sweep at a time, also where several share a storage: a lease file in its folder.

The file is written anew every `BEAT_SECONDS`; one that stays the same for `STALE_SECONDS` belongs to a sweep that is
gone. No clocks are compared, and nothing is asked of a storage but that it shows what was written last. So the lease
saves work and is no lock: where two sweeps take it in the same instant both train, as they would without it, and the
stage is the same in the end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
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

    def __init__(
        self,
        folder: Folder,
        holder: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`holder`: the sweep, by its run folder: it takes up its own lease at once, after whatever ended it."""
        self._folder, self._holder, self._clock, self._sleep = folder, holder, clock, sleep
        self._token = uuid.uuid4().hex
        self._beats = 0
        self._seen: Any = None
        self._seen_at = clock()

    def take(self) -> str | None:
        """Takes the lease where it is free; else who has it."""
        there = self._read()
        if there != self._seen:
            self._seen, self._seen_at = there, self._clock()
        foreign = there is not None and there["holder"] != self._holder
        if foreign and self._clock() - self._seen_at < STALE_SECONDS:
            return str(there["holder"])
        self._write()
        self._sleep(SETTLE_SECONDS)
        there = self._read()
        return None if there is None or there["token"] == self._token else str(there["holder"])

    def beat(self) -> None:
        """Shows that the holder lives; not over a lease that another has taken."""
        there = self._read()
        if there is not None and there["token"] == self._token:
            self._write()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Shows it in a thread while the body runs, then gives the lease back."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                self.beat()

        thread = threading.Thread(target=beat, name="raycodellm-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.give_back()

    def give_back(self) -> None:
        there = self._read()
        if there is not None and there["token"] == self._token:
            with contextlib.suppress(OSError):  # then it becomes stale
                self._folder.delete(LEASE)

    def _read(self) -> Any:
        try:
            return self._folder.read_json(LEASE)
        except (OSError, ValueError):  # there is none, or it is being written
            return None

    def _write(self) -> None:
        self._beats += 1
        told = {"holder": self._holder, "token": self._token, "beats": self._beats}
        try:
            self._folder.write_json(LEASE, told)
        except OSError:  # a full disk, say: the training itself will say so where that matters
            logger.warning("cannot write %s/%s", self._folder, LEASE, exc_info=True)
