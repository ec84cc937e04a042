"""The page of the driver's job in the dashboard: its message and its metadata, kept current while the job runs.

Ray's public interface can set metadata when a job is submitted, and never a message. The record of a submitted job lies
in the key-value store of Ray's control service (GCS), and is read and written through the class that Ray's own job
manager uses. The manager writes the record when the job has ended, so nothing is written here once the driver ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 5
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Variable in which Ray tells a submitted job's driver the job's metadata."""
_SUBMISSION_ID = "job_submission_id"


def submission_id() -> str | None:
    """Id of the submitted job whose driver this process is; None for any other process."""
    try:
        return json.loads(os.environ.get(_JOB_CONFIG, "{}"))["metadata"][_SUBMISSION_ID]
    except (ValueError, KeyError, TypeError):
        return None


class JobPage:
    """The record of a submitted job."""

    def __init__(self, job: str, gcs_address: str) -> None:
        """`job`: the submission id; `gcs_address`: host:port of Ray's control service."""
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.dashboard.modules.job.common import JobInfoStorageClient

        self._job = job
        self._store: Any = JobInfoStorageClient(GcsClient(address=gcs_address))
        self._last_content: tuple[str, dict[str, str]] | None = None

    def tell(self, message: str, metadata: Mapping[str, str]) -> None:
        """Sets the message, and adds to the metadata; does nothing where both are as told before."""
        content = (message, dict(metadata))
        if content != self._last_content:
            asyncio.run(self._put(message, metadata))
            self._last_content = content

    async def _put(self, message: str, metadata: Mapping[str, str]) -> None:
        info = await self._store.get_info(self._job, timeout=_TIMEOUT_SECONDS)
        if info is not None and not info.status.is_terminal():
            changed_info = replace(info, message=message, metadata={**(info.metadata or {}), **metadata})
            await self._store.put_info(self._job, changed_info, timeout=_TIMEOUT_SECONDS)
