"""`raycodellm stop`: asks the run of a sweep to stop cleanly, and waits until it has."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from raycodellm import config
from raycodellm.commands.request import DONE, STOPPED
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.storage_files import LADDER, no_run_folder

if TYPE_CHECKING:
    from raycodellm.cluster.job_client import Job

Say = Callable[[str], None]


def stop(target: str, address: str | None, storage: str | None, say: Say) -> int:
    """Stops a run; returns the exit code.

    `target`: a run folder; with the `address` of a cluster's dashboard a sweep file, a sweep's name or a job's id.
    `storage`: tells apart several runs of one sweep on a cluster.
    """
    return stop_job(target, address, storage, say) if address else stop_folder(target, say)


def stop_folder(target: str, say: Say) -> int:
    """Asks the driver that owns the run folder, wherever that driver runs."""
    from raycodellm.sweep import stop_request

    folder = Folder(target)
    if folder.exists(LADDER):
        return _stop_ladder(target, say)
    if not folder.exists("sweep.yaml"):
        hint = "; to stop a submitted sweep by its file, give --address" if os.path.isfile(target) else ""
        raise UserError(f"{no_run_folder(folder)}{hint}")
    driver = stop_request.stop(folder, say)
    say(f"nothing runs {folder.name}" if driver is None else f"stopped: {driver} has ended")
    return DONE


def _stop_ladder(target: str, say: Say) -> int:
    """Asks the driver of each size that has begun: one of them runs the ladder, or several machines run a size each."""
    from raycodellm import ladder
    from raycodellm.sweep import stop_request

    opened_ladder = ladder.open_ladder(target)
    begun_sizes = [size for size in opened_ladder.facts.sizes if opened_ladder.has_begun(size)]
    drivers = [
        driver for size in begun_sizes if (driver := stop_request.stop(opened_ladder.run_folder(size), say)) is not None
    ]
    say(f"stopped: {', '.join(drivers)}" if drivers else f"nothing runs {opened_ladder.name}")
    return DONE


def stop_job(target: str, address: str, storage: str | None, say: Say) -> int:
    from raycodellm.cluster.job_client import Jobs

    name = config.load(target).example().name if os.path.isfile(target) else target
    jobs = Jobs(address, "stop the sweep")
    job = _job_of(jobs.running(name), name, storage, jobs.shown_address)
    if job is None and target.startswith("raysubmit_"):
        job = jobs.get(target)
    if job is None or job.has_ended:
        say(f"no job runs {name} at {jobs.shown_address}; what `raycodellm run` began stops by its run folder")
        return DONE
    jobs.stop(job.id)
    say(f"stopping {job.metadata_value('sweep') or job.id}: running stages save their checkpoints")
    try:
        ended_job = jobs.wait(
            job.id, lambda current: current.has_ended, lambda current, seconds: say(_waiting_line(current, seconds))
        )
    except KeyboardInterrupt:
        say(f"{job.id} goes on to stop")
        return STOPPED
    say(f"{ended_job.id} has ended: {ended_job.status.lower()}")
    return DONE


def _waiting_line(job: Job, seconds: float) -> str:
    return f"waiting until {job.id} has ended, {seconds:.0f} s so far: {job.message or job.status}"


def _job_of(running: list[Job], name: str, storage: str | None, address: str) -> Job | None:
    from raycodellm.cluster.submit import same_storage

    matches = [job for job in running if storage is None or same_storage(job.metadata_value("storage"), storage)]
    if len(matches) > 1:
        storages = ", ".join(job.metadata_value("storage") for job in matches)
        raise UserError(f"{name} runs several times at {address}; give --storage, one of {storages}")
    return matches[0] if matches else None
