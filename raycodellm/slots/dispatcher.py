"""The dispatcher: the named actor that trials, slots and the driver talk to. All decisions are `dispatch`'s."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from raycodellm.config import Scaling
from raycodellm.dispatch import (
    Contender,
    Decision,
    Demand,
    DispatchState,
    EarlyStopping,
    JobEnd,
    Sight,
    Snapshot,
    TrialFailed,
    TrialOutcome,
    job_call,
)
from raycodellm.finished import Job, Outcome
from raycodellm.records import Progress
from raycodellm.rungs import Rung
from raycodellm.slots import comparisons
from raycodellm.slots.handle import DispatcherHandle
from raycodellm.slots.head import ON_HEAD
from raycodellm.stage_store import Chain

IDLE_SECONDS = 60.0
"""A slot without work for so long ends, so that an autoscaler can take its nodes back, or need not start them."""
POLL_SECONDS = 10.0
"""Longest time that one request for a job waits. Between two requests rank 0 tells the other ranks, well inside the
timeout of their collectives."""

_unlisted = ray.method(enable_task_events=False)
"""Keeps a method that is called every few seconds out of Ray's list of tasks, in which people look for trials."""


class Dispatcher:
    """The actor's body: each method changes the state and wakes the methods that wait."""

    def __init__(self, max_deaths: int, max_preemptions: int = 50, sweep: str | None = None) -> None:
        """`sweep`: name of the sweep, under which jobs are shown in the dashboard; None outside Ray."""
        self.state = DispatchState(max_deaths, max_preemptions)
        self.keep_idle = True
        self.closed = False
        self.changed = asyncio.Event()
        self.sweep = sweep
        self._deciding = asyncio.Lock()

    def _signal(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def _wait(self, seconds: float) -> None:
        """Waits for the next change."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.changed.wait(), seconds)

    # ---------------------------------------------------------------------------------------------- trials

    async def run_trial(
        self, number: int, chain: Chain, finished: Mapping[str, Outcome], contender: Contender | None = None
    ) -> TrialOutcome | None:
        """Waits until the trial's chain has ended; None when the sweep was stopped before.

        `finished`: outcomes of jobs that the stage store has already, by key; `contender`: the trial as early stopping
        sees it, where the sweep has any.
        """
        if contender is None:
            self.state.add_trial(number, chain, finished)
        else:
            await self._decide(
                lambda early: early.enter(number, contender), lambda: self.state.add_trial(number, chain, finished)
            )
        self._signal()
        while (outcome := self.state.outcome(number)) is None:
            if self.state.tree.stopping:
                return None
            await self._wait(POLL_SECONDS)
        return outcome

    async def trial(
        self, number: int, chain: Chain, finished: Mapping[str, Outcome], contender: Contender | None = None
    ) -> TrialOutcome | None:
        """Waits as `run_trial` does; raises `TrialFailed` with the outcome of a trial that failed."""
        outcome = await self.run_trial(number, chain, finished, contender)
        if outcome is not None and outcome.error is not None:
            raise TrialFailed(outcome)
        return outcome

    async def begin_early_stopping(
        self, keep: float, earlier_rungs: Sequence[Rung], stopped_arms: Mapping[int, int]
    ) -> None:
        """The sweep stops trials early; the arguments are those of `EarlyStopping`."""
        self.state.early = EarlyStopping(keep, earlier_rungs, stopped_arms)

    @_unlisted
    async def rung(self, slot: str, incarnation: int, key: str, step: int, bits_per_byte: Mapping[str, float]) -> bool:
        """A stage has reached a rung of early stopping. True if no trial needs the stage any more."""
        await self._decide(lambda early: early.reach(key, step, bits_per_byte))
        return self.is_let_go(key)

    @_unlisted
    async def is_given_up(self, slot: str, incarnation: int, key: str) -> bool:
        """True if no trial needs the stage any more."""
        return self.is_let_go(key)

    def is_let_go(self, key: str) -> bool:
        return not self.state.tree.stopping and not self.state.is_wanted(key)

    async def _decide(
        self, decide: Callable[[EarlyStopping], Decision], begin: Callable[[], None] = lambda: None
    ) -> None:
        """Decides on early stopping; calls `begin` once the decision's comparisons are written, and then ends the
        trials that it stops. One decision at a time, since each counts for the next."""
        async with self._deciding:
            early, decision = self.state.early, None
            if early is not None:
                try:
                    decision = decide(early)
                    await asyncio.to_thread(comparisons.keep, early, decision)
                except OSError as error:
                    decision = None
                    self.state.abandon(f"a comparison of early stopping cannot be kept: {error}")
            begin()
            if decision is not None:
                self.state.stop_early(decision)
        self._signal()

    @_unlisted
    async def cancel_trial(self, number: int) -> None:
        self.state.cancel_trial(number)
        self._signal()

    # ---------------------------------------------------------------------------------------------- slots

    @_unlisted
    async def register(self, slot: str) -> int:
        """A worker group begins, or begins again after its workers died. Returns its incarnation, counted from 1: a
        message that carries an earlier one changes nothing."""
        incarnation = self.state.register(slot)
        self._signal()
        return incarnation

    @_unlisted
    async def next_job(self, slot: str, incarnation: int, wait_seconds: float) -> tuple[str, Job | None]:
        """("job", job), ("wait", None) when there is none yet, or ("quit", None) when the slot should end."""
        deadline = time.monotonic() + wait_seconds
        while not self.closed and self.state.may_ask(slot, incarnation):
            job = self.state.take(slot)
            if job is not None:
                self._show(job.key, slot)
                return "job", job
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                may_end = self.state.idle_seconds(slot) > IDLE_SECONDS and not self.keep_idle
                return ("quit" if may_end else "wait"), None
            await self._wait(seconds_left)
        return "quit", None

    def _show(self, key: str, slot: str) -> None:
        """Calls `job`, so that the dashboard's table of tasks has a row for the job as long as it runs."""
        if self.sweep is not None:
            node = self.state.tree.nodes[key]
            name = job_call(node.job, sorted(node.trials), self.sweep, slot)
            ray.get_runtime_context().current_actor.job.options(name=name).remote(key, node.holder)

    async def job(self, key: str, holder: str) -> str:
        """Waits until `holder` has the job no more; how it ended, in words. Raises RuntimeError with the cause where
        the job failed or its workers died, so that the dashboard shows the call as failed."""
        while (ending := self.state.tree.ending(key, holder)) is None:
            await self._wait(POLL_SECONDS)
        if not ending.is_good:
            raise RuntimeError(ending.words)
        return ending.words

    @_unlisted
    async def report(self, slot: str, incarnation: int, progress: Progress) -> bool:
        """Notes how far a job is. True when the slot should save the job and give it back."""
        num_kept_checkpoints = self.state.tree.num_kept_checkpoints
        is_to_stop = self.state.report(slot, incarnation, progress)
        if self.state.tree.num_kept_checkpoints > num_kept_checkpoints:  # a stage may have waited for that
            self._signal()
        return is_to_stop

    @_unlisted
    async def ended(self, slot: str, incarnation: int, key: str, job_end: JobEnd, outcome: Any) -> None:
        """The slot is through with a job. `outcome`: the job's outcome, the cause of its failure, or the notice."""
        seconds = self.state.end(slot, incarnation, key, job_end, outcome)
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, self._resume, key)
        self._signal()

    def _resume(self, key: str) -> None:
        self.state.resume(key)
        self._signal()

    @_unlisted
    async def told_to_leave(self, slot: str, incarnation: int, cause: str) -> None:
        """A worker of the slot got notice."""
        self.state.told_to_leave(slot, incarnation, cause)
        self._signal()

    @_unlisted
    async def workers_died(self, slot: str, cause: str, preempted: bool) -> None:
        """Ray Train found workers of the slot dead or in error."""
        self.state.workers_died(slot, cause, preempted)
        self._signal()

    @_unlisted
    async def slot_unusable(self, slot: str, cause: str) -> None:
        """The slot's workers can do no job, by the fault of their node or of what is installed there."""
        self.state.slot_unusable(slot, cause)
        self._signal()

    @_unlisted
    async def slot_gone(self, slot: str, cause: str) -> bool:
        """The slot has ended for good. Returns whether it ever held a job."""
        has_worked = self.state.slot_gone(slot, cause)
        self._signal()
        return has_worked

    # ---------------------------------------------------------------------------------------------- the driver

    @_unlisted
    async def times(self) -> dict[str, dict[str, float]]:
        """Maps a job's key to when it was first asked for, taken, had trained its first and last step, and ended; Unix
        seconds."""
        return self.state.times

    @_unlisted
    async def slot_asked_for(self, slot: str) -> None:
        """The driver starts a slot."""
        self.state.slot_asked_for(slot)

    @_unlisted
    async def demand(self, wait_seconds: float = 0.0) -> Demand:
        """The dispatcher's requests to the driver. Waits for a change, but no longer than `wait_seconds`."""
        if wait_seconds:
            await self._wait(wait_seconds)
        return self.state.demand(math.inf if self.keep_idle else IDLE_SECONDS)

    @_unlisted
    async def see(self, sight: Sight) -> None:
        """The driver has looked at the cluster."""
        self.state.see(sight)

    @_unlisted
    async def set_keep_idle(self, keep: bool) -> None:
        """Says whether slots without work stay, as they do while the driver still makes the token stores."""
        self.keep_idle = keep

    async def stop(self) -> None:
        """Running jobs save themselves and are given back; no new job is given out."""
        self.state.stop()
        self._signal()

    @_unlisted
    async def drained(self, wait_seconds: float) -> bool:
        """Waits until no slot holds a job any more; False when one still does after `wait_seconds`."""
        deadline = time.monotonic() + wait_seconds
        while self.state.tree.num_running() and time.monotonic() < deadline:
            await self._wait(deadline - time.monotonic())
        return not self.state.tree.num_running()

    @_unlisted
    async def close(self) -> list[str]:
        """Every slot that asks for work is told to end. Returns the slots that have no workers, who could ask."""
        self.closed = True
        self._signal()
        return [slot.name for slot in self.state.slots.values() if slot.is_unplaced]

    async def fail_all(self, cause: str) -> None:
        """Nothing can ever run: every unfinished job fails with this cause."""
        self.state.fail_all(cause)
        self._signal()

    @_unlisted
    async def note(self, text: str) -> None:
        """Passes a sentence to the user."""
        self.state.notes.append(text)

    async def abandon(self, cause: str) -> None:
        """Nothing can continue, by no fault of a trial: the driver is told and ends the run."""
        self.state.abandon(cause)
        self._signal()

    @_unlisted
    async def snapshot(self) -> Snapshot:
        """The state to show. Each note is in one snapshot only."""
        return self.state.snapshot()


def start_dispatcher(name: str, scaling: Scaling) -> DispatcherHandle:
    """Starts the named actor of the sweep `name` on the head node; it ends with the driver."""
    actor = ray.remote(num_cpus=0, max_concurrency=1000, name=f"{name} dispatcher", resources=ON_HEAD)
    return actor(Dispatcher).remote(scaling.max_failures, scaling.max_preemptions, name)
