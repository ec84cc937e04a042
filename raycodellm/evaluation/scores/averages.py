"""The averages of suites, such as `reasoning/acc`: the unweighted mean of one score over named tasks.

An average over some of its tasks would be another number under the same name. So an average that lacks a task has no
value, and `missing_averages` says why.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from raycodellm.evaluation.scores.metrics import unweighted_mean
from raycodellm.statistics import Sample

Averages = Mapping[str, Sequence[str]]
"""Maps the name of an average, `<name>/<score>`, to its tasks; a task with another score is named with that score, as
`quac/f1`."""
_OTHER_NAMES = {"em": "exact_match"}
"""Maps a score to another name that lm-eval has for the same score."""


def members(average: str, tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """The names that the averaged metric may have for each task, the preferred one first."""
    score = average.rpartition("/")[2]
    scores = (score, *((_OTHER_NAMES[score],) if score in _OTHER_NAMES else ()))
    return [(task,) if "/" in task else tuple(f"{task}/{name}" for name in scores) for task in tasks]


def average_metrics(
    averages: Averages, metrics: Mapping[str, float], samples: Callable[[str], Sequence[Sample]]
) -> dict[str, float]:
    """Each average whose tasks all have its score, with its interval over items where each of the scores has one; and
    `<name>/chance` beside an accuracy.

    `samples`: the items' values that a metric is made of, by the metric's name.
    """
    average_values: dict[str, float] = {}
    for average, tasks in averages.items():
        candidates = members(average, tasks)
        names = [next((name for name in candidate if name in metrics), None) for candidate in candidates]
        given_names = [name for name in names if name is not None]
        if not given_names or len(given_names) < len(tasks):
            continue
        if all(f"{name}_low" in metrics for name in given_names):
            average_values |= unweighted_mean(average, given_names, metrics, samples)
        else:
            average_values[average] = statistics.fmean(metrics[name] for name in given_names)
        prefix, _, score = average.rpartition("/")
        chances = [metrics[f"{task}/chance"] for task in tasks if f"{task}/chance" in metrics]
        if score == "acc" and len(chances) == len(tasks):
            average_values[f"{prefix}/chance"] = statistics.fmean(chances)
    return average_values


def missing_averages(averages: Averages, metrics: Mapping[str, float]) -> dict[str, str]:
    """Maps each average without a value to the reason, in words."""
    reasons = {}
    for average, tasks in averages.items():
        if average in metrics:
            continue
        candidates = zip(tasks, members(average, tasks), strict=True)
        task_reasons = [
            _reason(task, names, metrics) for task, names in candidates if not any(name in metrics for name in names)
        ]
        reasons[average] = "; ".join(task_reasons) or "it has no tasks"
    return reasons


def _reason(member: str, names: Sequence[str], metrics: Mapping[str, float]) -> str:
    task = member.partition("/")[0]
    if f"{task}/items" not in metrics:
        return f"{task} was not evaluated"
    if not metrics[f"{task}/items"]:
        not_run, too_long = (int(metrics.get(f"{task}/{count}", 0)) for count in ("not_run", "too_long"))
        return f"no item of {task} was scored ({not_run} not run, {too_long} too long)"
    return f"{task} has no score {names[0].rpartition('/')[2]!r}"
