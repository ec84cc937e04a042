"""Work that grows with a sweep and is done again and again, such as a view of all trials: how often it is done."""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 0.001
"""Share of the time that throttled work takes, however long it takes once."""


class Throttle:
    """Measures how long some work takes, and says when it may be done again: `with throttle:` around the work.

    Work that takes t seconds is due again t / `share` seconds after its end. So a view of ten trials is kept current at
    each of them, and one of ten thousand costs no trial more than that share of the time between two trials.

    The work's seconds are the thread's own CPU time, which neither a busy machine nor a wait for an answer makes
    longer: else the view of a few trials would be minutes old there.
    """

    def __init__(self, clock: Callable[[], float] | None = None, share: float = SHARE) -> None:
        """`clock`: seconds, of the work as well; by default the machine's and the thread's."""
        self._clock, self._work_clock = clock or time.monotonic, clock or time.thread_time
        self._share = share
        self._began, self._due_at = self._work_clock(), self._clock()

    @property
    def is_due(self) -> bool:
        return self._clock() >= self._due_at

    def __enter__(self) -> None:
        self._began = self._work_clock()

    def __exit__(self, *error: object) -> None:
        self._due_at = self._clock() + (self._work_clock() - self._began) / self._share
