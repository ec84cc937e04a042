"""Makes several token stores at once, and gives all of them up where one fails or the user stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from raycodellm.tokens.progress import Report, SourceProgress

T = TypeVar("T")

MOST_AT_ONCE = 4
GIVE_UP_SECONDS = 10.0
"""How long the end of the work waits for stores that were given up. A thread that waits for a long task of Ray Data
hears of it later; its name tells that the process ends without it (`slots/threads.py`)."""


class _GivenUpError(Exception):
    """The store is not made, since another one failed or the user stopped."""


def make_at_once(names: Sequence[str], make: Callable[[str, Report], T], report: Report) -> Mapping[str, T]:
    """Calls `make` with each name, in up to `MOST_AT_ONCE` threads; maps the names to what it returns.

    Raises the first error as soon as it comes, also KeyboardInterrupt in this thread: the work that goes on then ends
    at its next report of progress.
    """
    given_up = threading.Event()

    def report_unless_given_up(event: SourceProgress) -> None:
        if given_up.is_set():
            raise _GivenUpError
        report(event)

    pool = ThreadPoolExecutor(min(MOST_AT_ONCE, max(1, len(names))), thread_name_prefix="raycodellm-source")
    futures: dict[str, Future[T]] = {}
    try:
        for name in names:
            futures[name] = pool.submit(make, name, report_unless_given_up)
        ended, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
        for future in ended:
            future.result()  # raises the error of one that failed, which need not be the first by name
        return {name: future.result() for name, future in futures.items()}
    finally:
        given_up.set()
        pool.shutdown(wait=False, cancel_futures=True)
        wait(futures.values(), GIVE_UP_SECONDS)
