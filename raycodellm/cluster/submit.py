"""Hands a sweep to a distant cluster as a Ray job."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycodellm.cluster import own_package
from raycodellm.cluster.inspection import PackagePlan
from raycodellm.cluster.job_client import Job, Jobs
from raycodellm.cluster.sent_files import SentFiles, write_archive
from raycodellm.config import UserError
from raycodellm.version import __version__

STOP_SECONDS = 150.0
"""Seconds that a stopped job may take to save its stages; a little over `sweep.watchdog.DRAIN_SECONDS`."""


@dataclass(frozen=True)
class Submission:
    """A sweep as it is handed to a cluster."""

    name: str
    sent: SentFiles
    storage: str
    """The storage as on the command line: a folder that every node sees, or an address."""
    overrides: tuple[str, ...]
    """`key=value` of each `--set`."""
    settings: str
    """Fingerprint of the resolved sweep file."""
    facts: Mapping[str, str]
    """Further entries of the job's metadata."""
    environment: Mapping[str, str]
    """Variables of the job."""
    size: str | None = None
    """Preset of the only size of a ladder that the job runs; None for all of them, and without a ladder."""

    @property
    def metadata(self) -> dict[str, str]:
        return {
            "job_name": self.name,
            "sweep": self.name,
            "storage": self.storage,
            "settings": self.settings,
            "raycodellm": __version__,
            **self.facts,
        }

    @property
    def entrypoint(self) -> str:
        """The job's command line. `python -m` finds the package whether it was installed on the nodes or sent."""
        words = ["python", "-m", "raycodellm.cli", "run", self.sent.sweep, "--storage", self.storage]
        words += ["--size", self.size] if self.size is not None else []
        return shlex.join(words + [word for override in self.overrides for word in ("--set", override)])


def check_storage(storage: str) -> None:
    """Raises `UserError` for a storage that would lie in the job's own folder."""
    if "://" not in storage and not storage.startswith(("/", "~")):
        raise UserError(f"--storage {storage}: the job runs elsewhere; give a full path or an s3:// address")


def submit(jobs: Jobs, submission: Submission, plan: PackagePlan) -> str:
    """Sends the sweep's files, and the package where the plan says so; returns the job's id.

    Raises `UserError` where the files are too large.
    """
    with tempfile.TemporaryDirectory(prefix="raycodellm-") as scratch:
        archive = Path(scratch) / "sweep.zip"
        write_archive(submission.sent, archive)
        runtime_env: dict[str, Any] = {
            "working_dir": str(archive),
            # `ray job stop` sends SIGTERM, and SIGKILL only 3 s later: too soon for stages to be saved.
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_SECONDS:.0f}", **submission.environment},
        }
        if plan.is_sent:
            runtime_env["py_modules"] = [str(own_package.copy_to(Path(scratch)))]
        if plan.pip:
            # Without pip's check, which fails on packages of the node's image that the sweep does not use.
            runtime_env["pip"] = {"packages": list(plan.pip), "pip_check": False}
        return jobs.submit(submission.entrypoint, submission.metadata, runtime_env)


def running_job(jobs: Jobs, submission: Submission) -> Job | None:
    """The job that runs this sweep on the cluster now. Raises `UserError` where that job has other settings."""
    same = [
        job for job in jobs.running(submission.name) if same_storage(job.metadata_value("storage"), submission.storage)
    ]
    if not same:
        return None
    if same[-1].metadata_value("settings") != submission.settings:
        raise UserError(
            f"{submission.name} runs at {jobs.shown_address} already, with other settings (job {same[-1].id}); stop "
            "it first, or give this sweep another name"
        )
    return same[-1]


def same_storage(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def git_commit(folder: Path) -> str | None:
    """Commit of the git repository that holds the folder, with `+` where files have changed since; None without one."""

    def git(*words: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10
        )
        return result.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):  # no git here, or no repository
        return None
