"""Warm slots: long Ray Train worker groups that take job after job from one dispatcher. The only door to `ray.train`.

A new worker group costs tens of seconds, the next job in a warm one a fraction of one. The dispatcher is a thin named
actor around `dispatch.Dispatch`. Each slot is one `TorchTrainer.fit()` in a thread of the driver; Ray Train restarts
its workers when they die, and the restarted loop takes the job again from its newest checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from raycodellm import engine, evaluation, ingest, model, stage
from raycodellm.config import Scaling
from raycodellm.dispatch import Dispatch, Job, TrialOutcome
from raycodellm.engine import TrainingError, World
from raycodellm.files import Folder
from raycodellm.records import EvaluationJob, Progress, StageJob
from raycodellm.store import Chain

logger = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
"""After which a slot without work ends, so that an autoscaler can take its nodes back."""
POLL_SECONDS = 10.0
"""Longest wait of one question for work; the other ranks hear of it each time, well inside their collective timeout."""
THREAD_PREFIX = "raycodellm-"
PLACEMENT_SECONDS = 45.0
"""After which a sweep without a single started slot asks whether one can ever be placed."""


# ------------------------------------------------------------------------------------------- the dispatcher


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


class Dispatcher:
    """The actor's body. Every method is short; waiting is done on one event that every change sets."""

    def __init__(self, max_deaths: int) -> None:
        self.tree = Dispatch(max_deaths)
        self.progress: dict[str, Progress] = {}
        self.slots: dict[str, float] = {}
        self.notes: list[str] = []
        self.busy = {"training": 0.0, "evaluation": 0.0}
        self.taken_at: dict[str, float] = {}
        self.started = time.monotonic()
        self.first_slot: float | None = None
        self.keep_idle = True
        self.closed = False
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

    async def register(self, slot: str) -> None:
        """A worker group begins, or begins again after its workers died."""
        for key in self.tree.lost(slot, "the worker process ended without a word"):
            self.progress.pop(key, None)
            self._end(key)
            self.notes.append(f"workers of {key} died; the job is taken again from its newest checkpoint")
        self.slots[slot] = time.monotonic()
        self.first_slot = self.first_slot or time.monotonic() - self.started
        self._signal()

    async def next_job(self, slot: str, wait_seconds: float) -> tuple[str, Job | None]:
        """("job", job), ("wait", None) when there is none yet, or ("quit", None) when the slot should end."""
        until = time.monotonic() + wait_seconds
        while not self.closed:
            job = self.tree.take(slot)
            if job is not None:
                self.slots[slot] = self.taken_at[job.key] = time.monotonic()
                self.progress[job.key] = Progress(job.key, note="starting")
                return "job", job
            left = until - time.monotonic()
            if left <= 0:
                idle = time.monotonic() - self.slots.get(slot, time.monotonic())
                return ("quit", None) if idle > IDLE_SECONDS and not self.keep_idle else ("wait", None)
            await self._wait(left)
        return "quit", None

    async def report(self, slot: str, progress: Progress) -> bool:
        """Notes where a job is; True when the slot should save it and give it back."""
        if self.tree.should_stop(slot, progress.job):
            return True
        if progress.note and progress.num_steps:
            self.notes.append(f"{progress.job}: {progress.note}")
        self.progress[progress.job] = progress
        return False

    async def ended(self, slot: str, key: str, how: str, outcome: Any) -> None:
        """The slot is through with a job: `how` is finish, fail or release."""
        if how == "finish":
            self.tree.finish(slot, key, outcome)
        elif how == "fail":
            self.tree.fail(slot, key, outcome)
        else:
            self.tree.release(slot, key)
        self.slots[slot] = time.monotonic()
        self.progress.pop(key, None)
        self._end(key)
        self._signal()

    async def slot_gone(self, slot: str, cause: str) -> None:
        for key in self.tree.lost(slot, cause):
            self.progress.pop(key, None)
            self._end(key)
        self.slots.pop(slot, None)
        self._signal()

    def _end(self, key: str) -> None:
        kind = "evaluation" if key.startswith("evaluation-") else "training"
        began = self.taken_at.pop(key, None)
        self.busy[kind] += time.monotonic() - began if began is not None else 0.0

    # the driver

    async def demand(self) -> tuple[int, bool]:
        """Slots that could work now, and whether one has ever reported for work."""
        return self.tree.num_active(), self.first_slot is not None

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

    async def snapshot(self) -> Snapshot:
        done = sum(node.state == "done" for node in self.tree.nodes.values())
        notes, self.notes = tuple(self.notes), []
        return Snapshot(dict(self.progress), len(self.slots), done, dict(self.busy), self.first_slot, notes)


def start_dispatcher(name: str, scaling: Scaling) -> Any:
    """The named actor of a sweep, on the driver's own node; it ends with the driver."""
    here = ray.get_runtime_context().get_node_id()
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
    actor = ray.remote(num_cpus=0, max_concurrency=1000, name=f"raycodellm-{name}", scheduling_strategy=strategy)
    return actor(Dispatcher).remote(scaling.max_failures)


# --------------------------------------------------------------------------------- the loop inside a worker


class Link:
    """A worker's line to the dispatcher. Progress is sent without waiting; the answer is read when it is there."""

    def __init__(self, dispatcher: Any, slot: str) -> None:
        self.dispatcher = dispatcher
        self.slot = slot
        self._answer: Any = None
        self._stop = False

    def progress(self, progress: Progress) -> None:
        if self._answer is None or progress.note:  # a number may be skipped, a note is said once
            self._answer = self.dispatcher.report.remote(self.slot, progress)

    def should_stop(self) -> bool:
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stop = ray.get(self._answer)
            self._answer = None
        return self._stop

    def begin(self) -> None:
        self._answer, self._stop = None, False


def slot_loop(settings: dict[str, Any]) -> None:
    """Runs in every worker of a slot: rank 0 asks for work, all ranks do it together."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    device = str(ray.train.torch.get_device())
    world = World(rank=context.get_world_rank(), world_size=context.get_world_size(), device=device)
    engine.init_process(world, num_threads=max(1, int(settings["cpus_per_worker"])))
    link = Link(settings["dispatcher"], settings["slot"])
    if world.rank == 0:
        ray.get(link.dispatcher.register.remote(link.slot))
    # While there is nothing to do yet, what the jobs will need: a step at a time, since work may come at any moment.
    warm_up = [model.preload, ingest.preload, evaluation.preload]
    while True:
        answer, job = _agree_on_next(link, world, 0.0 if warm_up else POLL_SECONDS)
        if answer == "quit":
            return
        if job is None:
            if warm_up:
                warm_up.pop(0)()
            continue
        _do(job, link, world)
        if settings["fresh_workers"]:
            return


def _agree_on_next(link: Link, world: World, wait_seconds: float) -> tuple[str, Job | None]:
    answer: tuple[str, Job | None] = ("wait", None)
    if world.rank == 0:
        answer = ray.get(link.dispatcher.next_job.remote(link.slot, wait_seconds))
    if world.world_size > 1:
        import torch.distributed

        box = [answer]
        torch.distributed.broadcast_object_list(box, src=0)
        answer = box[0]
    return answer


def _do(job: Job, link: Link, world: World) -> None:
    """One job to its end. Its own error fails the job and leaves the slot warm, where the workers still agree."""
    link.begin()
    try:
        outcome = run_job(job, world, link.progress, link.should_stop)
    except Exception as error:
        logger.exception("job %s failed", job.key)
        cause = f"{type(error).__name__}: {error}"
        ray.get(link.dispatcher.ended.remote(link.slot, job.key, "fail", cause))
        # An error that all ranks raise together leaves them in step. Any other may leave ranks waiting for one that
        # is gone, or a device in an unknown state: then only new processes help.
        if (world.world_size > 1 and not isinstance(error, TrainingError)) or _is_device_error(error):
            raise
        return
    if world.rank == 0:
        how = "release" if outcome is None else "finish"
        ray.get(link.dispatcher.ended.remote(link.slot, job.key, how, outcome))


def _is_device_error(error: Exception) -> bool:
    return "CUDA" in str(error) or type(error).__name__ in ("OutOfMemoryError", "AcceleratorError")


def run_job(job: Job, world: World, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]) -> Any:
    """The outcome of a job: a `StageRecord`, or an evaluation's metrics; None when it was stopped before its end."""
    if isinstance(job, StageJob):
        return stage.train_stage(job, world, on_progress=on_progress, should_stop=should_stop, use_ray_data=True)
    on_progress(Progress(job.key, note="evaluating"))
    return run_evaluation(job, world)


def run_evaluation(job: EvaluationJob, world: World) -> dict[str, float]:
    """Evaluates the job's model and leaves `items.parquet` and, last, `metrics.json` in its folder."""
    folder = Folder(job.folder)
    if folder.exists("metrics.json"):
        return folder.read_json("metrics.json")
    began = time.monotonic()
    with _local_copy(Folder(job.model)) as model_files:
        result = evaluation.evaluate(
            model_files,
            job.evaluation,
            rank=world.rank,
            world_size=world.world_size,
            gather=_gather if world.world_size > 1 else None,
            device=world.device,
        )
    metrics = {**result.metrics, "seconds": time.monotonic() - began}
    if world.rank == 0:
        folder.write_table("items.parquet", result.items)
        folder.write_json("metrics.json", metrics)
    return metrics


def _gather(value: Any) -> list[Any]:
    import torch.distributed

    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def _local_copy(folder: Folder) -> Iterator[Path]:
    if folder.local is not None:
        yield folder.local
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder.download(Path(temporary))
        yield Path(temporary)


# ------------------------------------------------------------------------------------- the driver's side


class SlotPool:
    """Keeps as many slots as there is work for, up to `max_slots`; each lives in a thread of the driver."""

    def __init__(
        self,
        dispatcher: Any,
        scaling: Scaling,
        max_slots: int,
        folder: Folder,
        why_not_placed: Callable[[], str | None],
    ) -> None:
        self.dispatcher = dispatcher
        self.scaling = scaling
        self.max_slots = max_slots
        self.folder = folder
        self.why_not_placed = why_not_placed
        self.threads: dict[str, threading.Thread] = {}
        self.failed_starts = 0
        self.closing = threading.Event()
        self.supervisor = threading.Thread(target=self._supervise, name=f"{THREAD_PREFIX}supervisor", daemon=True)

    def start(self, num_slots: int) -> None:
        """Starts slots before there is work, so that their processes come up while tokens are prepared."""
        for _ in range(min(num_slots, self.max_slots)):
            self._start_slot()
        self.supervisor.start()

    def close(self, wait_seconds: float) -> None:
        """Ends all slots; waits for their worker groups to be given back, up to `wait_seconds`."""
        self.closing.set()
        with contextlib.suppress(ray.exceptions.RayError):  # a dispatcher that died has ended the slots' loops already
            ray.get(self.dispatcher.close.remote())
        until = time.monotonic() + wait_seconds
        for thread in (self.supervisor, *self.threads.values()):
            thread.join(max(0.0, until - time.monotonic()))

    def _supervise(self) -> None:
        began = time.monotonic()
        while not self.closing.wait(1.0):
            try:
                demand, placed = ray.get(self.dispatcher.demand.remote())
                alive = sum(thread.is_alive() for thread in self.threads.values())
                if demand > alive and alive < self.max_slots:
                    self._start_slot()
                if not placed and time.monotonic() - began > PLACEMENT_SECONDS:
                    began = time.monotonic()
                    self._check_placement()
            except ray.exceptions.RayError:
                logger.exception("the slots' supervisor lost its dispatcher")
                return

    def _check_placement(self) -> None:
        reason = self.why_not_placed()
        if reason is not None:
            ray.get(self.dispatcher.fail_all.remote(f"cannot be placed: {reason}"))

    def _start_slot(self) -> None:
        slot = f"slot-{uuid.uuid4().hex[:8]}"
        thread = threading.Thread(target=self._run_slot, args=(slot,), name=THREAD_PREFIX + slot, daemon=True)
        self.threads[slot] = thread
        thread.start()

    def _run_slot(self, slot: str) -> None:
        cause = "the slot ended"
        try:
            trainer(slot, self.dispatcher, self.scaling, self.folder).fit()
            self.failed_starts = 0
        except Exception as error:
            if self.closing.is_set():
                return
            logger.error("%s ended: %s", slot, traceback.format_exc())
            cause = _first_line(error)
            self.failed_starts += 1
        with contextlib.suppress(ray.exceptions.RayError):  # the cluster may be gone by now
            ray.get(self.dispatcher.slot_gone.remote(slot, cause))
            if self.failed_starts > self.scaling.max_failures:
                ray.get(self.dispatcher.fail_all.remote(f"worker groups end at once; the last one: {cause}"))


def threads_left() -> bool:
    """Whether a thread of ours still waits for Ray: then `ray.shutdown` would end the whole process with an error."""
    return any(thread.name.startswith(THREAD_PREFIX) for thread in threading.enumerate())


def trainer(slot: str, dispatcher: Any, scaling: Scaling, folder: Folder) -> Any:
    """The Ray Train run of one slot."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    gpus = scaling.gpus_per_worker
    resources = {"CPU": scaling.cpus_per_worker, **({"GPU": gpus} if gpus else {})}
    return TorchTrainer(
        slot_loop,
        train_loop_config={
            "dispatcher": dispatcher,
            "slot": slot,
            "cpus_per_worker": scaling.cpus_per_worker,
            "fresh_workers": scaling.fresh_workers,
        },
        scaling_config=ScalingConfig(num_workers=scaling.workers, use_gpu=gpus > 0, resources_per_worker=resources),
        run_config=RunConfig(
            name=slot,
            storage_path=(folder / "slots").uri,
            failure_config=FailureConfig(max_failures=scaling.max_failures),
        ),
    )


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__
