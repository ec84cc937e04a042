"""Finds the strongest isolation that works on this machine, by trying to break out of each."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from raycodellm.evaluation.sandbox.inside.checker import PASSED
from raycodellm.evaluation.sandbox.isolation import KINDS, Isolation, SandboxUnavailable, isolation
from raycodellm.evaluation.sandbox.supervise import Limits, Program, run

_ATTEMPTS = """
import os, socket, subprocess, sys

def attempt(secret):
    done = []
    def can(name, action):
        try:
            action()
        except Exception:
            return
        done.append(name)
    can("read a file of this user", lambda: open(secret).read())
    can("list this user's home folder", lambda: os.listdir(os.path.dirname(secret)))
    can("write beside its own folder", lambda: open("/usr/raycodellm-probe", "w"))
    can("open a connection", lambda: socket.socket())
    can("start a process", lambda: os.fork() or os._exit(0))
    can("signal another process", lambda: os.kill(os.getppid(), 0))
    can("read the environment", lambda: os.environ["USER_SECRET"])
    with open("own", "w") as file:
        file.write("text")
    if open("own").read() != "text" or 6 * 7 != 42:
        done.append("not work")
    return done
"""


@functools.cache
def find_isolation() -> Isolation:
    """The strongest isolation that holds here. Raises `SandboxUnavailable` with the reason why each does not."""
    reasons = []
    for kind in KINDS:
        try:
            return proven(kind)
        except SandboxUnavailable as error:
            reasons.append(f"{kind}: {error}")
    raise SandboxUnavailable(
        f"no sandbox works here, so no code of a model is run ({'; '.join(reasons)}); install bubblewrap, or use a "
        "kernel with Landlock (5.13 or newer)"
    )


def proven(kind: str) -> Isolation:
    """The isolation of this name, after a try. Raises `SandboxUnavailable` where it does not start or does not hold."""
    isolation_tried = isolation(kind)
    with tempfile.TemporaryDirectory(prefix="secret-") as folder:
        secret = Path(folder) / "secret"
        secret.write_text("secret")
        test = f"found = attempt({str(secret)!r})\nassert found == [], 'it can ' + ', '.join(found)"
        verdict = run(Program(_ATTEMPTS, test, "attempt"), isolation_tried, Limits(cpu_seconds=5, wall_seconds=30.0))
    if verdict.result != PASSED:
        raise SandboxUnavailable(verdict.why)
    return isolation_tried
