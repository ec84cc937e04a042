"""The stage tree and its jobs: which job is ready, who takes it, what a death or an end changes.

A job is ready when its parent is done. Equal stages of several trials are one job. A cancelled trial cancels the jobs
that no other trial needs.

A holder is one incarnation of a slot's workers. When the workers die, the holder is gone for good: a message that it
still sends comes too late, and the slot's next workers are another holder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raycodellm.dispatch.nodes import OPEN, JobNode, JobState
from raycodellm.dispatch.trunks import trunk_of, waits_for_trunk
from raycodellm.finished import Job
from raycodellm.rungs import Rung
from raycodellm.stage_store import Chain


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial's chain ended."""

    outcomes: Mapping[str, Any]
    """Outcomes of the chain's done jobs (`finished.Outcome`), by key."""
    error: str | None = None
    """The cause, if the trial failed."""
    deaths: int = 0
    """Deaths of workers under the chain's jobs, since the sweep was last started."""
    preemptions: int = 0
    rungs: tuple[Rung, ...] = ()
    """The comparisons of early stopping that the trial's stage took part in."""
    is_pruned: bool = False
    """True if early stopping ended the trial."""
    stopped_by: int | None = None
    """Number of the trial, another seed of the same arm, whose comparison ended this one."""


class TrialFailed(Exception):
    """Carries the outcome of a failed trial, so that the call that waited for the trial counts as failed in Ray's
    dashboard, with the trial's cause."""

    def __init__(self, outcome: TrialOutcome) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome

    def __reduce__(self) -> tuple[type[TrialFailed], tuple[TrialOutcome]]:
        return TrialFailed, (self.outcome,)


@dataclass(frozen=True)
class Ending:
    """How a slot's work on a job ended."""

    is_good: bool
    """False if the job failed or its workers died."""
    words: str


class JobTree:
    """All jobs of a running sweep."""

    def __init__(self, max_deaths: int, max_preemptions: int = 50) -> None:
        self.max_deaths = max_deaths
        self.max_preemptions = max_preemptions
        self.stopping = False
        self.nodes: dict[str, JobNode] = {}
        self._open: dict[str, JobNode] = {}
        """The jobs that have not ended, and those that have ended since `open_nodes` was last asked."""
        self.num_done = self.num_deaths = self.num_preemptions = 0
        self.chains: dict[int, tuple[str, ...]] = {}
        """Trial number to the keys of its jobs, first stage first."""
        self._by_trunk: dict[str, list[str]] = {}
        """Keys of the stages of each trunk, by its folder."""
        self.num_kept_checkpoints = 0
        """Checkpoints that stages have kept for stages that share their trunks."""
        self.dead_holders: set[str] = set()
        """Holders whose workers have died."""

    def add(self, trial: int, chain: Chain, finished: Mapping[str, Any] | None = None) -> None:
        """Adds a trial. `finished`: outcomes of jobs that the stage store has already, by key."""
        parent: str | None = None
        for depth, job in enumerate(chain.jobs):
            node = self._node(job, parent, depth)
            if node.state == JobState.CANCELLED:
                node.state, self._open[job.key] = JobState.WAITING, node
            if node.state == JobState.WAITING and job.key in (finished or {}):
                node.state, node.outcome = JobState.DONE, (finished or {})[job.key]
                self.num_done += 1
            node.trials.add(trial)
            parent = job.key
        self.chains[trial] = tuple(job.key for job in chain.jobs)

    def _node(self, job: Job, parent: str | None, depth: int) -> JobNode:
        if job.key not in self.nodes:
            node = self.nodes[job.key] = self._open[job.key] = JobNode(job, parent, depth)
            if (trunk := trunk_of(node)) is not None:
                self._by_trunk.setdefault(trunk.folder, []).append(job.key)
        return self.nodes[job.key]

    def open_nodes(self) -> list[JobNode]:
        """The jobs that have not ended. Asked many times a second, so no time goes to the jobs that have."""
        self._open = {key: node for key, node in self._open.items() if node.state in OPEN}
        return list(self._open.values())

    def open_trunks(self) -> list[JobNode]:
        """The jobs that have not ended, and the stages that share a trunk with one of them."""
        nodes = {node.job.key: node for node in self.open_nodes()}
        for folder in {trunk.folder for node in nodes.values() if (trunk := trunk_of(node)) is not None}:
            nodes |= {key: self.nodes[key] for key in self._by_trunk[folder]}
        return list(nodes.values())

    def ready(self) -> list[JobNode]:
        """Jobs that a slot may take now: the oldest trial's first, and of one trial the job nearest its end. Jobs that
        another sweep does come last."""
        ready_nodes = [
            node
            for node in self.open_nodes()
            if node.state == JobState.WAITING and self._parent_done(node) and not self._waits_for_trunk(node)
        ]
        return sorted(ready_nodes, key=lambda node: (node.is_elsewhere, min(node.trials), -node.depth))

    def take(self, holder: str) -> Job | None:
        """The job that `holder` does next; None when none is ready, the sweep is stopping, or its workers died."""
        if self.stopping or holder in self.dead_holders:
            return None
        for node in self.ready():
            node.state, node.holder, node.has_begun = JobState.RUNNING, holder, True
            return node.job
        return None

    def look_elsewhere(self, holder: str, key: str, is_elsewhere: bool) -> bool:
        """Notes whether another sweep does the job. True if the holder should give it back, to do another one."""
        node = self._node_held_by(holder, key)
        if node is None:
            return False
        node.is_elsewhere = is_elsewhere
        return is_elsewhere and any(not other.is_elsewhere for other in self.ready())

    def keep(self, holder: str, key: str, step: int) -> None:
        """The stage has kept a checkpoint after this step for the stages that share its trunk."""
        node = self._node_held_by(holder, key)
        if node is not None and step > node.kept_step:
            node.kept_step = step
            self.num_kept_checkpoints += 1

    def finish(self, holder: str, key: str, outcome: Any) -> None:
        """The job is done."""
        node = self._node_held_by(holder, key)
        if node is not None:
            node.state, node.holder, node.outcome = JobState.DONE, None, outcome
            self.num_done += 1

    def fail(self, holder: str, key: str, cause: str) -> None:
        """The job fails by its own fault, and with it every job after it, for all trials that need it."""
        node = self._node_held_by(holder, key)
        if node is not None:
            self._fail(node, cause)

    def release(self, holder: str, key: str) -> None:
        """The holder gave the job back unfinished, as it was asked to; the job's checkpoint is saved."""
        node = self._node_held_by(holder, key)
        if node is not None:
            node.state, node.holder = (JobState.WAITING if node.trials else JobState.CANCELLED), None

    def postpone(self, holder: str, key: str) -> int:
        """The holder gave the job back because the storage did not answer: the job waits until `resume`.

        Returns how often that has happened to the job; 0 when the holder does not have it.
        """
        node = self._node_held_by(holder, key)
        if node is None:
            return 0
        node.postponements += 1
        node.state, node.holder = (JobState.POSTPONED if node.trials else JobState.CANCELLED), None
        return node.postponements

    def resume(self, key: str) -> None:
        """A postponed job may be taken again."""
        node = self.nodes[key]
        if node.state == JobState.POSTPONED:
            node.state = JobState.WAITING if node.trials else JobState.CANCELLED

    def lose(self, holder: str, cause: str, is_preempted: bool = False) -> list[JobNode]:
        """The workers of `holder` are gone. Their job may be taken again, or fails when that has happened too often.

        `is_preempted`: the workers had been told to leave, which is no fault of the job and has a budget of its own.
        Returns the jobs that they held.
        """
        self.dead_holders.add(holder)
        held_nodes = [node for node in self.open_nodes() if node.state == JobState.RUNNING and node.holder == holder]
        for node in held_nodes:
            self._interrupt(node, cause, is_preempted)
        return held_nodes

    def preempt(self, holder: str, key: str, cause: str) -> None:
        """The holder was told to leave and gave the job back unfinished; the job's checkpoint is saved."""
        node = self._node_held_by(holder, key)
        if node is not None:
            self._interrupt(node, cause, is_preempted=True)

    def _interrupt(self, node: JobNode, cause: str, is_preempted: bool) -> None:
        node.holder = None
        if is_preempted:
            node.preemptions += 1
            self.num_preemptions += 1
        else:
            node.deaths += 1
            self.num_deaths += 1
        if not node.trials:
            node.state = JobState.CANCELLED
        elif node.deaths > self.max_deaths:
            self._fail(node, f"its workers died {_times(node.deaths)}; the last time: {cause}")
        elif node.preemptions > self.max_preemptions:
            self._fail(node, f"its workers were preempted {_times(node.preemptions)}; the last time: {cause}")
        else:
            node.state = JobState.WAITING

    def cancel(self, trial: int) -> None:
        """The trial needs nothing more. Waiting jobs that only it needed are dropped; a running one is told to stop
        (`should_stop`)."""
        for key in self.chains.pop(trial, ()):
            node = self.nodes[key]
            node.trials.discard(trial)
            if not node.trials and node.state in (JobState.WAITING, JobState.POSTPONED):
                node.state = JobState.CANCELLED

    def fail_all(self, cause: str) -> None:
        """Nothing can run any more: every unfinished job fails with the same cause."""
        for node in self.open_nodes():
            node.state, node.holder, node.outcome = JobState.FAILED, None, cause

    def is_given_up(self, keys: Iterable[str]) -> bool:
        """True if one of the jobs still runs though no trial needs it: its workers have yet to give it back."""
        nodes = (self.nodes[key] for key in keys if key in self.nodes)
        return any(node.state == JobState.RUNNING and not node.trials for node in nodes)

    def should_stop(self, holder: str, key: str) -> bool:
        """True if the holder should save its job and give it back: the sweep stops, or no trial needs the job."""
        node = self._node_held_by(holder, key)
        return self.stopping or node is None or not node.trials

    def outcome(self, trial: int) -> TrialOutcome | None:
        """How the trial ended; None while it has jobs to do."""
        nodes = [self.nodes[key] for key in self.chains[trial]]
        outcomes = {node.job.key: node.outcome for node in nodes if node.state == JobState.DONE}
        failed_node = next((node for node in nodes if node.state == JobState.FAILED), None)
        if failed_node is None and len(outcomes) < len(nodes):
            return None
        error = f"{_job_name(failed_node.job)}: {failed_node.outcome}" if failed_node else None
        return TrialOutcome(
            outcomes, error, sum(node.deaths for node in nodes), sum(node.preemptions for node in nodes)
        )

    def open_chains(self, extra_keys: Collection[str] = ()) -> dict[int, tuple[str, ...]]:
        """Keys of the jobs of each trial that has a job to do, or that needs one of `extra_keys`; by trial number."""
        nodes = [*self.open_nodes(), *(self.nodes[key] for key in extra_keys if key in self.nodes)]
        numbers = sorted({trial for node in nodes for trial in node.trials})
        return {trial: self.chains[trial] for trial in numbers if trial in self.chains}

    def ending(self, key: str, holder: str) -> Ending | None:
        """How the work of `holder` on the job ended; None while it goes on."""
        node = self.nodes[key]
        if node.state == JobState.RUNNING and node.holder == holder:
            return None
        if node.state == JobState.DONE:
            return Ending(True, "done")
        if node.state == JobState.FAILED:
            return Ending(False, str(node.outcome))
        if holder in self.dead_holders:
            return Ending(False, "its workers are gone; others continue the job from its newest checkpoint")
        if node.state == JobState.CANCELLED:
            return Ending(True, "given back, since no trial needs it any more")
        return Ending(True, "given back unfinished; its checkpoint is saved")

    def num_active(self) -> int:
        """Jobs that are running or could run now: so many slots are wanted."""
        return len(self.ready()) + self.num_running()

    def num_running(self) -> int:
        return sum(node.state == JobState.RUNNING for node in self.open_nodes())

    def _waits_for_trunk(self, node: JobNode) -> bool:
        trunk = trunk_of(node)
        return trunk is not None and waits_for_trunk(node, (self.nodes[key] for key in self._by_trunk[trunk.folder]))

    def _parent_done(self, node: JobNode) -> bool:
        return node.parent is None or self.nodes[node.parent].state == JobState.DONE

    def _node_held_by(self, holder: str, key: str) -> JobNode | None:
        """The job if `holder` still has it: a holder that was given up may send one more message, too late."""
        node = self.nodes.get(key)
        return node if node is not None and node.state == JobState.RUNNING and node.holder == holder else None

    def _fail(self, node: JobNode, cause: str) -> None:
        node.state, node.holder, node.outcome = JobState.FAILED, None, cause
        for child in self.nodes.values():
            if child.parent == node.job.key and child.state in (JobState.WAITING, JobState.CANCELLED):
                self._fail(child, f"not started, since {_job_name(node.job)} failed: {cause}")


def _job_name(job: Job) -> str:
    return f"stage {job.stage.name}" if job.kind == "stage" else job.kind


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
