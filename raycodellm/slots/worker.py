"""The loop inside the workers of a slot: ask for a job, do it together, ask again."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
from functools import partial
from typing import Any

import ray

from raycodellm import engine, evaluation, ingest, model, retrying, stage, stage_store, storage_files
from raycodellm.dispatch import Job
from raycodellm.engine import StorageError, TrainingError, World
from raycodellm.files import Damaged, Folder
from raycodellm.records import EvaluationJob, Progress, StageJob
from raycodellm.slots.dispatcher import POLL_SECONDS
from raycodellm.slots.lease import Lease
from raycodellm.slots.notice import Notice
from raycodellm.slots.ray_train import RayTrain

logger = logging.getLogger(__name__)

LEASE_SECONDS = 2.0
"""Between two looks at a lease that another sweep has."""


class DispatcherClient:
    """A worker's line to the dispatcher. Progress is sent without waiting; the answer is read when it is there.

    Each word carries the slot and its incarnation: what a dead worker said last is not taken for its successor's.
    """

    def __init__(self, dispatcher: Any, slot: str, sweep: str = "") -> None:
        self.dispatcher = dispatcher
        self.slot = slot
        self.incarnation = 0
        """As the dispatcher counts the slot's worker groups; 0 until it is known."""
        self.sweep = sweep
        """The run folder, as what holds the leases of the stages in training."""
        self.notice = Notice(lambda cause: dispatcher.told_to_leave.remote(slot, self.incarnation, cause))
        self.ray_train = RayTrain(self.notice.preempted)
        self.cut: str | None = None
        """Why nothing is heard of the dispatcher any more: then the worker saves what it has and leaves."""
        self._answer: Any = None
        self._stop = False

    @property
    def leave_because(self) -> str | None:
        return self.notice.cause or self.cut

    def register(self, world: World) -> None:
        """Tells the dispatcher that the worker group begins. A collective: all ranks learn their incarnation."""
        told = self._asked("register", self.slot) if world.rank == 0 else None
        self.incarnation = engine.gather(world, told)[0] or 0

    def ask(self, method: str, *arguments: Any) -> Any:
        """The dispatcher's answer; None when it has died."""
        return self._asked(method, self.slot, self.incarnation, *arguments)

    def _asked(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self.dispatcher, method).remote(*arguments))
        except ray.exceptions.RayActorError as error:
            self._lost(error)
            return None

    def progress(self, progress: Progress) -> None:
        # A number may be skipped, but not the last one; a note is said once.
        if self._answer is None or progress.note or progress.step == progress.num_steps:
            self._answer = self.dispatcher.report.remote(self.slot, self.incarnation, progress)

    def should_stop(self) -> bool:
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            try:
                self._stop = ray.get(self._answer)
            except ray.exceptions.RayActorError as error:
                self._lost(error)
            self._answer = None
        return self._stop or self.leave_because is not None

    def begin(self) -> None:
        self._answer, self._stop = None, False

    def _lost(self, error: Exception) -> None:
        if self.cut is None:
            logger.error("the dispatcher does not answer: %s", error)
        self.cut = "the dispatcher died"


def slot_loop(settings: dict[str, Any]) -> None:
    """Runs in every worker of a slot: rank 0 asks for work, all ranks do it together."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    device = str(ray.train.torch.get_device())
    world = World(rank=context.get_world_rank(), world_size=context.get_world_size(), device=device)
    # Mostly other processes at work, so beside all the rest.
    threading.Thread(target=ingest.preload, name="raycodellm-preload", daemon=True).start()
    engine.init_process(world, num_threads=max(1, int(settings["cpus_per_worker"])))
    engine.limit_memory(world, settings["gpus_per_worker"])
    link = DispatcherClient(settings["dispatcher"], settings["slot"], settings["sweep"])
    link.register(world)
    link.notice.listen()
    link.ray_train.start(settings["nodes_are_watched"])
    # While there is nothing to do yet, what the jobs will need: a step at a time, since work may come at any moment.
    warm_up = [model.preload, evaluation.preload]
    frozen = False
    while True:
        answer, job = _agree_on_next(link, world, 0.0 if warm_up else POLL_SECONDS)
        if answer == "quit":
            return
        if job is None:
            if warm_up:
                warm_up.pop(0)()
            continue
        if not frozen:
            # Every stage ends with a collection of garbage: through all that was imported it takes 0.3 s of a core,
            # and as much again while a small stage trains. Once only, since later there may be garbage among it.
            gc.freeze()
            frozen = True
        _do(job, link, world)
        if settings["fresh_workers"]:
            return


def _agree_on_next(link: DispatcherClient, world: World, wait_seconds: float) -> tuple[str, Job | None]:
    if _first_cause(world, link.leave_because) is not None:
        return "quit", None
    answer: tuple[str, Job | None] = ("wait", None)
    if world.rank == 0:
        answer = link.ask("next_job", wait_seconds) or ("quit", None)
    if world.world_size > 1:
        import torch.distributed

        box = [answer]
        torch.distributed.broadcast_object_list(box, src=0)
        answer = box[0]
    return answer


def _first_cause(world: World, mine: str | None) -> str | None:
    """The first worker's cause that has one; a collective."""
    return next((cause for cause in engine.gather(world, mine) if cause is not None), None)


def _do(job: Job, link: DispatcherClient, world: World) -> None:
    """One job to its end. Its own error fails the job and leaves the slot warm, where the workers still agree."""
    link.begin()
    try:
        outcome = run_job(job, world, link)
    except Exception as error:
        logger.exception("job %s failed", job.key)
        passing = retrying.passing_cause(error)
        if isinstance(error, TrainingError):  # raised by all ranks together, of which one alone may know the cause
            passing = _first_cause(world, passing)
        if passing is not None:
            link.ask("ended", job.key, "postpone", passing)
        elif isinstance(error, StorageError | Damaged):  # the storage's fault: no trial has failed by its own
            link.ask("ended", job.key, "abandon", str(error))
        else:
            link.ask("ended", job.key, "fail", f"{type(error).__name__}: {error}")
        # An error that all ranks raise together leaves them in step. Any other may leave ranks waiting for one that
        # is gone, or a device in an unknown state: then only new processes help.
        if (world.world_size > 1 and not isinstance(error, TrainingError)) or _is_device_error(error):
            raise
        return
    leave_because = _first_cause(world, link.leave_because) if outcome is None else None
    if world.rank == 0:
        if outcome is not None:
            link.ask("ended", job.key, "finish", outcome)
        elif leave_because is not None:
            link.ask("ended", job.key, "preempted", leave_because)
        else:
            link.ask("ended", job.key, "release", None)


def _is_device_error(error: Exception) -> bool:
    return "CUDA" in str(error) or type(error).__name__ in ("OutOfMemoryError", "AcceleratorError")


def run_job(job: Job, world: World, link: DispatcherClient) -> Any:
    """The outcome of a job: a `StageRecord`, or an evaluation's metrics; None when it was stopped before its end."""
    if isinstance(job, EvaluationJob):
        link.progress(Progress(job.key, note="evaluating"))
        return run_evaluation(job, world)
    lease = Lease(Folder(job.folder), link.sweep) if world.rank == 0 else None
    if not _wait_for_lease(lease, job, world, link):
        return None
    with lease.kept() if lease is not None else contextlib.nullcontext():
        return stage.train_stage(
            job,
            world,
            on_progress=link.progress,
            should_stop=link.should_stop,
            on_metrics=link.ray_train.metrics,
            use_ray_data=True,
        )


def _wait_for_lease(lease: Lease | None, job: StageJob, world: World, link: DispatcherClient) -> bool:
    """Until no other sweep trains the stage; False when told to stop before. A collective; rank 0 has the lease.

    A finished stage needs no lease, unless it is trained once more for its optimizer state.
    """
    while True:
        other = None
        if lease is not None and not stage_store.is_done(job):
            other = lease.take()
        told = engine.gather(world, (other, link.should_stop()))
        if told[0][0] is None:
            return True
        if any(stop for _, stop in told):
            return False
        link.progress(Progress(job.key, note=f"waits for {told[0][0]}, which trains the same stage"))
        time.sleep(LEASE_SECONDS)


def run_evaluation(job: EvaluationJob, world: World) -> dict[str, float]:
    """Evaluates the job's model and leaves `items.parquet` and, last, `metrics.json` in its folder. A collective.

    Rank 0 decides for all whether that is done already: ranks that saw different files would wait for each other.
    """
    folder = Folder(job.folder)
    there = engine.gather(world, storage_files.finished_evaluation(folder) if world.rank == 0 else None)[0]
    if there is not None:
        return there
    began = time.monotonic()
    with Folder(job.model).as_local() as model_files:
        model.require_undamaged(model_files, Folder(job.model))
        result = evaluation.evaluate(
            model_files,
            job.evaluation,
            rank=world.rank,
            world_size=world.world_size,
            gather=partial(engine.gather, world) if world.world_size > 1 else None,
            device=world.device,
        )
    metrics = {**result.metrics, "seconds": time.monotonic() - began}
    error: OSError | None = None
    if world.rank == 0:
        try:
            folder.write_table("items.parquet", result.items)
            folder.write_json("metrics.json", metrics)
        except OSError as caught:
            error = caught
    problem = engine.gather(world, None if error is None else str(error))[0]
    if problem is not None:
        raise StorageError(f"the evaluation's results could not be written into {folder}: {problem}") from error
    return metrics
