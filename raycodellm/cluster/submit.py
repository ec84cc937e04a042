"""Handing a sweep to a distant cluster as a Ray job, and checking the files that such clusters are made by."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from raycodellm import config
from raycodellm.cluster.environment import without
from raycodellm.config import UserError

SUBMIT_SECONDS = 60.0
STOP_SECONDS = 150.0
"""Seconds that a stopped job may take to save its stages; a little over `sweep.watchdog.DRAIN_SECONDS`."""


def submit(sweep_path: Path | str, address: str, overrides: Sequence[str] = (), storage: str | None = None) -> str:
    """Hands `raycodellm run` to the cluster whose dashboard is at `address` (http://head:8265); returns the job's id.

    The sweep file's folder travels with it (its files are found by relative paths); raycodellm itself must be
    installed on the cluster. `storage` should be a place that every node sees, such as s3://.
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
    # Ray lets these two overrule the address that was given.
    with without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        found = client(address, "submit the sweep")
        return _patiently(
            lambda: found.submit_job(
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


def _patiently(submit_job: Callable[[], str]) -> str:
    """A cluster that has just started takes jobs some seconds later, when its agents are up."""
    until = time.monotonic() + SUBMIT_SECONDS
    while True:
        try:
            return submit_job()
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(2.0)


def how_to_follow(address: str, job_id: str) -> str:
    """For a terminal: how to watch the job, and how to stop it."""
    where = f"--address {shlex.quote(address)}"
    return f"follow: ray job logs --follow {where} {job_id}\nstop:   ray job stop {where} {job_id}"


def client(address: str, purpose: str) -> Any:
    token_file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    # Ray's client sends a token only when told to before Ray is imported; told later, half of it would follow.
    if "ray" not in sys.modules and ("RAY_AUTH_TOKEN" in os.environ or token_file.exists()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (AuthenticationError, ConnectionError, RuntimeError, OSError) as error:
        token = "401" in str(error) or "token" in str(error).lower()
        hint = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if token else "is its dashboard there, and reachable?"
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot {purpose} to the Ray cluster at {address}: {reason}; {hint}") from error


def validate_cluster_file(path: Path | str) -> list[str]:
    """The fault of a Ray cluster file, by Ray's own rules; empty when `ray up` would take it. Needs no cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        validate_config(prepare_config(tree))
    except Exception as error:  # Ray raises KeyError, ValueError, jsonschema's and click's errors here
        return [f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}"]
    head = tree["available_node_types"][tree["head_node_type"]]
    problems = []
    if head.get("resources", {}).get("GPU"):
        problems.append(f"{tree['head_node_type']}: the head node has a GPU, which is paid for while nothing trains")
    return problems
