"""The driver's side of the slots: as many Ray Train runs as there is work for, each in a thread of the driver."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from raycodellm.config import Scaling
from raycodellm.files import Folder
from raycodellm.slots.handle import DispatcherHandle
from raycodellm.slots.notice import sigterm_callback
from raycodellm.slots.ray_train import nodes_are_watched
from raycodellm.slots.threads import THREAD_PREFIX
from raycodellm.slots.worker import slot_loop

logger = logging.getLogger(__name__)

PLACEMENT_SECONDS = 45.0
"""A sweep that has had no living slot for so long asks whether one can ever be placed."""
ABANDON_SECONDS = 600.0
"""A sweep whose nodes are lost ends when none has come back for so long."""
_CAUSE_LENGTH = 300
"""Characters. Ray's account of a dead actor is a page long."""


class SlotPool:
    """Keeps as many slots as there is work for, up to `max_slots`."""

    def __init__(
        self,
        dispatcher: DispatcherHandle,
        scaling: Scaling,
        max_slots: int,
        folder: Folder,
        why_not_placed: Callable[[], str | None],
    ) -> None:
        self.dispatcher = dispatcher
        self.scaling = scaling
        self.max_slots = max_slots
        self.folder = folder
        self.why_not_placed = why_not_placed
        self.threads: dict[str, threading.Thread] = {}
        self.early = 0
        """Slots to start before there is work."""
        self.at_once = max_slots
        """Slots that may start together until one has begun its work."""
        self.begun = False
        self.failed_starts = 0
        self.closing = threading.Event()
        self.supervisor = threading.Thread(target=self._supervise, name=f"{THREAD_PREFIX}supervisor", daemon=True)
        self._ever_placed = self._said_lost = False
        self._placed_at = self._asked_at = time.monotonic()

    def start(self, num_slots: int, at_once: int | None = None) -> None:
        """Starts slots before there is work, so that their processes start while tokens are prepared.

        `at_once`: how many start together (None: all); the others follow when one has begun its work. On few cores,
        slots that start together only delay each other.
        """
        self.early = min(num_slots, self.max_slots)
        self.at_once = at_once or self.max_slots
        for _ in range(min(self.early, self.at_once)):
            self._start_slot()
        self.supervisor.start()

    def close(self, wait_seconds: float) -> None:
        """Ends all slots; waits until their worker groups have been given back, up to `wait_seconds`."""
        self.closing.set()
        until = time.monotonic() + wait_seconds
        with contextlib.suppress(ray.exceptions.RayError):  # a dispatcher that died has ended the slots already
            ray.get(self.dispatcher.close.remote(), timeout=wait_seconds)
        for thread in (self.supervisor, *self.threads.values()):
            thread.join(max(0.0, until - time.monotonic()))

    def _supervise(self) -> None:
        self._placed_at = self._asked_at = time.monotonic()
        while not self.closing.wait(1.0):
            try:
                demand, placed = ray.get(self.dispatcher.demand.remote())
                alive = sum(thread.is_alive() for thread in self.threads.values())
                self.begun = self.begun or ray.get(self.dispatcher.has_begun.remote())
                if self.is_short_of_slots(demand, alive):
                    self._start_slot()
                self._watch_placement(placed, demand)
            except ray.exceptions.RayError:
                logger.exception("the slots' supervisor lost its dispatcher")
                return

    def is_short_of_slots(self, demand: int, alive: int) -> bool:
        """True if one more slot should start. `alive`: slots that run or are starting."""
        wanted = demand > alive or len(self.threads) < self.early
        return wanted and alive < (self.max_slots if self.begun else min(self.max_slots, self.at_once))

    def _watch_placement(self, placed: bool, demand: int) -> None:
        now = time.monotonic()
        if placed or (self._ever_placed and not demand):
            self._ever_placed |= placed
            self._said_lost = False
            self._placed_at = self._asked_at = now
        elif now - self._asked_at > PLACEMENT_SECONDS:
            self._asked_at = now
            reason = self.why_not_placed()
            if reason is not None:
                self._not_placed(reason, now - self._placed_at)

    def _not_placed(self, reason: str, seconds: float) -> None:
        """Trials that never had a place fail. Trials whose nodes are lost wait for new nodes, and then stay open."""
        if not self._ever_placed:
            ray.get(self.dispatcher.fail_all.remote(f"cannot be placed: {reason}"))
        elif seconds > ABANDON_SECONDS:
            cause = f"no worker group has fitted for {seconds:.0f} s: {reason}"
            ray.get(self.dispatcher.abandon.remote(cause))
        elif not self._said_lost:
            self._said_lost = True
            waiting = f"waiting for nodes, up to {ABANDON_SECONDS:.0f} s"
            ray.get(self.dispatcher.note.remote(f"no worker group fits any more: {reason}; {waiting}"))

    def _start_slot(self) -> None:
        slot = f"slot-{uuid.uuid4().hex[:8]}"
        thread = threading.Thread(target=self._run_slot, args=(slot,), name=THREAD_PREFIX + slot, daemon=True)
        self.threads[slot] = thread
        thread.start()

    def _run_slot(self, slot: str) -> None:
        cause, failed = "the slot ended", False
        try:
            trainer(slot, self.dispatcher, self.scaling, self.folder).fit()
        except Exception as error:
            if self.closing.is_set():
                return
            logger.error("%s ended: %s", slot, traceback.format_exc())
            cause, failed = _short(error), True
        with contextlib.suppress(ray.exceptions.RayError):  # the cluster may be gone by now
            worked = ray.get(self.dispatcher.slot_gone.remote(slot, cause))
            # A slot that died under a job counts as a death of that job; here count slots that never get a job.
            self.failed_starts = self.failed_starts + 1 if failed and not worked else 0
            if self.failed_starts > self.scaling.max_failures:
                ray.get(self.dispatcher.fail_all.remote(f"worker groups end at once; the last one: {cause}"))


def trainer(slot: str, dispatcher: DispatcherHandle, scaling: Scaling, folder: Folder) -> Any:
    """The Ray Train run of one slot."""
    gpus = scaling.gpus_per_worker
    resources = {"CPU": scaling.cpus_per_worker, **({"GPU": gpus} if gpus else {})}
    return TorchTrainer(
        slot_loop,
        train_loop_config={
            "dispatcher": dispatcher,
            "slot": slot,
            "sweep": folder.uri,
            "cpus_per_worker": scaling.cpus_per_worker,
            "gpus_per_worker": scaling.gpus_per_worker,
            "fresh_workers": scaling.fresh_workers,
            "nodes_are_watched": nodes_are_watched(),
        },
        scaling_config=ScalingConfig(num_workers=scaling.workers, use_gpu=gpus > 0, resources_per_worker=resources),
        run_config=RunConfig(
            name=slot,
            storage_path=(folder / "slots").uri,
            # The dispatcher counts how often a job's workers may die. A slot outlives many jobs; -1 means no limit.
            failure_config=FailureConfig(max_failures=scaling.max_failures, max_preemption_failures=-1),
            callbacks=[_controller_callback(slot, dispatcher), sigterm_callback()],
        ),
    )


def _controller_callback(slot: str, dispatcher: DispatcherHandle) -> Any:
    """A callback in Ray Train's controller. It tells the dispatcher of dead workers at once, with the cause that Ray
    knows, and writes reported metrics into the controller's log, which the dashboard shows."""
    from ray.train import UserCallback

    class InController(UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            said = (f"{name} {value:.6g}" for name, value in metrics[0].items() if isinstance(value, int | float))
            logging.getLogger("ray.train").info("%s: %s", metrics[0].get("stage"), ", ".join(said))

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            rank, error = min(worker_exceptions.items())
            causes = [getattr(e, "health_check_failure", e) for e in worker_exceptions.values()]
            preempted = any(getattr(cause, "preempted", False) for cause in causes)
            dispatcher.workers_died.remote(slot, f"worker {rank}: {_short(error)}", preempted)

    return InController()


def _short(error: BaseException) -> str:
    """The error's class and its last line, where Ray names the cause."""
    error = getattr(error, "health_check_failure", error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = f"{type(error).__name__}: {lines[-1]}"
    return text if len(text) <= _CAUSE_LENGTH else f"{text[:_CAUSE_LENGTH]}…"
