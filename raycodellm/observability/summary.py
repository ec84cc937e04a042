"""A running sweep in one line, and as metadata of its job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from raycodellm.config import Objective
from raycodellm.observability.readings import ENDED, best_trial
from raycodellm.records import TrialResult
from raycodellm.tables import formats
from raycodellm.tables.trials import trial_name


def summary_line(results: Sequence[TrialResult], num_trials: int, objectives: Sequence[Objective]) -> str:
    """`4 of 6 trials, 1 failed; best mean/bpb 1.728, arm 1`."""
    counts = Counter(result.state for result in results)
    parts = [f"{sum(counts[state] for state in ENDED)} of {num_trials} trials"]
    parts[0] += f", {counts['failed']} failed" if counts["failed"] else ""
    for objective in objectives:
        best = best_trial(results, objective)
        if best is not None:
            score = formats.score(best.metrics[objective.metric])
            parts.append(f"best {objective.metric} {score}, arm {best.arm}")
    return "; ".join(parts)


def job_metadata(results: Sequence[TrialResult], num_trials: int, objectives: Sequence[Objective]) -> dict[str, str]:
    """The state of the sweep, as its job's metadata keeps it."""
    told = {"trials": f"{sum(result.state in ENDED for result in results)} of {num_trials}"}
    for objective in objectives:
        best = best_trial(results, objective)
        if best is not None:
            score = formats.score(best.metrics[objective.metric])
            told[f"best {objective.metric}"] = f"{score}, arm {best.arm}, trial {trial_name(best.number)}"
    return told
