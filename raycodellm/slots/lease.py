"""A lease file in a stage's folder: one sweep at a time trains the stage, also when several share a storage.

The holder writes the file anew every `BEAT_SECONDS`. A file that stays the same for `STALE_SECONDS` belongs to a sweep
that is gone. No clocks are compared, and the storage need only show what was written last. So the lease saves work and
is no lock: two sweeps that take it in the same instant both train, and the stage is the same in the end.
`sweep.ownership` uses the same mechanism for a run folder's driver.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from raycodellm.files import Folder, cause

logger = logging.getLogger(__name__)

LEASE = "LEASE"
BEAT_SECONDS = 40.0
STALE_SECONDS = 120.0
LOOK_SECONDS = 15.0
"""Between two looks at a lease on an object store that another sweep holds."""
SETTLE_SECONDS = 0.2
"""Seconds between writing the lease and reading it back: the driver that wrote last holds the lease."""


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
        """`holder`: URI of the sweep's run folder. A sweep that was killed takes its own lease again at once."""
        self._folder, self._holder, self._clock, self._sleep = folder, holder, clock, sleep
        self.token = uuid.uuid4().hex
        self._beats = 0
        self._last_due: float | None = None
        self._last_content: Any = None
        self._last_change_at = clock()

    def is_due(self) -> bool:
        """True if one who waits for the lease should look again; on a local disk always."""
        now = self._clock()
        if self._last_due is not None and self._folder.local is None and now - self._last_due < LOOK_SECONDS:
            return False
        self._last_due = now
        return True

    def take(self) -> str | None:
        """Takes the lease when it is free. Returns None, or the holder when another has it."""
        content = self.read()
        if content != self._last_content:
            self._last_content, self._last_change_at = content, self._clock()
        is_stale = self._clock() - self._last_change_at >= self.silence_seconds(content)
        if content is not None and not is_stale and not self.may_take_up(content):
            return str(content["holder"])
        self._write()
        self._sleep(self.settle_seconds)
        content = self.read()
        return None if content is None or content["token"] == self.token else str(content["holder"])

    def silence_seconds(self, content: Mapping[str, Any] | None) -> float:
        """How long the file must stay the same until its holder is taken to be gone."""
        return self.stale_seconds

    def may_take_up(self, content: Mapping[str, Any]) -> bool:
        """True if the file's holder is this one, or known to be gone: then nobody waits until it is stale."""
        return content["holder"] == self._holder

    def beat(self) -> None:
        """Writes the file anew, to show that the holder lives; but not over a lease that another has taken."""
        content = self.read()
        if content is not None and content["token"] == self.token:
            self._write()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Beats in a thread while the body runs, then gives the lease back."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self.beat_seconds):
                with contextlib.suppress(OSError):  # the storage is away: the next beat may reach it
                    self.beat()

        # Its name has not `THREAD_PREFIX`: a thread with that prefix means that Ray must not be shut down.
        thread = threading.Thread(target=beat, name=f"keeps {self.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.give_back()

    def give_back(self) -> None:
        with contextlib.suppress(OSError):  # the lease then becomes stale
            content = self.read()
            if content is not None and content["token"] == self.token:
                self._folder.delete(self.name)

    def read(self) -> dict[str, Any] | None:
        """The file's content; None when there is no file, or only half of one."""
        try:
            content = self._folder.read_json(self.name)
        except (FileNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) and {"holder", "token"} <= set(content) else None

    def _write(self) -> None:
        self._beats += 1
        try:
            self._put({**self.own_content(), "beats": self._beats})
        except OSError as error:  # a full disk, say: the training itself reports that
            logger.warning("cannot write %s", cause(error))

    def _put(self, content: dict[str, Any]) -> None:
        self._folder.write_json(self.name, content)

    def own_content(self) -> dict[str, Any]:
        """The file's content, without the number of beats."""
        return {"holder": self._holder, "token": self.token}
