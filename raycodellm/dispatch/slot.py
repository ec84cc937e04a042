"""A slot as the dispatcher knows it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class SlotState(StrEnum):
    """The state of a slot's workers."""

    STARTING = "starting"
    """They have not registered yet."""
    READY = "ready"
    """They live, and may take jobs."""
    LEAVING = "leaving"
    """They live, but were told to leave: they save the job they hold, and take no other."""
    DOWN = "down"
    """They were found dead. Ray Train may give the slot new workers, which register again."""
    GONE = "gone"
    """The slot has ended for good."""


@dataclass(frozen=True)
class Slot:
    """One slot; each change makes a new record."""

    name: str
    state: SlotState = SlotState.STARTING
    incarnation: int = 0
    """How often the slot's workers have begun."""
    idle_since: float = 0.0
    """When the slot last registered, took a job or ended one, monotonic seconds."""
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
    def has_registered(self) -> bool:
        """True if the slot has ever reported for work and has not ended."""
        return self.incarnation > 0 and self.state != SlotState.GONE

    def registered(self, now: float) -> Slot:
        """New workers have begun."""
        return replace(self, state=SlotState.READY, incarnation=self.incarnation + 1, idle_since=now, notice=None)

    def heard(self, now: float) -> Slot:
        return replace(self, idle_since=now)

    def took_job(self, now: float) -> Slot:
        return replace(self, idle_since=now, has_worked=True)

    def told_to_leave(self, cause: str) -> Slot:
        """The workers got notice; the first cause stays."""
        return replace(self, state=SlotState.LEAVING, notice=self.notice or cause)

    def died(self) -> Slot:
        """The workers were found dead; of a slot that has ended this may be heard late."""
        return self if self.state == SlotState.GONE else replace(self, state=SlotState.DOWN)

    def ended(self) -> Slot:
        return replace(self, state=SlotState.GONE, notice=None)
