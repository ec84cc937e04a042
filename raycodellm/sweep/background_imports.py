"""Imports the driver's heavy libraries in one thread, while Ray's processes start.

These imports take 3.5 s of a core. `ray.train` and `ray.tune` import each other: a thread that imports one of them
while another thread imports the other may find a module half loaded, and fails. So a single thread imports them, in a
fixed order, and the driver starts no thread that uses them before `wait` has returned.
"""

from __future__ import annotations

import functools
import importlib
import threading

_MODULES = ("ray.tune", "raycodellm.slots.pool", "raycodellm.tokens")


@functools.cache
def start() -> threading.Thread:
    """Starts the imports, once per process. Ray itself is imported first, in the caller's thread."""
    import ray  # noqa: F401

    thread = threading.Thread(target=_import_all, name="raycodellm imports", daemon=True)
    thread.start()
    return thread


def wait() -> None:
    """Returns when everything is imported. An import that failed raises again where the module is used."""
    start().join()


def _import_all() -> None:
    for name in _MODULES:
        importlib.import_module(name)
