"""Decides what a sweep without a living slot does: wait, say so, fail its trials, or end with its trials open."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from raycodellm.dispatch.snapshot import Sight

PLACEMENT_SECONDS = 45.0
"""A sweep that has never had a slot fails when for so long none could ever be placed."""
ABANDON_SECONDS = 600.0
"""A sweep whose nodes are lost ends when none has come back for so long."""


@dataclass(frozen=True)
class Demand:
    """The dispatcher's requests to the driver."""

    num_jobs: int = 0
    """Jobs that run or could run now: so many slots are wanted."""
    has_slot: bool = False
    """True if a slot lives that has reported for work."""
    has_begun: bool = False
    """True if a job is past its start, or a slot waits for work: then another slot's start delays neither."""
    num_starting: int = 0
    """Slots that wait for a place or whose processes start."""
    surplus: tuple[str, ...] = ()
    """Slots without workers for which there has been no job for long: an autoscaler would start nodes for nothing."""
    abandoned: str | None = None
    """Why nothing can continue; then no slot is wanted."""


class Action(StrEnum):
    FAIL = "fail"
    """All unfinished trials fail with the reason."""
    ABANDON = "abandon"
    """The run ends with the reason; its trials stay open."""
    SAY = "say"


class PlacementWatch:
    """Watches for how long no slot has lived."""

    def __init__(self, now: float) -> None:
        """`now`: monotonic seconds, as in `decide`."""
        self._has_had_slot = self._has_said_lost = False
        self._had_slot_at = self._possible_at = now

    def decide(self, sight: Sight, demand: Demand, now: float) -> tuple[Action, str] | None:
        """The action to take, with the sentence for the user; None to go on waiting.

        Trials that never had a place fail. Trials whose nodes are lost wait for new nodes, and then stay open.
        """
        if demand.has_slot or (self._has_had_slot and not demand.num_jobs):
            self._has_had_slot |= demand.has_slot
            self._has_said_lost = False
            self._had_slot_at = self._possible_at = now
            return None
        if sight.placement_problem is None:
            self._possible_at = now
            return None
        if not self._has_had_slot:
            if now - self._possible_at < PLACEMENT_SECONDS:
                return None
            return Action.FAIL, f"cannot be placed: {sight.placement_problem}"
        seconds = now - self._had_slot_at
        if seconds > ABANDON_SECONDS:
            return Action.ABANDON, f"no worker group has fitted for {seconds:.0f} s: {sight.placement_problem}"
        if self._has_said_lost:
            return None
        self._has_said_lost = True
        waiting = f"waiting for nodes, up to {ABANDON_SECONDS:.0f} s"
        return Action.SAY, f"no worker group fits any more: {sight.placement_problem}; {waiting}"
