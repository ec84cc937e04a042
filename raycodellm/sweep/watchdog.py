"""The driver's main thread while trials run: shows progress, stops cleanly, and ends a lost sweep with a reason."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from raycodellm import retrying
from raycodellm.dispatch import Snapshot
from raycodellm.records import TrialResult
from raycodellm.slots.handle import DispatcherHandle
from raycodellm.slots.threads import THREAD_PREFIX
from raycodellm.sweep.driver import sighting
from raycodellm.sweep.folder import Run
from raycodellm.sweep.results import Results
from raycodellm.sweep.spending import Account
from raycodellm.sweep.stopper import Stopper
from raycodellm.sweep.timing import Timing

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 120.0
"""How long a stopped sweep waits for its running stages to save their checkpoints."""
SETTLE_SECONDS = 10.0
"""How long a lost sweep waits for Ray Tune to end by itself."""
HEAD_SECONDS = 30.0
"""A head node that has not answered for so long is lost. After 60 s Ray ends the driver without a message."""
ASK_HEAD_SECONDS = 2.0
"""Between two connections to the head node."""
_ANSWER_SECONDS = 60.0


class Monitor(Protocol):
    """Shows the trials' progress."""

    def say(self, line: str) -> None: ...

    def training(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> None: ...


class SweepLost(Exception):
    """The sweep cannot continue, by no fault of a trial. Finished trials stay; the same command continues the rest."""

    head_lost: bool = False
    """True when the head node is lost: no call to the cluster is answered any more, and Ray soon ends the process."""


class HeadWatch:
    """True if the head node's control service (GCS) can be reached."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`address`: host:port."""
        host, _, port = address.rpartition(":")
        self._target = (host.strip("[]"), int(port))
        self._clock = clock
        self._answered_at = self._asked_at = clock()

    def seconds_silent(self) -> float:
        """Seconds since the service last accepted a connection. Tries one every `ASK_HEAD_SECONDS` at most."""
        now = self._clock()
        if now - self._asked_at >= ASK_HEAD_SECONDS:
            self._asked_at = now
            try:
                socket.create_connection(self._target, timeout=2.0).close()
                self._answered_at = now
            except OSError:  # refused, or no route: the caller judges how long that may last
                pass
        return now - self._answered_at


class Watchdog:
    """Watches the trials from the driver's main thread."""

    def __init__(
        self,
        dispatcher: DispatcherHandle,
        run: Run,
        results: Results,
        monitor: Monitor,
        stopper: Stopper,
        head_address: str,
        account: Account | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.dispatcher, self.run, self.results, self.monitor = dispatcher, run, results, monitor
        self.stopper, self.head_address, self.account, self.timing = stopper, head_address, account, timing
        self.asked_to_stop = False
        self.head = HeadWatch(head_address)
        self._began = time.monotonic()

    def watch(self, work: Callable[[], None], look_seconds: float = 0.5) -> None:
        """Runs `work` in a thread and shows the trials' progress meanwhile; stops `work` cleanly when the user asks.

        `look_seconds`: between two looks.

        Raises SweepLost when the dispatcher, the head node or every node that holds a worker group is gone, or when
        nothing can continue: then `work` may have ended first, with its trials open.
        """
        import ray

        failure: list[BaseException] = []

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=guarded, name=f"{THREAD_PREFIX}tune", daemon=True)
        thread.start()
        self.stopper.clean = True
        try:
            while thread.is_alive():
                self._look()
                thread.join(look_seconds)
            if self.asked_to_stop:
                self._drain()
        except (ray.exceptions.RayError, SweepLost) as error:
            self.stopper.lost.set()
            explained = self._as_sweep_lost(error)
            if not explained.head_lost:
                thread.join(SETTLE_SECONDS)
            raise explained from error
        finally:
            with contextlib.suppress(OSError):  # the next command writes the table again
                self.results.write_table()
            if self.account is not None:
                with contextlib.suppress(OSError):
                    self.account.write()
        if failure:
            raise failure[0]
        self._look_at_the_end()

    def _look_at_the_end(self) -> None:
        """Shows how the last trials ended. Raises SweepLost when they ended since nothing can continue."""
        import ray

        snapshot = Snapshot()
        with contextlib.suppress(ray.exceptions.RayError, SweepLost):
            snapshot = self._with_spending(self._ask("snapshot"))
            self.monitor.training(snapshot, self.results.all())
        if snapshot.abandoned is not None:
            self.stopper.lost.set()
            raise self._as_sweep_lost(SweepLost(snapshot.abandoned))

    def _look(self) -> None:
        if self.stopper.stopping.is_set() and not self.asked_to_stop:
            self.asked_to_stop = True
            self.monitor.say("stopping: running stages save their checkpoints")
            self._ask("stop")
        snapshot: Snapshot = self._ask("snapshot")
        self._check_owner()
        snapshot = self._with_spending(snapshot)
        try:
            self.results.write_table_if_due()
            if self.account is not None:
                self.account.write_if_due()
            if self.timing is not None:
                self.timing.write_if_due()
        except OSError as error:  # the storage may answer again at the next look
            if not retrying.is_passing(error):
                raise
            logger.warning("the storage does not answer: %s", error)
        self.monitor.training(snapshot, self.results.all())
        if self.run.hold is not None:
            self.run.hold.tell(sighting(snapshot, time.time(), time.monotonic() - self._began))
        if snapshot.abandoned is not None:
            self.stopper.lost.set()
            self._drain()
            raise SweepLost(snapshot.abandoned)

    def _note_times(self, snapshot: Snapshot) -> None:
        """Notes in the timing where the run's time went until now."""
        if self.timing is not None:
            self.timing.slot_seconds = dict(snapshot.busy_seconds)
            self.timing.first_slot_seconds = snapshot.first_slot_seconds
            self.timing.num_ended = self.results.num_ended

    def _with_spending(self, snapshot: Snapshot) -> Snapshot:
        """Counts the sweep's spending. Returns the snapshot with the spent shares of the budget and saved tokens."""
        self._note_times(snapshot)
        if self.account is None:
            return snapshot
        self.account.look(snapshot)
        return replace(
            snapshot,
            budget=tuple(limit.share for limit in self.account.limits),
            tokens_saved=self.account.tokens_saved,
            tokens_stopped=self.account.tokens_stopped,
        )

    def _check_owner(self) -> None:
        """Ends the run when another driver has taken the run folder over. Asks the storage nothing."""
        usurper = self.run.hold.usurper if self.run.hold is not None else None
        if usurper is not None:
            self._ask("stop")
            self._drain()
            raise SweepLost(f"{usurper} has taken the sweep over, since this driver was silent")

    def _drain(self) -> None:
        """Waits until no slot holds a job any more."""
        self._ask("drained", DRAIN_SECONDS, timeout=DRAIN_SECONDS + _ANSWER_SECONDS)

    def _ask(self, method: str, *arguments: Any, timeout: float = _ANSWER_SECONDS) -> Any:
        """The dispatcher's answer. Raises SweepLost when the head node is lost meanwhile."""
        import ray

        question = getattr(self.dispatcher, method).remote(*arguments)
        until = time.monotonic() + timeout
        while True:
            silent = self.head.seconds_silent()
            if silent > HEAD_SECONDS:
                error = SweepLost(f"Ray's head node at {self.head_address} has not answered for {silent:.0f} s")
                error.head_lost = True
                raise error
            try:
                return ray.get(question, timeout=2.0)
            except ray.exceptions.GetTimeoutError:
                if time.monotonic() > until:
                    raise

    def _as_sweep_lost(self, error: Exception) -> SweepLost:
        """The error as a `SweepLost`, whose message says the cause and how to continue."""
        import ray

        if isinstance(error, SweepLost):
            cause = str(error)
        elif isinstance(error, ray.exceptions.RayActorError):
            cause = "the dispatcher, the process on this machine that hands out the sweep's jobs, has died"
        else:
            cause = f"the dispatcher does not answer ({type(error).__name__})"
        lost = SweepLost(f"{cause}; finished trials stay as they are, and the same command continues the others")
        lost.head_lost = getattr(error, "head_lost", False)
        return lost
