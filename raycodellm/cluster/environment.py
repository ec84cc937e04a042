"""The environment variables that Ray and its processes read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

WORKER_ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # The second generation of Parquet reading starts 32 actors per read: 20 s for eight small files, against 1 s.
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    # 1 s by default: short tasks, such as those that read a stage's data, would start new processes for every job.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 s by default: time a finished or dead worker group goes unnoticed
    # 60 s by default, after which a slot's place is asked for anew; a cloud's node takes minutes to come up.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "3600",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",  # 5 s by default, of the 30 s that a spot node may have left
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a run keeps its own records
}
"""Read by every process of a cluster, mostly when Ray is imported."""
LONGEST_START_SECONDS = 600
"""Longest wait for a part of Ray that still gets work done while it starts."""
_START_ENVIRONMENT = {
    # 60 s by default. `startup_wait` ends a dashboard that gets no work done sooner than this.
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(LONGEST_START_SECONDS),
    # 30 s by default. Ray waits for its control service (GCS) without a look at whether the process still runs.
    "RAY_gcs_server_port_wait_time_s": "120",
}
"""Read by the process that starts a cluster."""


def prepare_environment() -> None:
    """Sets Ray's variables for this process and those it starts. Call it before Ray is first imported."""
    for name, value in {**WORKER_ENVIRONMENT, **_START_ENVIRONMENT}.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def without_variables(*names: str) -> Iterator[None]:
    """Runs the body without these environment variables."""
    removed_variables = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(removed_variables)
