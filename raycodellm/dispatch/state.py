"""All that the dispatcher knows of a running sweep: its jobs, its slots, and when what happened."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any

from raycodellm import retrying
from raycodellm.dispatch.early_stopping import Decision, EarlyStopping
from raycodellm.dispatch.jobs import JobTree, TrialOutcome
from raycodellm.dispatch.nodes import OPEN, JobNode, JobState
from raycodellm.dispatch.placement import Demand
from raycodellm.dispatch.remaining import JobTimes
from raycodellm.dispatch.slot import Slot, SlotState
from raycodellm.dispatch.snapshot import Sight, Snapshot, view
from raycodellm.finished import Job
from raycodellm.records import EVALUATING, Progress
from raycodellm.stage_store import Chain

_BUSY_NAMES = {"stage": "training", "evaluation": "evaluation"}
"""A job's kind to the name under which its slot-seconds are shown."""


class JobEnd(StrEnum):
    """How a slot got rid of a job."""

    FINISH = "finish"
    FAIL = "fail"
    """The job failed by its own fault."""
    PREEMPTED = "preempted"
    """The workers were told to leave; the job's checkpoint is saved."""
    POSTPONE = "postpone"
    """The storage did not answer."""
    RELEASE = "release"
    """The slot was asked to stop; the job's checkpoint is saved."""
    ABANDON = "abandon"
    """Nothing can continue, by no fault of the job, such as after a full disk."""


class DispatchState:
    """Jobs and slots of a running sweep, and what a message from a trial, a slot or the driver changes in them."""

    def __init__(self, max_deaths: int, max_preemptions: int = 50, clock: Callable[[], float] = time.monotonic) -> None:
        self.tree = JobTree(max_deaths, max_preemptions)
        self.slots: dict[str, Slot] = {}
        """Slots by name, ended ones included."""
        self.progress: dict[str, Progress] = {}
        """Maps the key of a running job to its last progress."""
        self.times: dict[str, dict[str, float]] = {}
        """Maps a job's key to when it was first asked for, taken, had trained its first and last step, and ended; Unix
        seconds."""
        self.notes: list[str] = []
        self._ended: dict[str, Progress] = {}
        """Last progress of the jobs that have ended since the last snapshot."""
        self.abandoned: str | None = None
        self.sight = Sight(num_nodes=0)
        """The cluster, when the driver last looked."""
        self._clock = clock
        self._started_at = clock()
        self._first_slot_seconds: float | None = None
        self._taken_at: dict[str, float] = {}
        """Maps the key of a running job to when a slot took it, monotonic seconds."""
        self._busy_seconds = dict.fromkeys(_BUSY_NAMES.values(), 0.0)
        self._job_times = JobTimes()
        self.early: EarlyStopping | None = None
        """None in a sweep without early stopping."""
        self._stopped: dict[int, tuple[tuple[str, ...], TrialOutcome]] = {}
        """Maps each trial that early stopping ended to its jobs and its outcome."""

    # ---------------------------------------------------------------------------------------------- trials

    def add_trial(self, number: int, chain: Chain, finished: Mapping[str, Any]) -> None:
        """`finished`: outcomes of jobs that the stage store has already, by key."""
        if number not in self.tree.chains:  # else its process began again
            nodes = self.tree.nodes
            self._job_times.trial_began(job for job in chain.jobs if job.key not in nodes and job.key not in finished)
        self.tree.add(number, chain, finished)
        for job in chain.jobs:
            self._mark(job.key, "asked")

    def outcome(self, number: int) -> TrialOutcome | None:
        """How the trial ended; None while it has jobs to do, or workers that have yet to give one back."""
        keys, stopped_outcome = self._stopped.get(number, ((), None))
        if stopped_outcome is not None:
            return None if self.tree.is_given_up(keys) else stopped_outcome
        outcome = self.tree.outcome(number)
        if outcome is None or self.early is None:
            return outcome
        return replace(outcome, rungs=self.early.rungs_of(number))

    def cancel_trial(self, number: int) -> None:
        self.tree.cancel(number)
        if self.early is not None:
            self.early.leave(number)

    # ---------------------------------------------------------------------------------------------- early stopping

    def stop_early(self, decision: Decision) -> None:
        """Ends the trials that a decision of early stopping ends, once the decision is kept."""
        assert self.early is not None
        self.early.apply(decision)
        for stop in decision.stops:
            keys = self.tree.chains.get(stop.trial, ())
            nodes = [self.tree.nodes[key] for key in keys]
            self._stopped[stop.trial] = (
                keys,
                TrialOutcome(
                    {node.job.key: node.outcome for node in nodes if node.state == JobState.DONE},
                    stop.error,
                    sum(node.deaths for node in nodes),
                    sum(node.preemptions for node in nodes),
                    self.early.rungs_of(stop.trial),
                    is_pruned=stop.error is None,
                    stopped_by=stop.stopped_by,
                ),
            )
            self.tree.cancel(stop.trial)

    def is_wanted(self, key: str) -> bool:
        """True if a trial needs the job."""
        node = self.tree.nodes.get(key)
        return node is not None and bool(node.trials)

    # ---------------------------------------------------------------------------------------------- slots

    def slot_asked_for(self, name: str) -> None:
        """The driver starts a slot: it waits for a place, and its processes start."""
        self.slots[name] = Slot(name, since=self._clock())

    def register(self, name: str) -> int:
        """A worker group begins, or begins again after its workers died. Returns its incarnation, counted from 1."""
        self._lose(name, "the worker process ended without a word")
        slot = self.slots[name] = self._slot(name).registered(self._clock())
        if self._first_slot_seconds is None:
            self._first_slot_seconds = self._clock() - self._started_at
        return slot.incarnation

    def may_ask(self, name: str, incarnation: int) -> bool:
        """True if these workers may wait for a job: they are the slot's newest, and were not told to leave.

        Workers that were found dead may ask too, if one of them lives still; `take` gives them nothing.
        """
        slot = self._slot(name)
        return slot.incarnation == incarnation and slot.notice is None and slot.state != SlotState.GONE

    def take(self, name: str) -> Job | None:
        """The job that the slot's workers do next; None when none is ready for them."""
        slot = self._slot(name)
        job = self.tree.take(slot.holder)
        if job is not None:
            now = self._clock()
            self.slots[name] = slot.took_job(now)
            self._mark(job.key, "taken")
            self._taken_at[job.key] = now
            self.progress[job.key] = Progress(job.key, note="starting")
        return job

    def idle_seconds(self, name: str) -> float:
        """Seconds since the slot registered or ended its last job."""
        return self._clock() - self._slot(name).since

    def report(self, name: str, incarnation: int, progress: Progress) -> bool:
        """Notes how far a job is. True when the slot should save the job and give it back."""
        if self.tree.should_stop(_holder(name, incarnation), progress.job):
            return True
        if self.tree.look_elsewhere(_holder(name, incarnation), progress.job, progress.is_elsewhere):
            return True
        if (progress.num_steps or progress.num_items) and progress.note not in ("", EVALUATING):
            self.notes.append(f"{progress.job}: {progress.note}")
        self.progress[progress.job] = progress
        self.tree.keep(_holder(name, incarnation), progress.job, progress.kept_step)
        self._job_times.reported(self.tree.nodes[progress.job].job, progress, self._clock())
        if progress.step:
            self._mark(progress.job, "first_step")
            if progress.step == progress.num_steps:
                self._mark(progress.job, "last_step")
        return False

    def end(self, name: str, incarnation: int, key: str, job_end: JobEnd, outcome: Any) -> float | None:
        """The slot is through with a job. `outcome`: the job's outcome, the cause of its failure, or the notice.

        Returns the seconds after which a postponed job should be resumed; None for any other. A message of workers that
        are not the slot's present ones changes nothing.
        """
        slot = self._slot(name)
        if not slot.is_alive or slot.incarnation != incarnation:
            return None
        resume_after = None
        if job_end == JobEnd.FINISH:
            self.tree.finish(slot.holder, key, outcome)
        elif job_end == JobEnd.FAIL:
            self.tree.fail(slot.holder, key, outcome)
        elif job_end == JobEnd.PREEMPTED:
            slot = slot.told_to_leave(outcome)
            self.tree.preempt(slot.holder, key, outcome)
            self.notes.append(f"workers of {key} leave ({outcome}); it is saved, and taken again by others")
        elif job_end == JobEnd.POSTPONE:
            resume_after = self._postpone(slot, key, outcome)
        else:
            self.tree.release(slot.holder, key)
            if job_end == JobEnd.ABANDON:
                self.abandon(outcome)
        self.slots[name] = slot.ended_job(self._clock())
        self._mark(key, "ended")
        self._stop_clock(self.tree.nodes[key])
        return resume_after

    def _postpone(self, slot: Slot, key: str, cause: str) -> float | None:
        """The job waits for the storage, longer each time; in the end the sweep is abandoned."""
        num_times = self.tree.postpone(slot.holder, key)
        if not num_times:
            return None
        if num_times > len(retrying.WAITS_SECONDS):
            self.abandon(f"the storage has not answered {num_times} times: {cause}")
            return None
        seconds = retrying.WAITS_SECONDS[num_times - 1]
        self.notes.append(f"{key}: the storage does not answer ({cause}); taken again in {seconds:.0f} s")
        return seconds

    def resume(self, key: str) -> None:
        """A postponed job may be taken again."""
        self.tree.resume(key)

    def told_to_leave(self, name: str, incarnation: int, cause: str) -> None:
        """A worker of the slot got notice: a job that it holds when its workers go was preempted, and did not die."""
        slot = self._slot(name)
        if slot.is_alive and slot.incarnation == incarnation:
            self.slots[name] = slot.told_to_leave(cause)

    def workers_died(self, name: str, cause: str, is_preempted: bool) -> None:
        """Ray Train found workers of the slot dead or in error: others may have its job at once."""
        self._lose(name, cause, is_preempted)
        self.slots[name] = self._slot(name).died(self._clock())

    def slot_unusable(self, name: str, cause: str) -> None:
        """The slot's workers can do no job, by the fault of their node or of what is installed there.

        Before any slot has reported for work, the same is to be expected of all: the sweep is abandoned.
        """
        if self._first_slot_seconds is None:
            self.abandon(cause)
        else:
            self.notes.append(f"{name} cannot work: {cause}")

    def slot_gone(self, name: str, cause: str) -> bool:
        """The slot has ended for good. Returns whether it ever held a job."""
        self._lose(name, cause)
        slot = self.slots[name] = self._slot(name).ended()
        return slot.has_worked

    # ---------------------------------------------------------------------------------------------- the driver

    def demand(self, idle_seconds: float = math.inf) -> Demand:
        """`idle_seconds`: a slot that has had no workers for so long, and has no job to wait for, is surplus."""
        return Demand(
            num_jobs=self.tree.num_active(),
            has_slot=any(slot.is_alive for slot in self.slots.values()),
            has_begun=self.has_begun(),
            num_starting=sum(slot.is_unplaced for slot in self.slots.values()),
            surplus=self._surplus(idle_seconds),
            abandoned=self.abandoned,
        )

    def _surplus(self, idle_seconds: float) -> tuple[str, ...]:
        unplaced = [slot for slot in self.slots.values() if slot.is_unplaced]
        needed = max(0, self.tree.num_active() - sum(slot.is_alive for slot in self.slots.values()))
        since = self._clock() - idle_seconds
        return tuple(slot.name for slot in unplaced[needed:] if slot.since < since)

    def has_begun(self) -> bool:
        """True if a job is past its start, or a slot waits for work: then another slot's start delays neither."""
        is_past_start = any("first_step" in events or "ended" in events for events in self.times.values())
        return is_past_start or (self._num_registered() > 0 and not self.tree.num_active())

    def see(self, sight: Sight) -> None:
        """The driver has looked at the cluster."""
        self.sight = sight

    def stop(self) -> None:
        """Running jobs save themselves and are given back; no new job is given out."""
        self.tree.stopping = True

    def abandon(self, cause: str) -> None:
        """Nothing can continue, by no fault of a trial: the driver is told and ends the run. The first cause stays."""
        self.abandoned = self.abandoned or cause
        self.stop()

    def fail_all(self, cause: str) -> None:
        """Nothing can ever run: every unfinished job fails with this cause."""
        self.tree.fail_all(cause)

    def snapshot(self) -> Snapshot:
        """The state to show. Each note, and each end of a job, is in one snapshot only."""
        remaining = self._job_times.remaining(self.tree.open_trunks(), self.progress, self._taken_at, self._clock())
        notes, self.notes = tuple(self.notes), []
        ended, self._ended = self._ended, {}
        key_of_holder = {node.holder: node.job.key for node in self.tree.open_nodes() if node.state == JobState.RUNNING}
        slots = [slot for slot in self.slots.values() if slot.state != SlotState.GONE]
        has_unplaced_slot = any(slot.is_unplaced for slot in slots)
        return Snapshot(
            running=dict(self.progress),
            ended=ended,
            chains=self.tree.open_chains(ended),
            slots=self._num_registered(),
            jobs_done=self.tree.num_done,
            busy_seconds=dict(self._busy_seconds),
            first_slot_seconds=self._first_slot_seconds,
            notes=notes,
            deaths=self.tree.num_deaths,
            preemptions=self.tree.num_preemptions,
            abandoned=self.abandoned,
            slot_views=tuple(view(slot, key_of_holder.get(slot.holder), self._clock()) for slot in slots),
            waiting_reason=self.sight.waiting_reason or self.sight.placement_problem if has_unplaced_slot else None,
            num_nodes=self.sight.num_nodes,
            remaining=remaining,
        )

    # ---------------------------------------------------------------------------------------------- inside

    def _slot(self, name: str) -> Slot:
        return self.slots.get(name, Slot(name))

    def _num_registered(self) -> int:
        return sum(slot.has_registered for slot in self.slots.values())

    def _lose(self, name: str, cause: str, is_preempted: bool = False) -> None:
        """The slot's present workers are gone; their jobs may be taken again."""
        slot = self._slot(name)
        is_preempted = is_preempted or slot.notice is not None
        for node in self.tree.lose(slot.holder, slot.notice or cause, is_preempted):
            self._stop_clock(node)
            verb = "were preempted" if is_preempted else "died"
            saved_point = "newest checkpoint" if node.job.kind == "stage" else "last kept item"
            continuation = f"; the job is taken again from its {saved_point}" if node.state in OPEN else ""
            self.notes.append(f"workers of {node.job.key} {verb} ({slot.notice or cause}){continuation}")

    def _stop_clock(self, node: JobNode) -> None:
        """The job runs no longer: its time counts as busy."""
        if last_progress := self.progress.pop(node.job.key, None):
            self._ended[node.job.key] = last_progress
        taken_at = self._taken_at.pop(node.job.key, None)
        if taken_at is not None:
            seconds = self._clock() - taken_at
            self._busy_seconds[_BUSY_NAMES[node.job.kind]] += seconds
            self._job_times.stopped(node.job, seconds, is_done=node.state == JobState.DONE)

    def _mark(self, key: str, event: str) -> None:
        """Notes when the event first happened to the job."""
        self.times.setdefault(key, {}).setdefault(event, time.time())


def _holder(name: str, incarnation: int) -> str:
    return Slot(name, incarnation=incarnation).holder
