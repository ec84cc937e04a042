"""One driver at a time on a run folder, on any storage: an owner file that the driver writes anew every few seconds.

The storage need only show what was written last, and no clocks are compared:

* A run folder without an owner file is taken at once, and so is one whose owner is an ended process of this machine.
* A run folder whose owner is a running process of this machine is refused at once.
* Any other owner file is watched. If it changes within `STALE_SECONDS`, its driver lives and the run folder is refused;
  if not, the run folder is taken over.
* Two drivers that take a run folder in the same instant both read the file once more, and the last writer has it. A
  driver that finds another's name in its file (a machine that slept, say) stops writing the journal and ends.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raycodellm import retrying
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.slots.lease import Lease
from raycodellm.sweep.folder import Run, write_sweep_file

OWNER = "OWNER"
BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
LOOK_SECONDS = 1.0
"""Seconds between two looks at the owner file of a driver that may be gone."""
_CREATED_SECONDS = 5.0
"""Two readings of a process's start may differ by so much, since clocks are set. If they differ by more, another
process has got its number."""


class Owner(Lease):
    """A driver's claim on a run folder."""

    name = OWNER
    beat_seconds, stale_seconds = BEAT_SECONDS, STALE_SECONDS

    def __init__(
        self,
        folder: Folder,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        machine: str | None = None,
    ) -> None:
        super().__init__(folder, f"process {os.getpid()} on {platform.node()}", clock, sleep)
        self.settle_seconds = 0.2 if folder.local is not None else 1.0
        self.machine = _machine() if machine is None else machine
        self.created = _created(os.getpid())

    def claim(self, say: Callable[[str], None]) -> None:
        """Takes the run folder. Raises UserError naming the driver that has it; `say` is told of a wait."""
        first = self.read()
        said = False
        while (other := self.take()) is not None:
            found = self.read() or {}
            if self._runs_here(found) or (first is not None and found.get("beats") != first.get("beats")):
                raise UserError(f"{self._folder}: the sweep is being run by {other}; wait for it or stop it")
            if not said:
                say(f"{other} began this sweep; looking for up to {self.stale_seconds:.0f} s whether it still runs")
                said = True
            first = first or found
            self._sleep(LOOK_SECONDS)

    def beat(self) -> None:
        """Writes the file anew, to show that the driver lives; but not over another driver's file."""
        found = self.read()
        if found is None or found["token"] == self.token:
            self._write()

    def told(self) -> dict[str, Any]:
        """The file's content, without the number of beats."""
        return {**super().told(), "machine": self.machine, "pid": os.getpid(), "created": self.created}

    def may_take_up(self, found: Mapping[str, Any]) -> bool:
        """True if the file's driver is known to have ended."""
        return self._is_of_this_machine(found) and not self._runs_here(found)

    def _runs_here(self, found: Mapping[str, Any]) -> bool:
        if not self._is_of_this_machine(found):
            return False
        created = _created(int(found["pid"]))
        return created is not None and abs(created - float(found["created"])) < _CREATED_SECONDS

    def _is_of_this_machine(self, found: Mapping[str, Any]) -> bool:
        return bool(self.machine) and found.get("machine") == self.machine and {"pid", "created"} <= set(found)


@contextlib.contextmanager
def lock(run: Run, say: Callable[[str], None] = print) -> Iterator[Run]:
    """Refuses a second driver on the same run folder. Yields the run with the owner's token."""
    with _locked_file(run):
        owner = Owner(run.folder)
        owner.claim(say)
        with owner.kept():
            owned = replace(run, token=owner.token)
            fetch_journal(owned)
            write_sweep_file(owned)  # only now: a refused driver must not overwrite the running one's
            yield owned


@contextlib.contextmanager
def _locked_file(run: Run) -> Iterator[None]:
    """On a local storage the kernel keeps out a second driver, also one that begins in the same instant."""
    if run.folder.local is None:
        yield
        return
    import fcntl

    with open(run.folder.local / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(f"{run.folder.uri}: the sweep is being run by {holder}; wait for it or stop it") from error
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def usurper(run: Run) -> str | None:
    """The driver that has taken the run folder over from this one; None while this one has it."""
    found = Owner(run.folder).read() if run.token else None
    return str(found["holder"]) if found is not None and found["token"] != run.token else None


def fetch_journal(run: Run) -> None:
    """Fetches the study's journal as the last driver left it, when the run folder is on an object store."""
    if run.folder.local is not None:
        return
    if not run.folder.exists(run.journal.name):
        run.journal.unlink(missing_ok=True)  # of an earlier run at the same address
        return
    run.journal.parent.mkdir(parents=True, exist_ok=True)
    run.journal.write_bytes(run.folder.read_bytes(run.journal.name))


def keep_journal(run: Run) -> None:
    """Copies the study's journal to the object store, unless another driver has taken the run folder over."""
    if run.folder.local is None and usurper(run) is None:
        retrying.patiently(lambda: run.folder.write_bytes(run.journal.name, run.journal.read_bytes()), "optuna.log")


def _machine() -> str:
    """A name for this boot of this machine and container. Processes with the same name see each other's numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: an ended driver is noticed by its silence only
        return ""


def _created(pid: int) -> float | None:
    """When the process started, Unix seconds; None when it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
