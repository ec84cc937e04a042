"""One driver at a time on a run folder, on any storage: an owner file that the driver writes anew now and then.

The storage need only show what was written last, and no clocks are compared:

* A run folder without an owner file is taken at once, and so is one whose owner is an ended process of this machine.
* A run folder whose owner is a running process of this machine is refused at once.
* Any other owner file is watched. If it changes within `Heartbeat.stale` seconds, its driver lives and the run folder
  is refused; if not, the run folder is taken over.
* Whoever wants a driver elsewhere to stop writes that into its owner file (`stop_request`). The driver finds it at its
  next beat, answers in the file, and stops as after Ctrl-C.
* On S3 and Google's storage each writing has a condition: the file is still as the writer read it. So of two drivers
  that take a run folder in the same instant one fails, and no beat overwrites another driver's file. Elsewhere, and on
  a store that takes no notice of conditions, both read the file once more, and the last writer has it.
* A driver that finds another's name in its file (a machine that slept, say) writes nothing more and ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raycodellm import retrying
from raycodellm.conditional_writes import Changed, Seen, Unavailable, conditional_file
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.records import as_json
from raycodellm.slots.lease import Lease
from raycodellm.sweep.folder import Run, write_sweep_file
from raycodellm.sweep.journal_copy import JournalCopy

logger = logging.getLogger(__name__)

OWNER = "OWNER"
STOP, ASKED, HEARD = "stop", "asked", "heard"
"""A key of the owner file, its value when somebody asks the driver to stop, and the driver's answer."""


@dataclass(frozen=True)
class Heartbeat:
    """Seconds between events of an owner file."""

    beat: float
    """Between two writings by its driver, which looks before each whether another has taken the run folder over."""
    stale: float
    """Seconds of silence after which its driver is taken to be gone."""
    look: float
    """Between two looks at the owner file of a driver that may be gone."""
    settle: float
    """Between writing the file and reading it back."""


LOCAL = Heartbeat(beat=5.0, stale=30.0, look=1.0, settle=0.2)
REMOTE = Heartbeat(beat=30.0, stale=100.0, look=5.0, settle=1.0)
"""On an object store, where each look and each writing is a request."""
_BUSY_SECONDS = 1.0
"""How long a question waits for a look that another thread takes just now."""
_CREATED_SECONDS = 5.0
"""Two readings of a process's start may differ by so much, since clocks are set. If they differ by more, another
process has got its number."""


class Owner(Lease):
    """A driver's claim on a run folder."""

    name = OWNER

    def __init__(
        self,
        folder: Folder,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        machine: str | None = None,
    ) -> None:
        super().__init__(folder, f"process {os.getpid()} on {platform.node()}", clock, sleep)
        self.heartbeat = LOCAL if folder.local is not None else REMOTE
        self.beat_seconds, self.stale_seconds, self.settle_seconds = (
            self.heartbeat.beat,
            self.heartbeat.stale,
            self.heartbeat.settle,
        )
        self.machine = _machine_name() if machine is None else machine
        self.is_asked_to_stop = self._is_stopping = False
        self.created = _process_start(os.getpid())
        self.generation = 1
        """One more than that of the driver before, as far as its file tells."""
        self.usurper: str | None = None
        """The driver that has taken the run folder over from this one, as far as is known."""
        self._looked_at = clock(), time.time()
        self._lock = threading.RLock()
        """Held from a look to the writing that rests on it: two threads look, and one of them writes."""
        self._failed_at = -math.inf
        """Time of the last look that failed, by `clock`."""
        self._file = conditional_file(folder, self.name)
        self._version: Seen | None = None
        """The file as it was last read or written, on a storage with conditional writes."""
        self.sighting: Any = None
        """The sweep as its driver last saw it, a record; told to whoever reads the file."""

    def claim(self, say: Callable[[str], None]) -> None:
        """Takes the run folder. Raises UserError naming the driver that has it; `say` is told of a wait."""
        first_content = self.read()
        last_generation = (first_content or {}).get("generation")
        self.generation = 1 + last_generation if isinstance(last_generation, int) else 1
        has_said = False
        while (holder := self.take()) is not None:
            content = self.read() or {}
            if self.runs_here(content) or (
                first_content is not None and content.get("beats") != first_content.get("beats")
            ):
                raise UserError(f"{self._folder}: the sweep is being run by {holder}; wait for it or stop it")
            if not has_said:
                say(f"{holder} began this sweep; looking for up to {self.stale_seconds:.0f} s whether it still runs")
                has_said = True
            first_content = first_content or content
            self._sleep(self.heartbeat.look)

    def beat(self) -> None:
        """Writes the file anew, to show that the driver lives; but not over another driver's file."""
        with self._lock:
            self.look()
            if self.usurper is None:
                try:
                    self._write()
                except Changed:  # since that look: another driver has it, or somebody asks this one to stop
                    self.look()
        if self.usurper is None and self.is_asked_to_stop and not self._is_stopping:
            self._is_stopping = True
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C: the main thread stops the sweep

    def look(self) -> None:
        """Looks whether another driver has taken the run folder over, and whether somebody asks this one to stop."""
        with self._lock:
            began = self._clock(), time.time()
            content = self.read()
            self._looked_at = began  # the content may be as old as the beginning of its reading
            self.usurper = str(content["holder"]) if content is not None and content["token"] != self.token else None
            self.is_asked_to_stop |= content is not None and self.usurper is None and content.get(STOP) == ASKED

    def owns(self) -> bool:
        """True if no other driver has taken the run folder over. Looks when the last look is two beats old: a beat may
        fail, and this machine may have slept, which the monotonic clock does not count."""
        with self._lock:
            if self._is_unsure():
                self.look()
        return self.usurper is None

    def has_lost(self) -> bool:
        """True if another driver is known to have taken the run folder over. Looks as `owns` does, but waits for no
        storage that does not answer: then nothing is known."""
        if self._is_unsure() and self._lock.acquire(timeout=_BUSY_SECONDS):
            try:
                if self._is_unsure() and self._clock() - self._failed_at > self.beat_seconds:
                    self.look()
            except OSError:
                self._failed_at = self._clock()
            finally:
                self._lock.release()
        return self.usurper is not None

    def _is_unsure(self) -> bool:
        """True if the last look is two beats old."""
        now = self._clock(), time.time()
        return max(a - b for a, b in zip(now, self._looked_at, strict=True)) > 2 * self.beat_seconds

    def ask_to_stop(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Writes into the file, whose `content` was just read, that its driver should stop; returns the file's new
        content. If the driver wrote meanwhile, it is asked at the next look."""
        request = {**content, STOP: ASKED}
        try:
            self._put(request)
        except Changed:
            return dict(content)
        return request

    def take(self) -> str | None:
        """As `Lease.take`; of two drivers that take the run folder in the same instant one is refused."""
        try:
            return super().take()
        except Changed:
            content = self.read()  # this driver's own, if the answer to its first try was lost
            return None if content is None or content["token"] == self.token else str(content["holder"])

    def give_back(self) -> None:
        """Removes the file, unless another driver has it. On a storage with conditional writes a last beat comes first:
        after it nobody may take the run folder before the file is gone."""
        with self._lock, contextlib.suppress(OSError, Changed):  # the lease then becomes stale
            content = self.read()
            if content is not None and content["token"] == self.token:
                if self._file is not None:
                    self._put({**content, "beats": self._beats + 1})
                self._folder.delete(self.name)

    def read(self) -> dict[str, Any] | None:
        if self._file is not None:
            try:
                self._version = self._file.read()
                return _parsed(self._version)
            except Unavailable as error:
                self._go_without_conditions(error)
        return super().read()

    def _put(self, content: dict[str, Any]) -> None:
        if self._file is not None:
            try:
                self._version = self._file.write((json.dumps(content, indent=1) + "\n").encode(), self._version)
                return
            except Unavailable as error:
                self._go_without_conditions(error)
        super()._put(content)

    def _go_without_conditions(self, error: Unavailable) -> None:
        self._file = None
        logger.warning(
            "%s is written without conditions, so that two drivers that begin at once are told apart by who "
            "wrote last: %s",
            self.name,
            error,
        )

    def own_content(self) -> dict[str, Any]:
        """The file's content, without the number of beats."""
        process = {"machine": self.machine, "pid": os.getpid(), "created": self.created}
        stop_answer = {STOP: HEARD} if self.is_asked_to_stop else {}
        timing = {"generation": self.generation, "stale_seconds": self.stale_seconds}
        sighting = {} if self.sighting is None else {"sighting": as_json(self.sighting)}
        return {**super().own_content(), **process, **timing, **stop_answer, **sighting}

    def silence_seconds(self, content: Mapping[str, Any] | None) -> float:
        stale_seconds = (content or {}).get("stale_seconds")
        return max(self.stale_seconds, stale_seconds) if isinstance(stale_seconds, float) else self.stale_seconds

    def may_take_up(self, content: Mapping[str, Any]) -> bool:
        """True if the file's driver is known to have ended."""
        return self._is_of_this_machine(content) and not self.runs_here(content)

    def runs_here(self, content: Mapping[str, Any]) -> bool:
        """True if the file's driver is a running process of this machine."""
        if not self._is_of_this_machine(content):
            return False
        created = _process_start(int(content["pid"]))
        return created is not None and abs(created - float(content["created"])) < _CREATED_SECONDS

    def _is_of_this_machine(self, content: Mapping[str, Any]) -> bool:
        return bool(self.machine) and content.get("machine") == self.machine and {"pid", "created"} <= set(content)


class Hold:
    """A driver's hold on its run folder: what it may write there, and whether it still may."""

    def __init__(self, run: Run, owner: Owner) -> None:
        self.owner = owner
        is_remote = run.folder.local is None
        self._journal_copy = JournalCopy(run.folder, run.journal, owner.generation) if is_remote else None

    @property
    def usurper(self) -> str | None:
        """The driver that has taken the run folder over; None while this one has it. Looks only when this driver has
        not looked for two beats: its machine may have slept."""
        return self.owner.usurper if self.owner.has_lost() else None

    def tell(self, sighting: Any) -> None:
        """The sweep as the driver sees it now, a record; the next beat writes it."""
        self.owner.sighting = sighting

    def fetch_journal(self) -> None:
        """Fetches the study's journal as the last driver left it, when the run folder is on an object store."""
        if self._journal_copy is not None:
            retrying.patiently(self._journal_copy.fetch, "optuna.log")

    def keep_journal(self) -> None:
        """Adds the journal's new lines to the copy on the object store, unless another driver has the run folder."""
        retrying.patiently(self._keep_journal, "optuna.log")

    def _keep_journal(self) -> None:
        if self._journal_copy is not None and self.owner.owns():
            self._journal_copy.keep()

    def merge_journal(self) -> None:
        """Writes the journal whole to the object store, unless another driver has the run folder."""
        if self._journal_copy is not None and self.owner.owns():
            self._journal_copy.merge()


@contextlib.contextmanager
def lock(run: Run, say: Callable[[str], None] = print) -> Iterator[Run]:
    """Refuses a second driver on the same run folder. Yields the run with the driver's hold on it."""
    with _locked_file(run):
        owner = Owner(run.folder)
        owner.claim(say)
        with owner.held():
            hold = Hold(run, owner)
            # A driver that was killed while it wrote the journal leaves Optuna's lock, for which the next waits 30 s.
            run.journal.with_name(f"{run.journal.name}.lock").unlink(missing_ok=True)
            hold.fetch_journal()
            owned = replace(run, hold=hold)
            # Only now: a refused driver must not overwrite the running one's.
            retrying.patiently(lambda: write_sweep_file(owned), "sweep.yaml")
            try:
                yield owned
            except BaseException:
                _merge_at_end(hold.merge_journal)  # at once: somebody waits for the end
                raise
            _merge_at_end(lambda: retrying.patiently(hold.merge_journal, "optuna.log"))


def _merge_at_end(merge: Callable[[], None]) -> None:
    try:
        merge()
    except OSError as error:  # the parts stay, and the next driver reads them
        logger.warning("optuna.log is left in parts: %s", error)


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


def _parsed(version: Seen | None) -> dict[str, Any] | None:
    """The content of a version of the owner file; None if there is no file, or only half of one."""
    try:
        content = None if version is None else json.loads(version.content)
    except ValueError:
        return None
    return content if isinstance(content, dict) and {"holder", "token"} <= set(content) else None


def _machine_name() -> str:
    """A name for this boot of this machine and container. Processes with the same name see each other's numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: an ended driver is noticed by its silence only
        return ""


def _process_start(pid: int) -> float | None:
    """When the process started, Unix seconds; None when it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
