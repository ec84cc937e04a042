"""A worker's line to the dispatcher."""

from __future__ import annotations

import logging
from typing import Any

import ray

from raycodellm import engine
from raycodellm.engine import World
from raycodellm.records import Progress
from raycodellm.slots.handle import DispatcherHandle
from raycodellm.slots.notice import Notice
from raycodellm.slots.ray_train import RayTrain

logger = logging.getLogger(__name__)


class DispatcherClient:
    """Speaks to the dispatcher for one worker. Progress is sent without waiting; its answer is read once it is there.

    Each message carries the slot and its incarnation, so that a dead worker's last message is not taken for its
    successor's.
    """

    def __init__(self, dispatcher: DispatcherHandle, slot: str, sweep: str = "") -> None:
        self.dispatcher = dispatcher
        self.slot = slot
        self.incarnation = 0
        """Number of this worker group among the slot's, as the dispatcher counts them; 0 until it is known."""
        self.sweep = sweep
        """The run folder's URI: the holder of the leases of the stages in training."""
        self.notice = Notice(lambda cause: dispatcher.told_to_leave.remote(slot, self.incarnation, cause))
        self.ray_train = RayTrain(self.notice.preempted)
        self.lost_because: str | None = None
        """Why the dispatcher cannot be reached any more: then the worker saves its job and leaves."""
        self._answer: Any = None
        """The answer to the last progress message, which may not have come yet."""
        self._is_told_to_stop = False

    @property
    def leave_because(self) -> str | None:
        """Why the worker must leave; None while it may stay."""
        return self.notice.cause or self.lost_because

    def register(self, world: World) -> None:
        """Tells the dispatcher that the worker group begins. A collective: all ranks learn their incarnation."""
        incarnation = self._call("register", self.slot) if world.rank == 0 else None
        self.incarnation = engine.gather(world, incarnation)[0] or 0

    def ask(self, method: str, *arguments: Any) -> Any:
        """The dispatcher's answer; None when it has died."""
        return self._call(method, self.slot, self.incarnation, *arguments)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self.dispatcher, method).remote(*arguments))
        except ray.exceptions.RayActorError as error:
            self._note_death(error)
            return None

    def progress(self, progress: Progress) -> None:
        """Sends how far the job is. A step may be left out while an answer is due, but not the last step or a note."""
        if self._answer is None or progress.note or progress.step == progress.num_steps:
            self._answer = self.dispatcher.report.remote(self.slot, self.incarnation, progress)

    def should_stop(self) -> bool:
        """True if the worker should save its job and give it back."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            try:
                self._is_told_to_stop = ray.get(self._answer)
            except ray.exceptions.RayActorError as error:
                self._note_death(error)
            self._answer = None
        return self._is_told_to_stop or self.leave_because is not None

    def begin(self) -> None:
        """Forgets the answers to the last job's progress."""
        self._answer, self._is_told_to_stop = None, False

    def _note_death(self, error: Exception) -> None:
        if self.lost_because is None:
            logger.error("the dispatcher does not answer: %s", error)
        self.lost_because = "the dispatcher died"
