"""One job of the stage tree, and the states that it goes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from raycodellm.finished import Job


class JobState(StrEnum):
    WAITING = "waiting"
    POSTPONED = "postponed"
    """The storage did not answer; the job waits until `resume`."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = (JobState.WAITING, JobState.POSTPONED, JobState.RUNNING)


@dataclass
class JobNode:
    """One job of the stage tree."""

    job: Job
    parent: str | None
    """Key of the job whose end this one waits for."""
    depth: int
    """Jobs before this one in its chain."""
    state: JobState = JobState.WAITING
    holder: str | None = None
    """The incarnation of a slot that runs the job."""
    deaths: int = 0
    """Times that its workers died without notice."""
    preemptions: int = 0
    """Times that its workers were told to leave."""
    postponements: int = 0
    """Times that the storage did not answer."""
    has_begun: bool = False
    """True once a slot has taken the job."""
    is_elsewhere: bool = False
    """True if another sweep did the job when a slot last looked."""
    kept_step: int = 0
    """Last step after which a stage has kept a checkpoint for the stages that share its trunk."""
    trials: set[int] = field(default_factory=set)
    """Numbers of the trials that need the job."""
    outcome: Any = None
    """A done job's outcome; the cause of a failed one's failure."""
