"""The loop inside the workers of a slot: ask for a job, do it together, ask again."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import platform
import threading
import time
from functools import partial
from typing import Any

from raycodellm import engine, evaluation, ingest, model, retrying, stage, stage_store
from raycodellm.dispatch import JobEnd
from raycodellm.engine import StorageError, TrainingError, World
from raycodellm.files import Damaged, Folder
from raycodellm.finished import Job, Outcome
from raycodellm.records import Progress
from raycodellm.slots import early_stopping
from raycodellm.slots.client import DispatcherClient
from raycodellm.slots.dispatcher import POLL_SECONDS
from raycodellm.slots.evaluation_job import run_evaluation
from raycodellm.slots.lease import Lease

logger = logging.getLogger(__name__)

UNSEEN_SECONDS = 5.0
"""How long a network's file system may take to show a file of another node."""
LEASE_SECONDS = 2.0
"""Seconds between two looks at a lease that another sweep holds."""

_TOGETHER = (TrainingError, evaluation.NothingFits, evaluation.WritersDisagree, FloatingPointError)
"""Errors that all ranks raise together: of a stage, or of a model that no item fits, that two engines answer for
differently, or whose likelihoods are no numbers."""


def slot_loop(settings: dict[str, Any]) -> None:
    """Runs in every worker of a slot: rank 0 asks for work, all ranks do it together."""
    import ray.train
    import ray.train.torch

    start_from(settings["start_folder"])
    context = ray.train.get_context()
    device = str(ray.train.torch.get_device())
    world = World(rank=context.get_world_rank(), world_size=context.get_world_size(), device=device)
    # In a thread, since most of the work happens in other processes.
    threading.Thread(target=ingest.preload, name="raycodellm-preload", daemon=True).start()
    engine.init_process(world, num_threads=max(1, int(settings["cpus_per_worker"])))
    engine.limit_memory(world, settings["gpus_per_worker"])
    client = DispatcherClient(settings["dispatcher"], settings["slot"], settings["sweep"])
    client.register(world)
    if (reason := _first_cause(world, why_unseen(Folder(settings["sweep"])))) is not None:
        if world.rank == 0:
            client.dispatcher.abandon.remote(reason)
        return
    client.notice.listen()
    client.ray_train.start(settings["nodes_are_watched"], is_alone=world.world_size == 1)
    # Imports that the jobs will need, one between two questions for work, since work may come at any moment.
    warm_up = [model.preload, evaluation.preload]
    is_frozen = False
    while True:
        answer, job = _agree_on_next(client, world, 0.0 if warm_up else POLL_SECONDS)
        if answer == "quit":
            return
        if job is None:
            if warm_up:
                warm_up.pop(0)()
            continue
        if not is_frozen:
            # Every stage ends with a garbage collection. Walking through all imported objects takes 0.3 s of a core,
            # and as much again while a small stage trains. Only once, since later garbage may be among the objects.
            gc.freeze()
            is_frozen = True
        _do(job, client, world)
        if settings["fresh_workers"]:
            return


def start_from(folder: str) -> None:
    """Has the relative paths of the sweep file start from the folder where they start in the driver.

    Ray Train has changed the working directory to one of its own. In a submitted job the folder is the job's copy of
    the sweep's files, which every node has at the same path.
    """
    if os.path.isdir(folder):  # else the node shares no files with the driver's
        os.chdir(folder)


def why_unseen(run_folder: Folder, seconds: float = UNSEEN_SECONDS) -> str | None:
    """Why this node cannot do the sweep's work: it does not see the sweep's local run folder, which the driver has
    written. None if it does, or if the run folder is on an object store, which a job tries."""
    deadline = time.monotonic() + seconds
    while run_folder.local is not None and not run_folder.exists("sweep.yaml"):
        if time.monotonic() > deadline:
            return (
                f"node {platform.node()} does not see {run_folder}, where the driver writes; give --storage a folder "
                "of a file system that every node mounts, or an address such as s3://bucket/folder"
            )
        time.sleep(0.2)
    return None


def _agree_on_next(client: DispatcherClient, world: World, wait_seconds: float) -> tuple[str, Job | None]:
    """The dispatcher's answer to rank 0, the same on all ranks; "quit" when a worker must leave. A collective."""
    if _first_cause(world, client.leave_because) is not None:
        return "quit", None
    answer: tuple[str, Job | None] = ("wait", None)
    if world.rank == 0:
        answer = client.ask("next_job", wait_seconds) or ("quit", None)
    if world.world_size > 1:
        import torch.distributed

        box = [answer]
        torch.distributed.broadcast_object_list(box, src=0)
        answer = box[0]
    return answer


def _first_cause(world: World, own_cause: str | None) -> str | None:
    """The cause of the first worker that has one. A collective."""
    return next((cause for cause in engine.gather(world, own_cause) if cause is not None), None)


def _do(job: Job, client: DispatcherClient, world: World) -> None:
    """Does one job and tells the dispatcher how it ended. A job's own error fails the job; the slot stays warm when its
    workers are still in step."""
    client.begin()
    try:
        outcome = run_job(job, world, client)
    except Exception as error:
        logger.exception("job %s failed", job.key)
        job_end, cause = _end_by_error(error, world)
        client.ask("ended", job.key, job_end, cause)
        # An error that all ranks raise together leaves them in step. After any other error, ranks may wait for one that
        # is gone, or a device may be in an unknown state: only new processes help.
        if (world.world_size > 1 and not isinstance(error, _TOGETHER)) or _is_device_error(error):
            raise
        return
    leave_because = _first_cause(world, client.leave_because) if outcome is None else None
    if world.rank == 0:
        if outcome is not None:
            client.ask("ended", job.key, JobEnd.FINISH, outcome)
        elif leave_because is not None:
            client.ask("ended", job.key, JobEnd.PREEMPTED, leave_because)
        else:
            client.ask("ended", job.key, JobEnd.RELEASE, None)


def _end_by_error(error: Exception, world: World) -> tuple[JobEnd, str]:
    """How a job ends by an error, and the cause in words. A collective when the error is a TrainingError, which all
    ranks raise together."""
    passing_cause = retrying.passing_cause(error)
    if isinstance(error, TrainingError):  # perhaps only one rank knows what caused it
        passing_cause = _first_cause(world, passing_cause)
    if passing_cause is not None:
        return JobEnd.POSTPONE, passing_cause
    if isinstance(error, StorageError | Damaged):  # the storage's fault, not the trial's
        return JobEnd.ABANDON, str(error)
    return JobEnd.FAIL, f"{type(error).__name__}: {error}"


def _is_device_error(error: Exception) -> bool:
    return "CUDA" in str(error) or type(error).__name__ in ("OutOfMemoryError", "AcceleratorError")


def run_job(job: Job, world: World, client: DispatcherClient) -> Outcome | None:
    """Does one job. Returns its outcome; None when it was stopped before its end."""
    lease = Lease(Folder(job.folder), _holder(job, client)) if world.rank == 0 else None
    if not _wait_for_lease(lease, job, world, client):
        return None
    with lease.held() if lease is not None else contextlib.nullcontext():
        if job.kind == "evaluation":
            client.progress(Progress(job.key, note="loading the model and the tasks"))
            return run_evaluation(job, world, client.progress, client.should_stop)
        record = stage.train_stage(
            job,
            world,
            on_progress=client.progress,
            should_stop=client.should_stop,
            on_metrics=client.ray_train.metrics,
            on_rung=partial(early_stopping.tell_rung, client, job),
            use_ray_data=True,
        )
        if record is None and world.rank == 0:
            early_stopping.let_go(client, job)
        return record


def _holder(job: Job, client: DispatcherClient) -> str:
    """The name under which the job's lease is held. Evaluations of one model share a lease, also those of one sweep."""
    return client.sweep if job.kind == "stage" else f"{client.sweep} ({job.key})"


def _wait_for_lease(lease: Lease | None, job: Job, world: World, client: DispatcherClient) -> bool:
    """Waits until no other sweep trains the stage or evaluates the model; False when told to stop before, or to do
    another job meanwhile. A collective; rank 0 has the lease.

    A finished job needs no lease, but a stage that is trained once more for its optimizer state does.
    """
    activity = "trains the same stage" if job.kind == "stage" else "evaluates the same model"
    other_holder = None
    while True:
        if lease is not None and lease.is_due():
            other_holder = lease.take() if stage_store.finished_outcome(job) is None else None
        answers = engine.gather(world, (other_holder, client.should_stop()))
        if answers[0][0] is None:
            return True
        if any(is_told_to_stop for _, is_told_to_stop in answers):
            return False
        client.progress(Progress(job.key, note=f"waits for {answers[0][0]}, which {activity}", is_elsewhere=True))
        time.sleep(LEASE_SECONDS)
