"""Hands a sweep to a distant cluster as a Ray job."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raycodellm import config
from raycodellm.cluster.environment import without_variables
from raycodellm.config import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

SUBMIT_SECONDS = 60.0
"""How long a new cluster may take until its agents accept jobs."""
STOP_SECONDS = 150.0
"""Seconds that a stopped job may take to save its stages; a little over `sweep.watchdog.DRAIN_SECONDS`."""


def submit(sweep_path: Path | str, address: str, overrides: Sequence[str] = (), storage: str | None = None) -> str:
    """Hands `raycodellm run` to the cluster whose dashboard is at `address` (http://head:8265); returns the job's id.

    The sweep file's folder travels with the job, since the file names other files by relative paths; raycodellm itself
    must be installed on the cluster. `storage` should be a place that every node sees, such as s3://. Raises
    `UserError` for an address or storage that cannot work.
    """
    path = Path(sweep_path).resolve()
    name = config.load(path, tuple(overrides)).example().name
    folder = path.parent
    if folder in (Path.home(), Path(folder.anchor), Path(tempfile.gettempdir())):
        raise UserError(f"{path}: all of {folder} would be sent to the cluster; move the file to a folder of its own")
    if not address.startswith(("http://", "https://")):
        raise UserError(f"--address {address}: submit talks to the dashboard; give http://<head node>:8265")
    if storage and "://" not in storage and not storage.startswith(("/", "~")):
        raise UserError(f"--storage {storage}: the job runs elsewhere; give a full path or an s3:// address")
    words = ["raycodellm", "run", path.name]
    words += ["--storage", storage] if storage else []
    words += [word for override in overrides for word in ("--set", override)]
    # Ray would prefer these two variables to the address that was given.
    with without_variables("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        jobs = client(address, "submit the sweep")
        return _wait_for_agents(
            lambda: jobs.submit_job(
                entrypoint=shlex.join(words),
                metadata={"job_name": name},
                runtime_env={
                    "working_dir": str(folder),
                    "excludes": [".git", ".venv", "**/__pycache__"],
                    # `ray job stop` sends SIGTERM, and SIGKILL only 3 s later: too soon for stages to be saved.
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_SECONDS:.0f}"},
                },
            )
        )


def _wait_for_agents(submit_job: Callable[[], str]) -> str:
    """The job's id. A cluster that has just started takes jobs some seconds later, when its agents are up."""
    until = time.monotonic() + SUBMIT_SECONDS
    while True:
        try:
            return submit_job()
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(2.0)


def how_to_follow(address: str, job_id: str) -> str:
    """Two lines for a terminal: how to watch the job, and how to stop it."""
    where = f"--address {shlex.quote(address)}"
    return f"follow: ray job logs --follow {where} {job_id}\nstop:   ray job stop {where} {job_id}"


def client(address: str, purpose: str) -> JobSubmissionClient:
    """Ray's client for the jobs of the cluster whose dashboard is at `address`.

    Raises `UserError` where the dashboard cannot be reached; `purpose` says what for ("submit the sweep").
    """
    token_file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    # Ray's client sends a token only when told to before Ray is imported; told later, half of Ray would follow.
    if "ray" not in sys.modules and ("RAY_AUTH_TOKEN" in os.environ or token_file.exists()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (AuthenticationError, ConnectionError, RuntimeError, OSError) as error:
        is_about_token = "401" in str(error) or "token" in str(error).lower()
        hint = (
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if is_about_token else "is its dashboard there, and reachable?"
        )
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot {purpose} to the Ray cluster at {address}: {reason}; {hint}") from error
