"""The start of either process in the sandbox: reads its orders, gives up its rights, and goes to work.

Orders come as one message on standard input; `supervise` writes them. Before untrusted code runs, the process tells on
the pipe `status` that it is confined, and closes that pipe.
"""

from __future__ import annotations

import os
import resource
from typing import Any

from raycodellm.evaluation.sandbox.inside import candidate, checker, frames, kernel, landlock, namespaces, seccomp

MOST_OPEN_FILES = 64
_STACK_BYTES = 64 << 20


def main() -> None:
    orders = frames.receive(0)
    status = orders["status"]
    try:
        _confine(orders["isolation"], orders["limits"])
    except OSError as error:
        frames.send(status, {"error": str(error)})
        return
    frames.send(status, {"confined": True, "user": os.getuid()})
    _silence()
    if orders["role"] == "candidate":
        os.close(status)
        candidate.serve(orders["program"], orders["requests"], orders["answers"])
        os._exit(0)  # threads that the program left would keep Python from ending
    result, why = checker.check(
        orders["prompt"], orders["test"], orders["entry_point"], orders["requests"], orders["answers"]
    )
    frames.send(status, {"nonce": orders["nonce"], "result": result, "why": why})
    os._exit(0)


def _confine(isolation: dict[str, Any], limits: dict[str, Any]) -> None:
    """Gives up all rights that the work does not need. Raises OSError where the machine cannot do that."""
    if isolation["kind"] == "namespaces":
        namespaces.enter(isolation["readable"], isolation["root"], isolation["temporary"], limits["file_bytes"])
    elif isolation.get("as_nobody"):
        os.setgroups([])
        os.setresgid(namespaces.NOBODY, namespaces.NOBODY, namespaces.NOBODY)
        os.setresuid(namespaces.NOBODY, namespaces.NOBODY, namespaces.NOBODY)
    for name, value in (
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, MOST_OPEN_FILES),
        (resource.RLIMIT_STACK, _STACK_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(name, (value, value))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.drop_capabilities()
    try:
        landlock.apply(isolation["readable"], [isolation["temporary"], "/dev/null"])
    except OSError:
        if isolation["kind"] == "landlock":
            raise
    seccomp.apply()
    os.chdir(isolation["temporary"])
    os.environ.update(TMPDIR=isolation["temporary"], HOME=isolation["temporary"])


def _silence() -> None:
    """Empties standard input, and discards standard output and standard error from here on."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)
