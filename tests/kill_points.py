"""Processes that train one stage and kill themselves with SIGKILL at a chosen point; for the kill matrix."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import forkserver
from ports import free_port
from test_stage import open_fakes

from raycodellm.engine import Engine, StorageError, World
from raycodellm.files import Folder
from raycodellm.records import StageJob
from raycodellm.stage import setup, train_stage

KILLED, WROTE_NOT, TOO_LONG = -signal.SIGKILL, 3, 60.0


@dataclass(frozen=True)
class Kill:
    """Where a training process ends itself."""

    where: str
    """step, after step, half shard, exported; or `before X`, `after X` for the writing of file X."""
    number: int = 0
    """Number of the step in the stage, or of the occurrence in this attempt, from 0."""
    rank: int = 0


def install(kill: Kill) -> None:
    if kill.where in ("step", "after step"):
        _at_step(kill)
    elif kill.where == "half shard":
        _in_shard(kill)
    elif kill.where == "exported":
        original = Engine.export

        def export(engine: Engine, directory: Path | None, *rest: object) -> None:
            original(engine, directory, *rest)
            die()

        Engine.export = export
    else:
        _at_write(kill)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_step(kill: Kill) -> None:
    original = Engine.begin_step

    def begin_step(engine: Engine, batch: object, step: int, *rest: object, **options: object) -> object:
        if step == kill.number and kill.where == "step":
            die()
        result = original(engine, batch, step, *rest, **options)
        if step == kill.number:
            die()
        return result

    Engine.begin_step = begin_step


def _in_shard(kill: Kill) -> None:
    from raycodellm.engine import checkpoint_files

    original, calls = checkpoint_files.write_tensors, counter()

    def write_tensors(folder: Folder, name: str, tensors: dict) -> list[int]:
        checksums = original(folder, name, tensors)
        if calls() == kill.number:
            os.truncate(folder.local / name, (folder.local / name).stat().st_size // 2)
            die()
        return checksums

    checkpoint_files.write_tensors = write_tensors


def _at_write(kill: Kill) -> None:
    moment, _, file_name = kill.where.partition(" ")
    original, calls = Folder.write_bytes, counter()

    def write_bytes(folder: Folder, name: str, data: bytes) -> None:
        is_chosen_write = name == file_name and calls() == kill.number
        if is_chosen_write and moment == "before":
            die()
        original(folder, name, data)
        if is_chosen_write:
            die()

    Folder.write_bytes = write_bytes


def counter() -> Callable[[], int]:
    """Gives 0, 1, 2, …"""
    numbers = iter(range(1_000_000))
    return lambda: next(numbers)


def _work(rank: int, world_size: int, port: int, job: StageJob, kill: Kill | None, file_bytes: int | None) -> None:
    gc.freeze()  # keeps `Engine.close` from walking all that the imports made
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank))
    setup.open_stores = open_fakes
    if kill is not None and kill.rank == rank:
        install(kill)
    if file_bytes is not None:
        sys.dont_write_bytecode = True  # Python would keep the beginning of it, which no later process could import
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit is an error, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    try:
        train_stage(job, World(rank, world_size), on_progress=lambda progress: None, should_stop=lambda: False)
    except StorageError:
        os._exit(WROTE_NOT)


def _work_through(jobs: tuple[StageJob, ...]) -> None:
    for job in jobs:
        _work(0, 1, 0, job, None, None)


def train_in_one_process(*jobs: StageJob) -> int:
    """As a warm slot does; the process's exit code."""
    process = forkserver.context().Process(target=_work_through, args=(jobs,))
    process.start()
    process.join(TOO_LONG)
    return process.exitcode


def train(
    job: StageJob, kill: Kill | None = None, world_size: int = 1, file_bytes: int | None = None
) -> tuple[int, ...]:
    """Trains the stage in new processes; their exit codes by rank, -9 for one that was killed.

    When one has died, the others, which wait for it in an exchange, are killed as Ray Train does. `file_bytes`: no file
    may grow longer.
    """
    context = forkserver.context()
    port = free_port()
    workers = [
        context.Process(target=_work, args=(rank, world_size, port, job, kill, file_bytes))
        for rank in range(world_size)
    ]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + TOO_LONG
    while any(worker.is_alive() for worker in workers):
        if any(worker.exitcode not in (None, 0, WROTE_NOT) for worker in workers) or time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        workers[0].join(0.02)
    assert time.monotonic() < deadline, f"training with {kill} did not end within {TOO_LONG} s"
    return tuple(worker.exitcode for worker in workers)
