"""The view of a running sweep that a display shows: a snapshot of its jobs, its slots and the nodes it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from raycodellm.dispatch.remaining import RemainingWork
from raycodellm.dispatch.slot import Slot, SlotState
from raycodellm.records import Progress


class SlotActivity(StrEnum):
    """The activity of a slot, as people see it."""

    STARTING = "starting"
    """The slot waits for a place in the cluster, or its processes start."""
    IDLE = "idle"
    """The slot waits for a job."""
    WORKING = "working"
    """The slot does a job, or saves one because it must leave."""
    LOST = "lost"
    """The slot's workers died or left, and others have not come yet."""


@dataclass(frozen=True)
class SlotView:
    """One slot of a snapshot."""

    name: str
    """"slot 1", "slot 2", in the order in which the slots were asked for."""
    state: SlotActivity
    job: str | None
    """Key of the job that the slot does."""
    seconds: float
    """How long the slot has been in this state."""


@dataclass(frozen=True)
class Sight:
    """The cluster as the driver sees it when it looks."""

    num_nodes: int
    """Nodes that live."""
    waiting_reason: str | None = None
    """Why no further slot fits now, and what would end that; None if one fits, or none waits for a place."""
    placement_problem: str | None = None
    """Why no slot can ever fit on these nodes and those that an autoscaler may add; None if one can."""


@dataclass(frozen=True)
class Snapshot:
    """The figures of a running sweep that a display shows."""

    running: dict[str, Progress] = field(default_factory=dict)
    """Progress of each running job, by its key."""
    ended: dict[str, Progress] = field(default_factory=dict)
    """Last progress of each job that a slot has ended or given back since the last snapshot, by its key."""
    chains: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Keys of the jobs of each trial that is not through, or that needed a job in `ended`, by its number; the
    evaluation last."""
    slots: int = 0
    """Worker groups that have reported for work."""
    jobs_done: int = 0
    busy_seconds: dict[str, float] = field(default_factory=dict)
    """Slot-seconds spent on training and on evaluation."""
    first_slot_seconds: float | None = None
    """From the dispatcher's start until the first slot asked for work."""
    notes: tuple[str, ...] = ()
    """Sentences for the user since the last snapshot."""
    deaths: int = 0
    """Deaths of workers under a job, without notice."""
    preemptions: int = 0
    """Jobs whose workers were told to leave, counted each time."""
    abandoned: str | None = None
    """Why nothing can continue; then the driver ends the run, and its trials stay open."""
    slot_views: tuple[SlotView, ...] = ()
    """The slots that have not ended, in the order in which they were asked for."""
    waiting_reason: str | None = None
    """Why no slot can start now, and what would end that; None while none waits for a place."""
    num_nodes: int = 0
    """Nodes of the cluster that live; 0 before the driver has looked."""
    remaining: RemainingWork | None = None
    """The work that is left; None while too little is measured."""
    budget: tuple[str, ...] = ()
    """How much of each limit of the sweep's budget is spent, in words. The driver sets `budget`, `tokens_saved` and
    `tokens_stopped`."""
    tokens_saved: int = 0
    """Tokens that the trials which have ended would have trained in addition, if none shared a stage or a trunk."""
    tokens_stopped: int = 0
    """Tokens of their stages that trials which were stopped early did not ask for."""


def view(slot: Slot, job: str | None, now: float) -> SlotView:
    """The slot as people see it. `job`: key of the job that its workers hold; `now`: monotonic seconds."""
    if slot.state == SlotState.STARTING:
        activity = SlotActivity.STARTING
    elif job is not None:
        activity = SlotActivity.WORKING
    elif slot.state == SlotState.READY:
        activity = SlotActivity.IDLE
    else:
        activity = SlotActivity.LOST
    return SlotView(slot.name, activity, job, now - slot.since)
