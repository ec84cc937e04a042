"""The names of the driver's threads that wait for Ray, and the end of a process that may have some."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import NoReturn

THREAD_PREFIX = "raycodellm-"


def threads_left() -> bool:
    """True if a thread still waits for Ray: then `ray.shutdown` would end the whole process with an error."""
    return any(thread.name.startswith(THREAD_PREFIX) for thread in threading.enumerate())


def leave(code: int) -> NoReturn:
    """Ends the process with this exit code. At once while a thread is stuck in Ray, since what Ray does at Python's
    exit would crash; else after all that Python does at its exit but taking itself apart. That aborts the process where
    a library's thread holds an object of Python's just then."""
    if not threads_left():
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
        atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # who wrote has reported a broken output
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
