"""The driver's side of the slots: as many Ray Train runs as there is work for, each in a thread of the driver."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import traceback
from collections.abc import Callable

import ray

from raycodellm import retrying
from raycodellm.config import Scaling
from raycodellm.dispatch import Action, Demand, PlacementWatch, Sight
from raycodellm.files import Folder
from raycodellm.slots.controller import short_cause
from raycodellm.slots.handle import DispatcherHandle
from raycodellm.slots.threads import THREAD_PREFIX
from raycodellm.slots.trainer import SlotTrainer, slot_trainer

logger = logging.getLogger(__name__)

SUPERVISE_SECONDS = 1.0
"""Longest time between two looks at how many slots are wanted; a change in the dispatcher ends the wait."""
SETTLE_SECONDS = 0.2
"""Shortest time between two such looks, since changes come in bursts."""
KILLED_SECONDS = 5.0
"""How long the end of a sweep waits for slots that were ended without notice."""
ANSWERED_SECONDS = 300.0
"""A storage that let slots start for so long after a wait has answered: the next silence has all waits again."""
WAITING_LOOK_SECONDS, LOOK_SECONDS = 2.0, 10.0
"""Between two looks at the cluster, while a slot has no workers and otherwise."""


class SlotPool:
    """Keeps as many slots as there is work for, up to `max_slots`."""

    def __init__(
        self,
        dispatcher: DispatcherHandle,
        scaling: Scaling,
        max_slots: int,
        folder: Folder,
        look: Callable[[], Sight],
    ) -> None:
        """`look`: what the cluster has room for at the moment of the call."""
        self.dispatcher = dispatcher
        self.scaling = scaling
        self.max_slots = max_slots
        self.folder = folder
        self.look = look
        self.threads: dict[str, threading.Thread] = {}
        """Maps each slot that was ever started to its thread, in order."""
        self.trainers: dict[str, SlotTrainer] = {}
        self.killed: set[str] = set()
        """Slots that were ended since nothing waited for them."""
        self.num_early = 0
        """Slots to start before there is work."""
        self.at_once = max_slots
        """Slots that may start together until one has begun its work."""
        self.has_begun = False
        self.failed_starts = 0
        self.rests_until = -math.inf
        """Until when no slot starts since the storage, where Ray Train keeps a file of each slot, does not answer."""
        self.num_rests = 0
        """Waits for the storage since it last answered."""
        self.abandoned: str | None = None
        """Why nothing can continue, once the dispatcher has said so."""
        self.closing = threading.Event()
        self.supervisor = threading.Thread(target=self._supervise, name=f"{THREAD_PREFIX}supervisor", daemon=True)
        self._watch = PlacementWatch(time.monotonic())
        self._sight = Sight(num_nodes=0)
        self._looked_at = -math.inf

    def start(self, num_slots: int, at_once: int | None = None) -> None:
        """Starts slots before there is work, so that their processes start while tokens are prepared.

        `at_once`: how many start together (None: all); the others follow when one has begun its work. On few cores,
        slots that start together only delay each other.
        """
        self.num_early = min(num_slots, self.max_slots)
        self.at_once = at_once or self.max_slots
        for _ in range(min(self.num_early, self.at_once)):
            self._start_slot()
        self.supervisor.start()

    def close(self, wait_seconds: float) -> None:
        """Ends all slots; waits until their worker groups have been given back, up to `wait_seconds`.

        A slot without workers hears nothing, so it is ended at once; so is what still lives after `wait_seconds`.
        """
        self.closing.set()
        deadline = time.monotonic() + wait_seconds
        with contextlib.suppress(ray.exceptions.RayError):  # a dispatcher that died has ended the slots already
            for slot in ray.get(self.dispatcher.close.remote(), timeout=wait_seconds):
                self._kill(slot)
        for thread in (self.supervisor, *self.threads.values()):
            thread.join(max(0.0, deadline - time.monotonic()))
        for slot in self.threads:
            self._kill(slot)
        for thread in self.threads.values():
            thread.join(max(0.0, deadline + KILLED_SECONDS - time.monotonic()))

    def _kill(self, slot: str) -> None:
        if slot in self.trainers and self.threads[slot].is_alive():
            self.killed.add(slot)
            self.trainers[slot].kill()

    def _supervise(self) -> None:
        self._watch = PlacementWatch(time.monotonic())
        while not self.closing.wait(SETTLE_SECONDS):
            try:
                demand = ray.get(self.dispatcher.demand.remote(SUPERVISE_SECONDS))
                self.abandoned = demand.abandoned
                if self.closing.is_set() or self.abandoned is not None:
                    return
                for slot in demand.surplus:
                    self._kill(slot)
                num_alive = sum(thread.is_alive() for thread in self.threads.values())
                self.has_begun = self.has_begun or demand.has_begun
                while self.is_short_of_slots(demand.num_jobs, num_alive):
                    self._start_slot()
                    num_alive += 1
                self._watch_placement(demand, time.monotonic())
            except ray.exceptions.RayError:
                logger.exception("the slots' supervisor lost its dispatcher")
                return

    def is_short_of_slots(self, num_jobs: int, num_alive: int) -> bool:
        """True if one more slot should start. `num_alive`: slots that run or are starting."""
        if time.monotonic() < self.rests_until:
            return False
        is_wanted = num_jobs > num_alive or len(self.threads) < self.num_early
        return is_wanted and num_alive < (self.max_slots if self.has_begun else min(self.max_slots, self.at_once))

    def _watch_placement(self, demand: Demand, now: float) -> None:
        """Tells the dispatcher what the cluster has room for, and ends a sweep that can have no place."""
        if now - self._looked_at >= (WAITING_LOOK_SECONDS if demand.num_starting else LOOK_SECONDS):
            self._looked_at = now
            try:
                self._sight = self.look()
            except Exception:  # the control service (GCS) is away for a moment; the watchdog ends a run that lost it
                logger.warning("cannot look at the cluster", exc_info=True)
            self.dispatcher.see.remote(self._sight)
        decision = self._watch.decide(self._sight, demand, now)
        if decision is not None:
            action, reason = decision
            methods = {Action.FAIL: "fail_all", Action.ABANDON: "abandon", Action.SAY: "note"}
            ray.get(getattr(self.dispatcher, methods[action]).remote(reason))

    def _start_slot(self) -> None:
        slot = f"slot {len(self.threads) + 1}"
        self.dispatcher.slot_asked_for.remote(slot)
        thread = threading.Thread(target=self._run_slot, args=(slot,), name=THREAD_PREFIX + slot, daemon=True)
        self.threads[slot] = thread
        thread.start()

    def _wait_for_storage(self, slot: str, cause: str) -> None:
        """Lets no slot start for a while, since the storage did not answer; abandons the sweep after the last wait."""
        now = time.monotonic()
        if now < self.rests_until:  # another slot has told it
            return
        if now - self.rests_until > ANSWERED_SECONDS:
            self.num_rests = 0
        if self.num_rests == len(retrying.WAITS_SECONDS):
            num_times = self.num_rests + 1
            ray.get(self.dispatcher.abandon.remote(f"the storage has not answered {num_times} times: {cause}"))
            return
        seconds = retrying.WAITS_SECONDS[self.num_rests]
        self.num_rests, self.rests_until = self.num_rests + 1, now + seconds
        sentence = f"{slot} has not started: the storage does not answer ({cause}); again in {seconds:.0f} s"
        self.dispatcher.note.remote(sentence)

    def _run_slot(self, slot: str) -> None:
        cause, has_failed, passing_cause = "the slot ended", False, None
        try:
            trainer = self.trainers[slot] = slot_trainer(slot, self.dispatcher, self.scaling, self.folder)
            trainer.fit()
        except Exception as error:
            if self.closing.is_set():
                return
            if slot not in self.killed:
                logger.error("%s ended: %s", slot, traceback.format_exc())
                cause, has_failed, passing_cause = short_cause(error), True, retrying.passing_cause(error)
                if self.abandoned is None and passing_cause is None:  # else the cause has been told
                    self.dispatcher.note.remote(f"{slot} ended: {cause}")
        with contextlib.suppress(ray.exceptions.RayError):  # the cluster may be gone by now
            has_worked = ray.get(self.dispatcher.slot_gone.remote(slot, cause))
            # A slot that died under a job counts as a death of that job; here count slots that never get a job.
            if passing_cause is not None and not has_worked:  # no fault of the slot, and none of a trial
                self._wait_for_storage(slot, passing_cause)
                return
            self.failed_starts = self.failed_starts + 1 if has_failed and not has_worked else 0
            if self.failed_starts > self.scaling.max_failures:
                ray.get(self.dispatcher.fail_all.remote(f"worker groups end at once; the last one: {cause}"))
