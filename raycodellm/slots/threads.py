"""The names of the driver's threads that wait for Ray."""

from __future__ import annotations

import threading

THREAD_PREFIX = "raycodellm-"


def threads_left() -> bool:
    """True if a thread still waits for Ray: then `ray.shutdown` would end the whole process with an error."""
    return any(thread.name.startswith(THREAD_PREFIX) for thread in threading.enumerate())
