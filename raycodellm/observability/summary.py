"""A running sweep in one line, and as metadata of its job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from raycodellm.config import Objective
from raycodellm.known_trials import num_ended, state_counts
from raycodellm.records import ENDED, TrialResult
from raycodellm.tables import formats


class Best(Protocol):
    """The arm that is first in rank by one objective."""

    @property
    def arm(self) -> int: ...

    @property
    def score(self) -> float:
        """Mean over the arm's complete trials."""
        ...


FindBest = Callable[[Sequence[TrialResult], Objective], Best | None]
"""The best arm by an objective, as the terminal and the report rank them; None while no complete trial has a score."""


def summary_line(
    results: Sequence[TrialResult], num_trials: int, objectives: Sequence[Objective], find_best: FindBest
) -> str:
    """`4 of 6 trials, 1 failed, 1 pruned; best mean/bpb 1.728, arm 1`."""
    counts = state_counts(results)
    parts = [f"{num_ended(results)} of {num_trials} trials"]
    parts[0] += "".join(f", {number} {state}" for state in ENDED[1:] if (number := counts.get(state, 0)))
    for objective in objectives:
        best = find_best(results, objective)
        if best is not None:
            parts.append(f"best {objective.metric} {formats.score(best.score)}, arm {best.arm}")
    return "; ".join(parts)


def job_metadata(
    results: Sequence[TrialResult], num_trials: int, objectives: Sequence[Objective], find_best: FindBest
) -> dict[str, str]:
    """The state of the sweep, as its job's metadata keeps it."""
    metadata = {"trials": f"{num_ended(results)} of {num_trials}"}
    for objective in objectives:
        best = find_best(results, objective)
        if best is not None:
            metadata[f"best {objective.metric}"] = f"{formats.score(best.score)}, arm {best.arm}"
    return metadata
