"""The environment variables that Ray and its processes read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

# Of every process of the cluster; Ray reads most of these when it is imported.
ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # The second generation of Parquet reading starts 32 actors per read: 20 s for eight small files, against 1 s.
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    # 1 s by default: short tasks, as those that read a stage's data, would start new processes for every job.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 s by default: time a finished or dead worker group goes unnoticed
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",  # 5 s by default, of the 30 s that a spot node may have left
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a run keeps its own records
}


def prepare_environment() -> None:
    """Ray's settings, for this process and all that it starts; to be called before Ray is first imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Runs its body without these environment variables."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
