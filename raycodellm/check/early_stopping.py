"""The line of `check` about trials that stop early."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raycodellm.config import Sweep
from raycodellm.stage_store import Chain


def line(sweep: Sweep, chains: Sequence[Chain]) -> list[str]:
    """Where trials are compared, and what the costs do not reckon with; nothing in a sweep without early stopping."""
    early = sweep.search.early_stopping
    job = next((job for chain in chains for job in chain.stages if job.rungs), None)
    if early is None or job is None:
        return []
    steps = " and ".join(f"{step:,}" for step in job.rungs)
    return [
        f"early stopping: {early.metric} after {steps} of {job.stage.num_steps:,} steps of {job.stage.name}; the first "
        f"{math.ceil(1 / early.keep - 1e-9)} trials at a rung go on, then the best {early.keep:.0%} (costs below are "
        "those without it)"
    ]
