"""What the driver does while trials run: show where they are, stop cleanly, and end with a reason when all is lost."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from raycodellm import retrying
from raycodellm.records import TrialResult
from raycodellm.sweep.folder import Run, read_results
from raycodellm.sweep.ownership import usurper

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 120.0
"""How long a stopped sweep waits for its running stages to save their checkpoints."""
SETTLE_SECONDS = 10.0
"""How long a lost sweep waits for Ray Tune to end by itself."""
HEAD_SECONDS = 30.0
"""After which a head node that does not answer is lost. Ray ends the driver without a word after 60."""
ASK_HEAD_SECONDS = 2.0
"""Between two looks at the head node."""
OWNER_SECONDS = 5.0
"""Between two looks at whose the run folder is."""
_ANSWER_SECONDS = 60.0


class SweepLost(Exception):
    """The sweep cannot go on, by no fault of a trial. Finished trials stay; the same command continues the others."""

    head_lost: bool = False
    """Then nothing that asks the cluster will answer, and Ray ends the process soon."""


class HeadWatch:
    """Whether the head node's control service (GCS) can be reached."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`address`: host:port."""
        host, _, port = address.rpartition(":")
        self._target = (host.strip("[]"), int(port))
        self._clock = clock
        self._answered = self._asked = clock()

    def seconds_silent(self) -> float:
        """Since it last answered, as far as it was asked."""
        now = self._clock()
        if now - self._asked >= ASK_HEAD_SECONDS:
            self._asked = now
            try:
                socket.create_connection(self._target, timeout=2.0).close()
                self._answered = now
            except OSError:  # a refusal, or no route: how long that lasts is for the caller to judge
                pass
        return now - self._answered


class Watchdog:
    """Watches over the trials from the driver's main thread."""

    def __init__(self, dispatcher: Any, run: Run, monitor: Any, stopper: Any, head_address: str) -> None:
        self.dispatcher, self.run, self.monitor, self.stopper = dispatcher, run, monitor, stopper
        self.head_address = head_address
        self.asked_to_stop = False
        self.head = HeadWatch(head_address)
        self.ended: dict[int, TrialResult] = {}
        self.results: list[TrialResult] = []
        """As they were when the storage last answered."""
        self._owner_asked = time.monotonic()

    def watch(self, work: Callable[[], None]) -> None:
        """Does `work` in a thread while showing where the trials are; ends it cleanly when asked to stop.

        Raises SweepLost when the dispatcher, the head node or every node that holds a worker group is gone.
        """
        import ray

        from raycodellm.slots import THREAD_PREFIX

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
                thread.join(0.5)
            if self.asked_to_stop:
                self._ask("drained", DRAIN_SECONDS, timeout=DRAIN_SECONDS + _ANSWER_SECONDS)
        except (ray.exceptions.RayError, SweepLost) as error:
            self.stopper.lost.set()
            explained = self._explained(error)
            if not explained.head_lost:
                thread.join(SETTLE_SECONDS)
            raise explained from error
        if failure:
            raise failure[0]

    def _look(self) -> None:
        if self.stopper.stopping.is_set() and not self.asked_to_stop:
            self.asked_to_stop = True
            self.monitor.say("stopping: running stages save their checkpoints")
            self._ask("stop")
        snapshot = self._ask("snapshot")
        try:
            self.results = read_results(self.run, self.ended)
            self._check_owner()
        except OSError as error:  # at the next look the storage may answer again
            if not retrying.is_passing(error):
                raise
            logger.warning("the storage does not answer: %s", error)
        self.monitor.training(snapshot, self.results)
        if snapshot.abandoned is not None:
            self.stopper.lost.set()
            self._ask("drained", DRAIN_SECONDS, timeout=DRAIN_SECONDS + _ANSWER_SECONDS)
            raise SweepLost(snapshot.abandoned)

    def _check_owner(self) -> None:
        if time.monotonic() - self._owner_asked >= OWNER_SECONDS:
            self._owner_asked = time.monotonic()
            other = usurper(self.run)
            if other is not None:
                self._ask("stop")
                self._ask("drained", DRAIN_SECONDS, timeout=DRAIN_SECONDS + _ANSWER_SECONDS)
                raise SweepLost(f"{other} has taken the sweep over, since this driver was silent")

    def _ask(self, method: str, *arguments: Any, timeout: float = _ANSWER_SECONDS) -> Any:
        """The dispatcher's answer, unless the head node is lost meanwhile."""
        import ray

        question = getattr(self.dispatcher, method).remote(*arguments)
        until = time.monotonic() + timeout
        while True:
            silent = self.head.seconds_silent()
            if silent > HEAD_SECONDS:
                lost = SweepLost(f"Ray's head node at {self.head_address} has not answered for {silent:.0f} s")
                lost.head_lost = True
                raise lost
            try:
                return ray.get(question, timeout=2.0)
            except ray.exceptions.GetTimeoutError:
                if time.monotonic() > until:
                    raise

    def _explained(self, error: Exception) -> SweepLost:
        import ray

        if isinstance(error, SweepLost):
            cause = str(error)
        elif isinstance(error, ray.exceptions.RayActorError):
            cause = "the dispatcher, the process on this machine that hands out the sweep's jobs, has died"
        else:
            cause = f"the dispatcher does not answer ({type(error).__name__})"
        told = SweepLost(f"{cause}; finished trials stay as they are, and the same command continues the others")
        told.head_lost = getattr(error, "head_lost", False)
        return told
