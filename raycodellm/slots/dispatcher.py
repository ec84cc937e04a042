"""The dispatcher: a named actor that holds the stage tree, and through which trials, slots and the driver speak."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

import ray

from raycodellm import retrying
from raycodellm.config import Scaling
from raycodellm.dispatch import Dispatch, Job, TrialOutcome
from raycodellm.records import Progress
from raycodellm.stage_store import Chain

IDLE_SECONDS = 60.0
"""After which a slot without work ends, so that an autoscaler can take its nodes back."""
POLL_SECONDS = 10.0
"""Longest wait of one question for work; the other ranks hear of it each time, well inside their collective timeout."""


@dataclass(frozen=True)
class Snapshot:
    """What a display shows of a running sweep."""

    running: dict[str, Progress] = field(default_factory=dict)
    """Per job key."""
    slots: int = 0
    """Worker groups that have reported for work."""
    jobs_done: int = 0
    busy_seconds: dict[str, float] = field(default_factory=dict)
    """Slot-seconds spent per kind of job: training, evaluation."""
    first_slot_seconds: float | None = None
    """From the dispatcher's start until the first slot asked for work."""
    notes: tuple[str, ...] = ()
    deaths: int = 0
    """Of workers under a job, without notice."""
    preemptions: int = 0
    """Of jobs whose workers were told to leave."""
    abandoned: str | None = None
    """Why nothing can go on; then the driver ends the run, and its trials stay open."""


class Dispatcher:
    """The actor's body. Every method is short; waiting is done on one event that every change sets."""

    def __init__(self, max_deaths: int, max_preemptions: int = 50) -> None:
        self.tree = Dispatch(max_deaths, max_preemptions)
        self.progress: dict[str, Progress] = {}
        self.slots: dict[str, float] = {}
        """Slots that have reported for work, and when they were last heard of."""
        self.incarnations: dict[str, int] = {}
        """Slot to how often its workers have begun."""
        self.leaving: dict[str, str] = {}
        """Slots that were told to leave, and by what."""
        self.down: set[str] = set()
        """Slots whose workers died and have not come back."""
        self.worked: set[str] = set()
        """Slots that ever held a job."""
        self.notes: list[str] = []
        self.busy = {"training": 0.0, "evaluation": 0.0}
        self.taken_at: dict[str, float] = {}
        self.timeline: dict[str, dict[str, float]] = {}
        self.started = time.monotonic()
        self.first_slot: float | None = None
        self.keep_idle = True
        self.closed = False
        self.abandoned: str | None = None
        self.changed = asyncio.Event()

    def _signal(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.changed.wait(), seconds)

    # trials

    async def run_trial(self, number: int, chain: Chain, finished: dict[str, Any]) -> TrialOutcome | None:
        """Waits until the trial's chain has ended; None when the sweep was stopped before."""
        self.tree.add(number, chain, finished)
        for job in chain.jobs:
            self._mark(job.key, "asked")
        self._signal()
        while (outcome := self.tree.outcome(number)) is None:
            if self.tree.stopping:
                return None
            await self._wait(POLL_SECONDS)
        return outcome

    async def cancel_trial(self, number: int) -> None:
        self.tree.cancel(number)
        self._signal()

    # slots

    async def register(self, slot: str) -> int:
        """A worker group begins, or begins again after its workers died. Its incarnation, counted from 1: what workers
        of an earlier one still say is not heard any more."""
        self._lose(slot, "the worker process ended without a word")
        self.leaving.pop(slot, None)
        self.down.discard(slot)
        self.incarnations[slot] = self.incarnations.get(slot, 0) + 1
        self.slots[slot] = time.monotonic()
        self.first_slot = self.first_slot or time.monotonic() - self.started
        self._signal()
        return self.incarnations[slot]

    async def next_job(self, slot: str, incarnation: int, wait_seconds: float) -> tuple[str, Job | None]:
        """("job", job), ("wait", None) when there is none yet, or ("quit", None) when the slot should end."""
        until = time.monotonic() + wait_seconds
        while not self.closed and slot not in self.leaving and incarnation == self.incarnations.get(slot):
            # Of workers that were found dead, one that lives still may ask: it gets nothing.
            job = self.tree.take(_holder(slot, incarnation))
            if job is not None:
                self.worked.add(slot)
                self._mark(job.key, "taken")
                self.slots[slot] = self.taken_at[job.key] = time.monotonic()
                self.progress[job.key] = Progress(job.key, note="starting")
                return "job", job
            left = until - time.monotonic()
            if left <= 0:
                idle = time.monotonic() - self.slots.get(slot, time.monotonic())
                return ("quit", None) if idle > IDLE_SECONDS and not self.keep_idle else ("wait", None)
            await self._wait(left)
        return "quit", None

    async def report(self, slot: str, incarnation: int, progress: Progress) -> bool:
        """Notes where a job is; True when the slot should save it and give it back."""
        if self.tree.should_stop(_holder(slot, incarnation), progress.job):
            return True
        if progress.note and progress.num_steps:
            self.notes.append(f"{progress.job}: {progress.note}")
        self.progress[progress.job] = progress
        if progress.step:
            self._mark(progress.job, "first_step")
            if progress.step == progress.num_steps:
                self._mark(progress.job, "last_step")
        return False

    async def ended(self, slot: str, incarnation: int, key: str, how: str, outcome: Any) -> None:
        """The slot is through with a job: `how` is finish, fail, preempted, postpone, release or abandon (as `abandon`
        does).

        `outcome`: what it made, the cause of its failure, or what told the slot to leave.
        """
        holder = _holder(slot, incarnation)
        if not self._lives(slot, incarnation):
            return
        if how == "finish":
            self.tree.finish(holder, key, outcome)
        elif how == "fail":
            self.tree.fail(holder, key, outcome)
        elif how == "preempted":
            self.leaving.setdefault(slot, outcome)
            self.tree.preempted(holder, key, outcome)
            self.notes.append(f"workers of {key} leave ({outcome}); it is saved, and taken again by others")
        elif how == "postpone":
            self._postpone(holder, key, outcome)
        else:
            self.tree.release(holder, key)
            if how == "abandon":
                self.abandoned = self.abandoned or outcome
                self.tree.stopping = True
        self._mark(key, "ended")
        self.slots[slot] = time.monotonic()
        self.progress.pop(key, None)
        self._end(key)
        self._signal()

    def _postpone(self, holder: str, key: str, cause: str) -> None:
        """The job waits for the storage, longer each time; in the end nothing can go on."""
        times = self.tree.postpone(holder, key)
        if times > len(retrying.WAITS_SECONDS):
            self.abandoned = self.abandoned or f"the storage has not answered {times} times: {cause}"
            self.tree.stopping = True
        elif times:
            seconds = retrying.WAITS_SECONDS[times - 1]
            self.notes.append(f"{key}: the storage does not answer ({cause}); taken again in {seconds:.0f} s")
            asyncio.get_running_loop().call_later(seconds, self._resume, key)

    def _resume(self, key: str) -> None:
        self.tree.resume(key)
        self._signal()

    async def told_to_leave(self, slot: str, incarnation: int, cause: str) -> None:
        """A worker of the slot got notice: what the slot holds when its workers go was preempted, and did not die."""
        if self._lives(slot, incarnation):
            self.leaving.setdefault(slot, cause)
            self._signal()

    async def workers_died(self, slot: str, cause: str, preempted: bool) -> None:
        """Ray Train found workers of the slot dead or in error: others may have its job at once."""
        self.down.add(slot)
        self._lose(slot, cause, preempted)
        self._signal()

    async def slot_gone(self, slot: str, cause: str) -> bool:
        """The slot has ended for good; whether it ever held a job."""
        self._lose(slot, cause)
        self.slots.pop(slot, None)
        self.leaving.pop(slot, None)
        self.down.discard(slot)
        self._signal()
        return slot in self.worked

    def _lives(self, slot: str, incarnation: int) -> bool:
        """True if these are the slot's present workers, and nobody has found them dead."""
        return self.incarnations.get(slot) == incarnation and slot not in self.down

    def _lose(self, slot: str, cause: str, preempted: bool = False) -> None:
        notice, holder = self.leaving.get(slot), _holder(slot, self.incarnations.get(slot, 0))
        for key in self.tree.lost(holder, notice or cause, preempted or notice is not None):
            self.progress.pop(key, None)
            self._end(key)
            how = "were preempted" if preempted or notice is not None else "died"
            again = "; the job is taken again from its newest checkpoint" if self.tree.is_open(key) else ""
            self.notes.append(f"workers of {key} {how} ({notice or cause}){again}")

    def _end(self, key: str) -> None:
        kind = "evaluation" if key.startswith("evaluation-") else "training"
        began = self.taken_at.pop(key, None)
        self.busy[kind] += time.monotonic() - began if began is not None else 0.0

    def _mark(self, key: str, what: str) -> None:
        self.timeline.setdefault(key, {}).setdefault(what, time.time())

    # the driver

    async def times(self) -> dict[str, dict[str, float]]:
        """Per job: when it was first asked for, taken, had trained its first and last step, and ended; Unix seconds."""
        return self.timeline

    async def demand(self) -> tuple[int, bool]:
        """Slots that could work now, and whether one is there that has reported for work and lives."""
        return self.tree.num_active(), any(slot not in self.down for slot in self.slots)

    async def has_begun(self) -> bool:
        """Whether a job is past its start, or a slot waits for work: then another slot's start holds nobody up."""
        begun = any("first_step" in times or "ended" in times for times in self.timeline.values())
        return begun or (bool(self.slots) and not self.tree.num_active())

    async def set_keep_idle(self, keep: bool) -> None:
        """While the driver still prepares, a slot without work waits for it."""
        self.keep_idle = keep

    async def stop(self) -> None:
        """Running jobs save themselves and are given back; nothing new is given out."""
        self.tree.stopping = True
        self._signal()

    async def drained(self, wait_seconds: float) -> bool:
        """Waits until no slot holds a job any more; False when some still do after `wait_seconds`."""
        until = time.monotonic() + wait_seconds
        while self.tree.num_running() and time.monotonic() < until:
            await self._wait(until - time.monotonic())
        return not self.tree.num_running()

    async def close(self) -> None:
        self.closed = True
        self._signal()

    async def fail_all(self, cause: str) -> None:
        self.tree.fail_all(cause)
        self._signal()

    async def note(self, text: str) -> None:
        self.notes.append(text)

    async def abandon(self, cause: str) -> None:
        """Nothing can go on, by no fault of a trial: the driver hears of it and ends the run."""
        self.abandoned = cause
        await self.stop()

    async def snapshot(self) -> Snapshot:
        nodes = self.tree.nodes.values()
        notes, self.notes = tuple(self.notes), []
        return Snapshot(
            running=dict(self.progress),
            slots=len(self.slots),
            jobs_done=sum(node.state == "done" for node in nodes),
            busy_seconds=dict(self.busy),
            first_slot_seconds=self.first_slot,
            notes=notes,
            deaths=sum(node.deaths for node in nodes),
            preemptions=sum(node.preemptions for node in nodes),
            abandoned=self.abandoned,
        )


def _holder(slot: str, incarnation: int) -> str:
    return f"{slot}#{incarnation}"


def start_dispatcher(name: str, scaling: Scaling) -> Any:
    """The named actor of a sweep, on the driver's own node; it ends with the driver."""
    here = ray.get_runtime_context().get_node_id()
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
    actor = ray.remote(num_cpus=0, max_concurrency=1000, name=f"raycodellm-{name}", scheduling_strategy=strategy)
    return actor(Dispatcher).remote(scaling.max_failures, scaling.max_preemptions)
