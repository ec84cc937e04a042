"""One driver at a time on a run folder, on any storage: an owner file that the driver writes anew every few seconds.

The rule asks nothing of a storage but that it shows what was written last, and compares no clocks:

* A run folder without the file, or whose file names a process of this machine that has ended, is taken at once.
* One whose process runs on this machine is refused at once.
* Any other is watched: one that changes within `STALE_SECONDS` has a driver that lives, and is refused; one that does
  not is taken over.
* Two that take it in the same instant both read the file once more, and the last writer has it. A driver that finds
  another's name in it (a machine that slept, say) writes no journal any more and ends.
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
"""Between two looks at the file of a driver that may be gone."""
_CREATED_SECONDS = 5.0
"""By which two readings of a process's beginning may differ, since clocks are set: else another has got its number."""


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
        """Takes the run folder. Raises UserError naming the driver that has it; `say` hears what is waited for."""
        first = self.read()
        said = False
        while (other := self.take()) is not None:
            there = self.read() or {}
            if self._runs_here(there) or (first is not None and there.get("beats") != first.get("beats")):
                raise UserError(f"{self._folder}: the sweep is being run by {other}; wait for it or stop it")
            if not said:
                say(f"{other} began this sweep; looking for up to {self.stale_seconds:.0f} s whether it still runs")
                said = True
            first = first or there
            self._sleep(LOOK_SECONDS)

    def beat(self) -> None:
        """Shows that the driver lives; not over the file of another."""
        there = self.read()
        if there is None or there["token"] == self.token:
            self._write()

    def told(self) -> dict[str, Any]:
        """The file's content, beside the number of its beats."""
        return {**super().told(), "machine": self.machine, "pid": os.getpid(), "created": self.created}

    def may_take_up(self, there: Mapping[str, Any]) -> bool:
        """True if the driver in the file is known to have ended."""
        return self._is_of_this_machine(there) and not self._runs_here(there)

    def _runs_here(self, there: Mapping[str, Any]) -> bool:
        if not self._is_of_this_machine(there):
            return False
        created = _created(int(there["pid"]))
        return created is not None and abs(created - float(there["created"])) < _CREATED_SECONDS

    def _is_of_this_machine(self, there: Mapping[str, Any]) -> bool:
        return bool(self.machine) and there.get("machine") == self.machine and {"pid", "created"} <= set(there)


@contextlib.contextmanager
def lock(run: Run, say: Callable[[str], None] = print) -> Iterator[Run]:
    """One driver at a time: a second one on the same run folder is refused. Yields the run as its owner has it."""
    with _locked_file(run):
        owner = Owner(run.folder)
        owner.claim(say)
        with owner.kept():
            owned = replace(run, token=owner.token)
            fetch_journal(owned)
            write_sweep_file(owned)  # only now: a driver that is refused leaves that of the one that runs
            yield owned


@contextlib.contextmanager
def _locked_file(run: Run) -> Iterator[None]:
    """On a local storage the kernel keeps a second driver out, also one that begins in the same instant."""
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
    """Another driver that has taken the run folder over; None while it is this one's."""
    there = Owner(run.folder).read() if run.token else None
    return str(there["holder"]) if there is not None and there["token"] != run.token else None


def fetch_journal(run: Run) -> None:
    """The study's journal as the last driver left it, where it is kept on an object store."""
    if run.folder.local is not None:
        return
    if not run.folder.exists(run.journal.name):
        run.journal.unlink(missing_ok=True)  # of a run that was in this place before
        return
    run.journal.parent.mkdir(parents=True, exist_ok=True)
    run.journal.write_bytes(run.folder.read_bytes(run.journal.name))


def keep_journal(run: Run) -> None:
    """Copies the study's journal to the object store, unless another driver writes it now."""
    if run.folder.local is None and usurper(run) is None:
        retrying.patiently(lambda: run.folder.write_bytes(run.journal.name, run.journal.read_bytes()), "optuna.log")


def _machine() -> str:
    """The name that processes share which see each other's numbers: this boot of the machine, and the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: then a driver that ended is known by its silence
        return ""


def _created(pid: int) -> float | None:
    """When the process began, Unix seconds; None when it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
