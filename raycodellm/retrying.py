"""Retries calls to a storage that does not answer for a while: which errors pass by themselves, and how long to wait.

A call succeeds a minute after the network broke, a server restarted, or a store asked to slow down. It does not succeed
after a full disk, a missing file or a refused access, so these errors are raised at once.
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
"""Before each retry; 257 s together."""
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "EAGAIN", "EBUSY", "EINTR", "EPIPE", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "ENOLINK", "ENOTCONN"),
        *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETRESET"),
        *("ENETUNREACH", "ESHUTDOWN"),
    )
    if hasattr(errno, name)
)
_REFUSED = (
    *("access_denied", "access denied", "forbidden", "http status 403", "no_such_bucket", "does not exist"),
    *("permission_denied", "unauthenticated", "] 401 ", "] 403 "),  # as the clients of Google and Azure say it
)
"""Words in the errors of an object store that answers and refuses."""
_RAY_ERRORS = ("RayTaskError", "ActorDiedError", "ControllerError", "WorkerGroupError")
"""Beginnings of the names of Ray's errors whose text holds the traceback of another process's error."""
_TRACEBACK_END = re.compile(r"^(\w+): (?:\[Errno (\d+)\] )?(.*)$", re.MULTILINE)
"""The last line of a traceback: the error's class, its number and its message."""


def is_passing(error: BaseException) -> bool:
    """True if the error or one of its causes comes from a storage that may answer again by itself."""
    return passing_cause(error) is not None


def is_full(error: BaseException) -> bool:
    """True if a storage takes no more data: a full disk, a used-up quota, a file system that has become read-only."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def passing_cause(error: BaseException) -> str | None:
    """The storage's message in one line, if the error or one of its causes passes by itself; else None."""
    words_of_cause = next((words for cause in _causes(error) if (words := _passing_words(cause)) is not None), None)
    return None if words_of_cause is None else " ".join(words_of_cause.split())[:_CAUSE_LENGTH]


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, FileNotFoundError | Damaged):  # the storage has answered, whatever the cause was
            return
        seen.append(cause)
        yield cause
        cause = cause.__cause__


def _passing_words(error: BaseException) -> str | None:
    if type(error).__name__.startswith(_RAY_ERRORS):
        return _passing_words_of_task(str(error))
    passes = isinstance(error, OSError) and _passes_as(error, error.errno, str(error), _is_of_pyarrow(error))
    return (str(error) or type(error).__name__) if passes else None


def _passes_as(error: OSError, number: int | None, text: str, is_of_pyarrow: bool) -> bool:
    if isinstance(error, ConnectionError | TimeoutError) or number in _PASSING:
        return True
    # An object store's errors have no number. Without one, other libraries' errors are mostly a user's mistake.
    return number is None and is_of_pyarrow and not any(word in text.lower() for word in _REFUSED)


def _is_of_pyarrow(error: BaseException) -> bool:
    """True if pyarrow raised the error: its compiled modules are in the traceback by the names of their sources."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "pyarrow" in trace.tb_frame.f_code.co_filename


def _passing_words_of_task(text: str) -> str | None:
    """The message of a passing error inside the text of a Ray task's error, which has no traceback objects."""
    for name, number, words in _TRACEBACK_END.findall(text):
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, OSError):
            is_of_pyarrow = 'File "pyarrow/' in text
            if _passes_as(kind(words), int(number) if number else None, words, is_of_pyarrow):
                return f"{name}: {words}"
    return None


def patiently(work: Callable[[], T], call_name: str, sleep: Callable[[float], None] | None = None) -> T:
    """Calls `work` until the storage answers, with the waits above between, and returns its result.

    `call_name` names the call in the log. Raises the error when it does not pass by itself, or after the last retry.
    """
    for seconds in WAITS_SECONDS:
        try:
            return work()
        except OSError as error:
            if not is_passing(error):
                raise
            logger.warning("%s: the storage does not answer (%s); again in %.0f s", call_name, error, seconds)
        (sleep or time.sleep)(seconds)
    return work()
