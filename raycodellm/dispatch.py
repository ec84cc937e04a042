"""The stage tree and its jobs, as pure logic: which job is ready, who takes it, what a death or an end changes.

A job is ready when its parent is done. Equal stages of several trials are one job; a trial stopped early cancels the
jobs that nobody else needs. Nothing here knows of Ray, time or files: `slots` wraps it in an actor.

A holder is one incarnation of a slot's workers. When they die, the holder is gone for good: what it still says comes
too late, and the slot's next workers are another holder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raycodellm.records import EvaluationJob, StageJob
from raycodellm.stage_store import Chain

Job = StageJob | EvaluationJob

WAITING, POSTPONED, RUNNING = "waiting", "postponed", "running"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
OPEN = (WAITING, POSTPONED, RUNNING)


@dataclass
class JobNode:
    """One job of the stage tree."""

    job: Job
    parent: str | None
    depth: int
    state: str = WAITING
    holder: str | None = None
    """The slot's incarnation that runs it."""
    deaths: int = 0
    """Times that its workers died under it, without notice."""
    preemptions: int = 0
    """Times that its workers were told to leave."""
    postponed: int = 0
    """Times that the storage did not answer under it."""
    trials: set[int] = field(default_factory=set)
    """Numbers of the trials that need it."""
    outcome: Any = None
    """What the slot sent back when it was done; the cause when it failed."""


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial's chain ended. `outcomes`: per job key what the slot sent back; `error`: the cause, if it failed."""

    outcomes: Mapping[str, Any]
    error: str | None = None
    deaths: int = 0
    """Of workers under the chain's jobs, since the sweep was last started."""
    preemptions: int = 0


class Dispatch:
    """All jobs of a running sweep."""

    def __init__(self, max_deaths: int, max_preemptions: int = 50) -> None:
        self.max_deaths = max_deaths
        self.max_preemptions = max_preemptions
        self.stopping = False
        self.nodes: dict[str, JobNode] = {}
        self.chains: dict[int, tuple[str, ...]] = {}
        """Trial number to the keys of its jobs, first stage first."""
        self.gone: set[str] = set()
        """Holders whose workers have died."""

    def add(self, trial: int, chain: Chain, finished: Mapping[str, Any] | None = None) -> None:
        """Takes in a trial; `finished` holds the outcomes of jobs that the stage store has already."""
        parent: str | None = None
        for depth, job in enumerate(chain.jobs):
            node = self.nodes.setdefault(job.key, JobNode(job, parent, depth))
            if node.state == CANCELLED:
                node.state = WAITING
            if node.state == WAITING and job.key in (finished or {}):
                node.state, node.outcome = DONE, (finished or {})[job.key]
            node.trials.add(trial)
            parent = job.key
        self.chains[trial] = tuple(job.key for job in chain.jobs)

    def ready(self) -> list[JobNode]:
        """Jobs that a slot may take now: the oldest trial's first, and of one trial the one nearest its end."""
        found = [node for node in self.nodes.values() if node.state == WAITING and self._parent_done(node)]
        return sorted(found, key=lambda node: (min(node.trials), -node.depth))

    def take(self, holder: str) -> Job | None:
        """The job that `holder` does next; None when nothing is ready, the sweep is stopping, or its workers died."""
        if self.stopping or holder in self.gone:
            return None
        for node in self.ready():
            node.state, node.holder = RUNNING, holder
            return node.job
        return None

    def finish(self, holder: str, key: str, outcome: Any) -> None:
        node = self._held(holder, key)
        if node is not None:
            node.state, node.holder, node.outcome = DONE, None, outcome

    def fail(self, holder: str, key: str, cause: str) -> None:
        """The job's own error: it fails with every job after it, for all trials that need it."""
        node = self._held(holder, key)
        if node is not None:
            self._fail(node, cause)

    def release(self, holder: str, key: str) -> None:
        """The holder gave the job back unfinished, as it was asked to: its checkpoint is saved."""
        node = self._held(holder, key)
        if node is not None:
            node.state, node.holder = (WAITING if node.trials else CANCELLED), None

    def postpone(self, holder: str, key: str) -> int:
        """The holder gave the job back, since the storage did not answer. No fault of the job: it waits until `resume`.

        Returns how often that has happened to the job; 0 when the holder does not have it.
        """
        node = self._held(holder, key)
        if node is None:
            return 0
        node.postponed += 1
        node.state, node.holder = (POSTPONED if node.trials else CANCELLED), None
        return node.postponed

    def resume(self, key: str) -> None:
        """A postponed job may be taken again."""
        node = self.nodes[key]
        if node.state == POSTPONED:
            node.state = WAITING if node.trials else CANCELLED

    def lost(self, holder: str, cause: str, preempted: bool = False) -> list[str]:
        """The workers of `holder` are gone: what they held is taken again, or fails when that happened too often.

        `preempted`: they had been told to leave, which is no fault of the job and has a budget of its own. Returns the
        keys of what they held.
        """
        self.gone.add(holder)
        held = [node for node in self.nodes.values() if node.state == RUNNING and node.holder == holder]
        for node in held:
            self._interrupted(node, cause, preempted)
        return [node.job.key for node in held]

    def preempted(self, holder: str, key: str, cause: str) -> None:
        """The holder was told to leave and gave the job back unfinished: its checkpoint is saved."""
        node = self._held(holder, key)
        if node is not None:
            self._interrupted(node, cause, preempted=True)

    def _interrupted(self, node: JobNode, cause: str, preempted: bool) -> None:
        node.holder = None
        if preempted:
            node.preemptions += 1
        else:
            node.deaths += 1
        if not node.trials:
            node.state = CANCELLED
        elif node.deaths > self.max_deaths:
            self._fail(node, f"its workers died {_times(node.deaths)}; the last time: {cause}")
        elif node.preemptions > self.max_preemptions:
            self._fail(node, f"its workers were preempted {_times(node.preemptions)}; the last time: {cause}")
        else:
            node.state = WAITING

    def cancel(self, trial: int) -> None:
        """The trial needs nothing more; jobs that only it needed are dropped, or stopped if they run."""
        for key in self.chains.pop(trial, ()):
            node = self.nodes[key]
            node.trials.discard(trial)
            if not node.trials and node.state in (WAITING, POSTPONED):
                node.state = CANCELLED

    def fail_all(self, cause: str) -> None:
        """Nothing can run any more: every unfinished job fails with the same cause."""
        for node in self.nodes.values():
            if node.state in OPEN:
                node.state, node.holder, node.outcome = FAILED, None, cause

    def should_stop(self, holder: str, key: str) -> bool:
        """True if the holder should save its job and give it back: the sweep stops, or nobody needs the job."""
        node = self._held(holder, key)
        return self.stopping or node is None or not node.trials

    def outcome(self, trial: int) -> TrialOutcome | None:
        """How the trial ended; None while it has jobs to do."""
        nodes = [self.nodes[key] for key in self.chains[trial]]
        done = {node.job.key: node.outcome for node in nodes if node.state == DONE}
        failed = next((node for node in nodes if node.state == FAILED), None)
        if failed is None and len(done) < len(nodes):
            return None
        error = f"{_spoken(failed.job)}: {failed.outcome}" if failed else None
        deaths, preemptions = (sum(getattr(node, what) for node in nodes) for what in ("deaths", "preemptions"))
        return TrialOutcome(done, error, deaths, preemptions)

    def is_open(self, key: str) -> bool:
        """Whether the job waits or runs."""
        return self.nodes[key].state in OPEN

    def num_active(self) -> int:
        """Jobs that are running or could run now: what slots are wanted for."""
        return len(self.ready()) + self.num_running()

    def num_running(self) -> int:
        return sum(node.state == RUNNING for node in self.nodes.values())

    def _parent_done(self, node: JobNode) -> bool:
        return node.parent is None or self.nodes[node.parent].state == DONE

    def _held(self, holder: str, key: str) -> JobNode | None:
        """The job if `holder` still has it: one that was given up may speak once more, too late."""
        node = self.nodes.get(key)
        return node if node is not None and node.state == RUNNING and node.holder == holder else None

    def _fail(self, node: JobNode, cause: str) -> None:
        node.state, node.holder, node.outcome = FAILED, None, cause
        for child in self.nodes.values():
            if child.parent == node.job.key and child.state in (WAITING, CANCELLED):
                self._fail(child, f"not started, since {_spoken(node.job)} failed: {cause}")


def _spoken(job: Job) -> str:
    return f"stage {job.stage.name}" if isinstance(job, StageJob) else "evaluation"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
