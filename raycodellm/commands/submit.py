"""`raycodellm submit`: hands a sweep to a distant cluster as a Ray job, and follows its output."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raycodellm import config, corpora, evaluation, search
from raycodellm.commands.request import (
    DEFAULT_STORAGE,
    DONE,
    FAILED,
    STOPPED,
    SUBMITTED_AS,
    WRONG,
    SweepRequest,
)
from raycodellm.commands.sweep_paths import NamedPath, relative_paths
from raycodellm.config import SweepFile, UserError
from raycodellm.files import fingerprint

if TYPE_CHECKING:
    from raycodellm.cluster.job_client import Job, Jobs
    from raycodellm.cluster.submit import Submission

Say = Callable[[str], None]
LAST_LINES = 40
"""Lines of earlier output that are shown of a job that is followed again."""


@dataclass(frozen=True)
class Submitting:
    """The options of `submit` besides those of the run."""

    is_detached: bool = False
    """True to leave as soon as the job is submitted."""
    package: str = "auto"
    """auto, send or installed: decides if raycodellm goes along."""


def submit(request: SweepRequest, options: Submitting, complain: Say) -> int:
    """Submits the sweep, or finds the job that runs it, and follows that; returns the job's exit code."""
    assert request.address is not None, "the command line asks for an address"
    with request.opened(complain) as file:
        from raycodellm.cluster.job_client import Jobs
        from raycodellm.cluster.submit import check_storage, running_job

        check_storage(request.storage_uri)
        submission = _submission(request, file, Path.cwd())
        jobs = Jobs(request.address, "submit the sweep")
        job = running_job(jobs, submission)
        if job is not None:
            _say(f"{submission.name} runs already as {job.id}")
            job_id = job.id
        else:
            job_id = _new_job(jobs, submission, options, complain)
            _say(f"submitted {submission.name} as {job_id}")
    _say(how_to_go_on(request, submission.name))
    if options.is_detached:
        return DONE
    return follow(jobs, job_id, request, submission.name, None if job is None else LAST_LINES)


def _new_job(jobs: Jobs, submission: Submission, options: Submitting, complain: Say) -> str:
    import ray

    from raycodellm.cluster import inspection
    from raycodellm.cluster.submit import submit as send

    inspected = inspection.inspect(jobs, submission.storage, _say)
    inspection.require_same_versions(inspected, ray.__version__)
    inspection.require_shared_storage(inspected, submission.storage)
    plan = inspection.package_plan(inspected, options.package)
    if warning := inspection.storage_warning(inspected, submission.storage):
        complain(warning)
    _say(f"sending {submission.sent}; {plan.sentence}")
    return send(jobs, submission, plan)


def _submission(request: SweepRequest, file: SweepFile, start: Path) -> Submission:
    """`start`: the folder that the sweep file's relative paths start from; the working directory as well."""
    from raycodellm.cluster import sent_files
    from raycodellm.cluster.submit import Submission, git_commit

    named_paths = relative_paths(file)
    sent_files.require_sendable(
        [named_path.path for named_path in named_paths if not named_path.key.startswith("evaluation.")]
    )
    files_by_path = {named_path: _chosen_files(named_path, file, start) for named_path in named_paths}
    paths = [named_path.path for named_path, files in files_by_path.items() if files is None]
    single_files = [path for files in files_by_path.values() for path in files or ()]
    sweep = Path(os.path.join(request.given_in, request.path))
    commit = git_commit(sweep.parent)
    return Submission(
        name=_sweep_name(request, file),
        sent=sent_files.collect(sweep, start, paths, single_files),
        storage=request.storage_uri,
        overrides=request.overrides,
        settings=fingerprint(config.resolved_tree(file)),
        facts={
            **_size(request, file),
            **({"git_commit": commit} if commit else {}),
        },
        environment={SUBMITTED_AS: request.command_line("submit")},
        size=request.size,
    )


def _sweep_name(request: SweepRequest, file: SweepFile) -> str:
    """Name of the job's sweep; if one size of a ladder runs alone, the name of the size's sweep."""
    if request.size is None:
        return file.example().name
    if file.example().ladder is None:
        raise UserError(f"--size {request.size}: {request.path} has no ladder; leave --size out")
    from raycodellm import ladder

    return ladder.chosen(ladder.sizes_of(file), request.size)[0].name


def _size(request: SweepRequest, file: SweepFile) -> dict[str, str]:
    """The arms and trials that the job runs; for a ladder, those of all its sizes."""
    if file.example().ladder is None:
        return {"arms": str(search.num_arms(file)), "trials": _trials_text([file])}
    from raycodellm import ladder

    sizes = ladder.chosen(ladder.sizes_of(file), request.size)
    arms = ", ".join(f"{size.preset} {search.num_arms(size.file)}" for size in sizes)
    return {"arms": arms, "trials": _trials_text([size.file for size in sizes])}


def _trials_text(files: Sequence[SweepFile]) -> str:
    """`6`, or `6, at most 18 with the confirmation`."""
    num_certain, num_most = sum(map(search.num_trials, files)), sum(map(search.most_trials, files))
    return f"{num_certain}, at most {num_most} with the confirmation" if num_most > num_certain else str(num_certain)


def _chosen_files(named_path: NamedPath, file: SweepFile, start: Path) -> list[Path] | None:
    """The files that the sweep reads at a path of its file; None for all files: of a model, or a git repository."""
    section, _, name = named_path.key.partition(".")
    if section == "evaluation":
        return _evaluation_files(named_path, file, start)
    if section == "sources":  # a file that the reader leaves out here must not become a document there
        source = file.example().sources[name.removesuffix(".path")]
        return corpora.local_files(source, os.path.normpath(os.path.join(start, named_path.path)))
    return None


def _evaluation_files(named_path: NamedPath, file: SweepFile, start: Path) -> list[Path] | None:
    """The files that the evaluation's tasks need of a task file, of measured text, or of a folder of tasks or data."""
    if named_path.key.startswith("evaluation.texts."):
        domain = named_path.key.removeprefix("evaluation.texts.")
        return evaluation.text_files(domain, os.path.normpath(os.path.join(start, named_path.path)))
    if named_path.key == "evaluation.judge.prompts":
        return [Path(os.path.normpath(os.path.join(start, named_path.path)))]
    if named_path.key == "evaluation.tasks":
        return evaluation.local_files(named_path.path)
    settings = file.example().evaluation
    tasks, places = evaluation.evaluated_tasks(file), evaluation.Places.of(settings)
    if named_path.key == "evaluation.include":
        return evaluation.included_files(tasks, places)
    return evaluation.data_files_of(tasks, places)


def how_to_go_on(request: SweepRequest, name: str) -> str:
    """Two lines for a terminal: how to follow the sweep's job, from here or later, and how to stop it."""
    return f"follow: {request.command_line('submit')}\nstop:   {stop_line(request, name)}"


def stop_line(request: SweepRequest, name: str) -> str:
    words = ["raycodellm", "stop", name]
    words += ["--storage", request.storage_uri] if request.storage_uri != DEFAULT_STORAGE else []
    return shlex.join([*words, "--address", config.without_credentials(request.address or "")])


def follow(jobs: Jobs, job_id: str, request: SweepRequest, name: str, last_lines: int | None) -> int:
    """Prints the job's output until it ends; returns its exit code. Ctrl-C leaves the job running, and says so.

    `last_lines`: only so many of the lines that the job has printed until now are printed.
    """

    def waits(job: Job, seconds: float) -> None:
        _say(f"waiting for the job to begin, {seconds:.0f} s so far: {job.message or job.status}")

    try:
        jobs.wait(job_id, lambda job: job.status != "PENDING", waits)
        job = jobs.follow(job_id, _write, last_lines)
    except KeyboardInterrupt:
        _say(f"\n{name} goes on as {job_id}\n{how_to_go_on(request, name)}")
        return STOPPED
    code = exit_code(job)
    if job.exit_code is None and job.status == "FAILED":
        _say(f"{name} did not begin, or was killed: {' '.join(job.message.split())[:400]}")
    _say(f"job {job_id} {job.status.lower()}, exit code {code}")
    return code


def exit_code(job: Job) -> int:
    """Exit code of an ended job: its command's; 130 where it was stopped, 1 where it was killed or never began."""
    if job.status == "SUCCEEDED":
        return DONE
    if job.status == "STOPPED":
        return STOPPED
    return job.exit_code if job.exit_code in (FAILED, WRONG, STOPPED) else FAILED


def _say(line: str) -> None:
    print(line, flush=True)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
