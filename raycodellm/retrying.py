"""A storage that is away for a while: which errors pass by themselves, and how long they are waited for.

A network that breaks, a server that restarts, a store that asks to slow down: the same call succeeds a minute later. A
full disk, a missing file or a refused access does not, and is told at once.
"""

from __future__ import annotations

import builtins
import errno
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from raycodellm.files import Damaged

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CAUSE_LENGTH = 200
"""Characters."""
WAITS_SECONDS = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0)
"""Before each new try; 257 s together."""
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "EAGAIN", "EBUSY", "EINTR", "EPIPE", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "ENOLINK", "ENOTCONN"),
        *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETRESET"),
        *("ENETUNREACH", "ESHUTDOWN"),
    )
    if hasattr(errno, name)
)
_REFUSED = ("access_denied", "access denied", "forbidden", "http status 403", "no_such_bucket", "does not exist")
"""Words of object stores that answer, but will not do what was asked."""
_TOLD = re.compile(r"^(\w+): (?:\[Errno (\d+)\] )?(.*)$", re.MULTILINE)
"""The last line of a traceback: the error's class, its number and its words."""


def is_passing(error: BaseException) -> bool:
    """True if the error, or what caused it, is one of a storage that may answer again by itself."""
    return passing_cause(error) is not None


def is_full(error: BaseException) -> bool:
    """True if a storage takes no more: a full disk, a used-up quota, a file system that has become read-only."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def passing_cause(error: BaseException) -> str | None:
    """The storage's answer, in one line, where the error or what caused it passes by itself; else None."""
    found = next((words for one in _causes(error) if (words := _passing_words(one)) is not None), None)
    return None if found is None else " ".join(found.split())[:_CAUSE_LENGTH]


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        if isinstance(found, FileNotFoundError | Damaged):  # the storage has answered, whatever lies underneath
            return
        seen.append(found)
        yield found
        found = found.__cause__


def _passing_words(error: BaseException) -> str | None:
    if type(error).__name__.startswith("RayTaskError"):
        return _told_by_a_task(str(error))
    passes = isinstance(error, OSError) and _passes_as(error, error.errno, str(error), _is_of_pyarrow(error))
    return (str(error) or type(error).__name__) if passes else None


def _passes_as(error: OSError, number: int | None, text: str, is_of_pyarrow: bool) -> bool:
    if isinstance(error, ConnectionError | TimeoutError) or number in _PASSING:
        return True
    # An object store's errors have no number. Other libraries' without one are mostly a user's mistake in words.
    return number is None and is_of_pyarrow and not any(word in text.lower() for word in _REFUSED)


def _is_of_pyarrow(error: BaseException) -> bool:
    """True if pyarrow raised it: its compiled modules stand in the traceback by the names of their sources."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "pyarrow" in trace.tb_frame.f_code.co_filename


def _told_by_a_task(text: str) -> str | None:
    """The words of one that passes, in the text of a Ray task's error, which comes without its traceback."""
    for name, number, words in _TOLD.findall(text):
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, OSError):
            of_pyarrow = 'File "pyarrow/' in text
            if _passes_as(kind(words), int(number) if number else None, words, of_pyarrow):
                return f"{name}: {words}"
    return None


def patiently(work: Callable[[], T], what: str, sleep: Callable[[float], None] = time.sleep) -> T:
    """Calls `work`, again while the storage does not answer, and returns its result. `what`: its name, for the log."""
    for seconds in WAITS_SECONDS:
        try:
            return work()
        except OSError as error:
            if not is_passing(error):
                raise
            logger.warning("%s: the storage does not answer (%s); again in %.0f s", what, error, seconds)
        sleep(seconds)
    return work()
