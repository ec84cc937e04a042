"""Keeps a report current: reads and writes it again as results come, at little cost while no results come."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

POLL_SECONDS = 2.0
"""Seconds between two looks at the stamp. A look costs a few requests to the storage."""
LOOK_SECONDS = 60.0
"""Seconds after which the trials are read although the stamp has not changed."""
RELOAD_SECONDS = 15
"""An open page loads itself again after so many seconds."""
_PAUSE_SHARE = 4.0
"""Seconds without a new report for each second that the last report took to write, up to `RELOAD_SECONDS` in all."""


@dataclass
class ReportWatch:
    """Keeps a report current."""

    stamp: Callable[[], Any]
    """A value that changes when a trial begins or ends. Asked for at each poll, so it must be cheap."""
    read: Callable[[], tuple[Any, bool]]
    """Reads the trials: their present state, and whether the sweep has ended."""
    write: Callable[[int | None], None]
    """Writes the report of the trials that `read` read last, whose page loads itself again after so many seconds."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def until_ended(self) -> None:
        """Writes the report at once and whenever the trials have changed; returns after that of the whole sweep."""
        seen_stamp, written_state, looked_at, pause = object(), object(), 0.0, 0.0
        while True:
            stamp, now = self.stamp(), self.clock()
            if stamp != seen_stamp or now - looked_at >= LOOK_SECONDS:
                state, is_ended = self.read()
                seen_stamp, looked_at = stamp, now
                if state != written_state or is_ended:
                    self.write(None if is_ended else RELOAD_SECONDS)
                    written_state = state
                pause = min(_PAUSE_SHARE * (self.clock() - now), RELOAD_SECONDS)
                if is_ended:
                    return
            self.sleep(max(POLL_SECONDS, pause))
            pause = 0.0
