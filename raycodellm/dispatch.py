"""The stage tree and its jobs, as pure logic: which job is ready, who takes it, what a death or an end changes.

A job is ready when its parent is done. Equal stages of several trials are one job; a trial stopped early cancels the
jobs that nobody else needs. Nothing here knows of Ray, time or files: `slots` wraps it in an actor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raycodellm.records import EvaluationJob, StageJob
from raycodellm.store import Chain

Job = StageJob | EvaluationJob

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"


@dataclass
class Node:
    """One job of the stage tree."""

    job: Job
    parent: str | None
    depth: int
    state: str = WAITING
    slot: str | None = None
    deaths: int = 0
    """Times that its workers died under it, without notice."""
    preemptions: int = 0
    """Times that its workers were told to leave."""
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
        self.nodes: dict[str, Node] = {}
        self.chains: dict[int, tuple[str, ...]] = {}
        """Trial number to the keys of its jobs, first stage first."""

    def add(self, trial: int, chain: Chain, finished: Mapping[str, Any] | None = None) -> None:
        """Takes in a trial; `finished` holds the outcomes of jobs that the stage store has already."""
        parent: str | None = None
        for depth, job in enumerate(chain.jobs):
            node = self.nodes.setdefault(job.key, Node(job, parent, depth))
            if node.state == CANCELLED:
                node.state = WAITING
            if node.state == WAITING and job.key in (finished or {}):
                node.state, node.outcome = DONE, (finished or {})[job.key]
            node.trials.add(trial)
            parent = job.key
        self.chains[trial] = tuple(job.key for job in chain.jobs)

    def ready(self) -> list[Node]:
        """Jobs that a slot may take now: the oldest trial's first, and of one trial the one nearest its end."""
        found = [node for node in self.nodes.values() if node.state == WAITING and self._parent_done(node)]
        return sorted(found, key=lambda node: (min(node.trials), -node.depth))

    def take(self, slot: str) -> Job | None:
        """The job that `slot` does next; None when nothing is ready or the sweep is stopping."""
        if self.stopping:
            return None
        for node in self.ready():
            node.state, node.slot = RUNNING, slot
            return node.job
        return None

    def finish(self, slot: str, key: str, outcome: Any) -> None:
        node = self._held(slot, key)
        if node is not None:
            node.state, node.slot, node.outcome = DONE, None, outcome

    def fail(self, slot: str, key: str, cause: str) -> None:
        """The job's own error: it fails with every job after it, for all trials that need it."""
        node = self._held(slot, key)
        if node is not None:
            self._fail(node, cause)

    def release(self, slot: str, key: str) -> None:
        """The slot gave the job back unfinished, as it was asked to: its checkpoint is saved."""
        node = self._held(slot, key)
        if node is not None:
            node.state, node.slot = (WAITING if node.trials else CANCELLED), None

    def lost(self, slot: str, cause: str, preempted: bool = False) -> list[str]:
        """The workers of `slot` are gone: what they held is taken again, or fails when that happened too often.

        `preempted`: they had been told to leave, which is no fault of the job and has a budget of its own. Returns the
        keys of what they held.
        """
        held = [node for node in self.nodes.values() if node.state == RUNNING and node.slot == slot]
        for node in held:
            self._interrupted(node, cause, preempted)
        return [node.job.key for node in held]

    def preempted(self, slot: str, key: str, cause: str) -> None:
        """The slot was told to leave and gave the job back unfinished: its checkpoint is saved."""
        node = self._held(slot, key)
        if node is not None:
            self._interrupted(node, cause, preempted=True)

    def _interrupted(self, node: Node, cause: str, preempted: bool) -> None:
        node.slot = None
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
            if not node.trials and node.state == WAITING:
                node.state = CANCELLED

    def fail_all(self, cause: str) -> None:
        """Nothing can run any more: every unfinished job fails with the same cause."""
        for node in self.nodes.values():
            if node.state in (WAITING, RUNNING):
                node.state, node.slot, node.outcome = FAILED, None, cause

    def should_stop(self, slot: str, key: str) -> bool:
        """Whether the slot should save its job and give it back: the sweep stops, or nobody needs the job any more."""
        node = self._held(slot, key)
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
        return self.nodes[key].state in (WAITING, RUNNING)

    def num_active(self) -> int:
        """Jobs that are running or could run now: what slots are wanted for."""
        return len(self.ready()) + self.num_running()

    def num_running(self) -> int:
        return sum(node.state == RUNNING for node in self.nodes.values())

    def _parent_done(self, node: Node) -> bool:
        return node.parent is None or self.nodes[node.parent].state == DONE

    def _held(self, slot: str, key: str) -> Node | None:
        """The job if `slot` still holds it: a slot that was given up may speak once more, too late."""
        node = self.nodes.get(key)
        return node if node is not None and node.state == RUNNING and node.slot == slot else None

    def _fail(self, node: Node, cause: str) -> None:
        node.state, node.slot, node.outcome = FAILED, None, cause
        for child in self.nodes.values():
            if child.parent == node.job.key and child.state in (WAITING, CANCELLED):
                self._fail(child, f"not started, since {_spoken(node.job)} failed: {cause}")


def _spoken(job: Job) -> str:
    return f"stage {job.stage.name}" if isinstance(job, StageJob) else "evaluation"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
