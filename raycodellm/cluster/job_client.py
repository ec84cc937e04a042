"""The jobs of a distant cluster, through its dashboard: submitting, finding, following and stopping them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from raycodellm.cluster.auth_token import read_token
from raycodellm.cluster.environment import without_variables
from raycodellm.config import UserError, without_credentials

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

SUBMIT_SECONDS = 60.0
"""How long a new cluster may take until its agents accept jobs."""
LOST_SECONDS = 120.0
"""How long a followed job's cluster may give no answer."""
LOOK_SECONDS = 1.0
SAY_SECONDS = 10.0
"""Seconds between two lines about one wait."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Job:
    """A job as the cluster describes it."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str = ""
    exit_code: int | None = None
    """Exit code of the job's process; None while it runs, and where the job was stopped or could not start."""
    metadata: Mapping[str, str] | None = None

    @property
    def has_ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    def metadata_value(self, key: str) -> str:
        """A value of the metadata; empty where it is missing."""
        return (self.metadata or {}).get(key, "")


class ClusterAnswer(OSError):
    """The cluster refused a request, or did not answer, by no fault of the user's."""


class Jobs:
    """The jobs of the cluster whose dashboard is at `address` (http://head:8265)."""

    def __init__(self, address: str, purpose: str) -> None:
        """Connects. `purpose` says what for ("submit the sweep").

        Raises `UserError` for an address of another kind, where no dashboard answers, or for a missing or wrong token.
        """
        if not address.startswith(("http://", "https://")):
            raise UserError(f"--address {address}: must be the dashboard's address, http://<head node>:8265")
        self.shown_address = without_credentials(address)
        self._client = self._new_client(address, purpose)

    def _new_client(self, address: str, purpose: str) -> JobSubmissionClient:
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        # Ray's own reports of uploads and closed connections.
        for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
        # Ray would prefer these variables to the address that was given.
        with without_variables("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            try:
                with contextlib.suppress(AuthenticationError):
                    return JobSubmissionClient(address)
                # The cluster asks for a token. Ray's client sends one only where RAY_AUTH_MODE=token was set before
                # Ray was imported.
                token = read_token()
                headers = {"Authorization": f"Bearer {token}"} if token else None
                return JobSubmissionClient(address, headers=headers)
            except AuthenticationError as error:
                fault = "its token is not the one in RAY_AUTH_TOKEN or ~/.ray/auth_token here" if token else "no token"
                raise UserError(
                    f"cannot {purpose}: the Ray cluster at {self.shown_address} wants a token ({fault}); set "
                    "RAY_AUTH_TOKEN to what `ray get-auth-token` prints on its head node"
                ) from error
            except (ConnectionError, RuntimeError, OSError) as error:
                raise UserError(
                    f"cannot {purpose}: no Ray dashboard answers at {self.shown_address} ({_reason(error)}); is the "
                    "cluster up, and its port 8265 reachable from here?"
                ) from error

    def submit(self, entrypoint: str, metadata: Mapping[str, str], runtime_env: Mapping[str, Any]) -> str:
        """The new job's id. A cluster that has just started takes jobs some seconds later, when its agents are up."""
        deadline = time.monotonic() + SUBMIT_SECONDS
        with without_variables("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            while True:
                try:
                    return self._client.submit_job(
                        entrypoint=entrypoint, metadata=dict(metadata), runtime_env=dict(runtime_env)
                    )
                except RuntimeError as error:
                    if "status code 413" in str(error):
                        raise UserError("the cluster refuses what the sweep sends as too large; send less") from error
                    if "No available agent" not in str(error) or time.monotonic() > deadline:
                        raise ClusterAnswer(f"{self.shown_address}: {_reason(error)}") from error
                    time.sleep(2.0)

    def get(self, job_id: str) -> Job:
        """The job. Raises `UserError` where the cluster knows none by this id."""
        return _job(self._request(lambda: self._client.get_job_info(job_id), job_id))

    def running(self, sweep: str) -> list[Job]:
        """The sweep's jobs that have not ended, the newest last."""
        all_details = self._request(self._client.list_jobs, "")
        all_details = sorted(all_details, key=lambda details: details.start_time or 0)
        jobs = [_job(details) for details in all_details if details.submission_id]
        return [job for job in jobs if job.metadata_value("sweep") == sweep and not job.has_ended]

    def stop(self, job_id: str) -> None:
        """Asks the job to stop; it may then take a while to save."""
        self._request(lambda: self._client.stop_job(job_id), job_id)

    def output(self, job_id: str) -> str:
        return self._request(lambda: self._client.get_job_logs(job_id), job_id)

    def _request(self, call: Callable[[], _T], job_id: str) -> _T:
        try:
            return call()
        except RuntimeError as error:
            reason = _reason(error)
            if job_id and "does not exist" in reason:
                raise UserError(f"{self.shown_address} has no job {job_id}") from error
            raise ClusterAnswer(f"{self.shown_address}: {reason}") from error

    # ------------------------------------------------------------------------------------------------- waiting

    def wait(self, job_id: str, until: Callable[[Job], bool], say: Callable[[Job, float], None]) -> Job:
        """The job when `until` holds for it; `say` hears every `SAY_SECONDS` how long that has taken.

        Raises `ClusterAnswer` where the cluster has not answered for `LOST_SECONDS`.
        """
        began_at = said_at = answered_at = time.monotonic()
        while True:
            now = time.monotonic()
            try:
                job = self.get(job_id)
                answered_at = now
                if until(job):
                    return job
                if now - said_at >= SAY_SECONDS:
                    said_at = now
                    say(job, now - began_at)
            except OSError as error:
                self._require_answer(answered_at, error)
            time.sleep(LOOK_SECONDS)

    def _require_answer(self, answered_at: float, error: OSError) -> None:
        """Raises `ClusterAnswer` where the cluster last answered over `LOST_SECONDS` ago. `answered_at`: monotonic."""
        if time.monotonic() - answered_at > LOST_SECONDS:
            raise ClusterAnswer(f"{self.shown_address} has not answered for {LOST_SECONDS:.0f} s") from error

    def follow(self, job_id: str, write: Callable[[str], None], last_lines: int | None = None) -> Job:
        """Gives the output of a job that has started to `write`, as it comes; returns the job when it has ended.

        `last_lines`: of the output until now, only so many lines are written. Connects again where the connection is
        lost. Raises `ClusterAnswer` where that fails for `LOST_SECONDS`.
        """
        import aiohttp

        output = _Output(write)
        if last_lines is not None:
            output.skip(self.output(job_id), last_lines)
        answered_at = time.monotonic()
        while True:
            with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
                asyncio.run(self._tail(job_id, output))
            try:
                job = self.get(job_id)
                answered_at = time.monotonic()
                if job.has_ended:
                    output.begin()
                    output.add(self.output(job_id))
                    return job
            except OSError as error:
                self._require_answer(answered_at, error)
            time.sleep(LOOK_SECONDS)

    async def _tail(self, job_id: str, output: _Output) -> None:
        output.begin()
        async for text in self._client.tail_job_logs(job_id):
            output.add(text)


class _Output:
    """Writes a job's output once, though every connection gives it from its beginning."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._num_written, self._position = write, 0, 0

    def skip(self, text: str, last_lines: int) -> None:
        """Leaves out the text but for its last lines; says how many lines that were."""
        lines = text.splitlines(keepends=True)
        skipped_lines = lines[: max(0, len(lines) - last_lines)]
        self._num_written = sum(map(len, skipped_lines))
        if skipped_lines:
            self._write(f"… {len(skipped_lines):,} lines before\n")

    def begin(self) -> None:
        self._position = 0

    def add(self, text: str) -> None:
        unwritten = text[max(0, self._num_written - self._position) :]
        self._position += len(text)
        if unwritten:
            self._write(unwritten)
            self._num_written = self._position


def _reason(error: Exception) -> str:
    """The error in one line, without a key that the dashboard's address holds."""
    return without_credentials(" ".join(str(error).split()))[:300]


def _job(details: Any) -> Job:
    """`details`: a `JobDetails` of Ray."""
    return Job(
        id=details.submission_id or details.job_id or "",
        status=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        metadata=details.metadata,
    )
