"""A slot as the dispatcher knows it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class SlotState(StrEnum):
    """The state of a slot's workers."""

    STARTING = "starting"
    """The workers have not registered yet."""
    READY = "ready"
    """The workers live, and may take jobs."""
    LEAVING = "leaving"
    """The workers live, but were told to leave: they save the job they hold, and take no other."""
    DOWN = "down"
    """The workers were found dead. Ray Train may give the slot new ones, which register again."""
    GONE = "gone"
    """The slot has ended for good."""


@dataclass(frozen=True)
class Slot:
    """One slot; each change makes a new record."""

    name: str
    state: SlotState = SlotState.STARTING
    incarnation: int = 0
    """How often the slot's workers have begun."""
    since: float = 0.0
    """When the slot was asked for, registered, took a job, ended one or died, whichever was last; monotonic seconds."""
    notice: str | None = None
    """Cause for which the workers were told to leave."""
    has_worked: bool = False
    """True if the slot ever held a job."""

    @property
    def holder(self) -> str:
        """Name of the slot's present workers, who hold jobs. Their successors have another name: so what dead workers
        still say is not taken for theirs."""
        return f"{self.name}#{self.incarnation}"

    @property
    def is_alive(self) -> bool:
        """True if the slot has workers that registered and were not found dead."""
        return self.state in (SlotState.READY, SlotState.LEAVING)

    @property
    def is_unplaced(self) -> bool:
        """True if the slot has no workers that could take jobs, and is to have some."""
        return self.state in (SlotState.STARTING, SlotState.DOWN)

    @property
    def has_registered(self) -> bool:
        """True if the slot has ever reported for work and has not ended."""
        return self.incarnation > 0 and self.state != SlotState.GONE

    def registered(self, now: float) -> Slot:
        """New workers have begun."""
        return replace(self, state=SlotState.READY, incarnation=self.incarnation + 1, since=now, notice=None)

    def ended_job(self, now: float) -> Slot:
        return replace(self, since=now)

    def took_job(self, now: float) -> Slot:
        return replace(self, since=now, has_worked=True)

    def told_to_leave(self, cause: str) -> Slot:
        """The workers got notice; the first cause stays."""
        return replace(self, state=SlotState.LEAVING, notice=self.notice or cause)

    def died(self, now: float) -> Slot:
        """The workers were found dead; of a slot that has ended, or is lost already, this may be heard late."""
        return replace(self, state=SlotState.DOWN, since=now) if self.is_alive else self

    def ended(self) -> Slot:
        return replace(self, state=SlotState.GONE, notice=None)
