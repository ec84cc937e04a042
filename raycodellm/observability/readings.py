"""The values of all metrics at one moment: plain records in, plain records out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from raycodellm.config import CODE_KINDS, Objective
from raycodellm.dispatch import SlotActivity, Snapshot
from raycodellm.evaluation import AVERAGED
from raycodellm.observability.labels import TrialLabels
from raycodellm.observability.metrics import BY_NAME, Metric
from raycodellm.records import ENDED, Progress, TrialResult
from raycodellm.tables.sharing import sharing

STATES = (*ENDED, "running", "waiting")
_SCORES = (*(metric.name for metric in AVERAGED), "chance")
"""Metrics of a task that are shown; its own scores, its intervals, counts and parts would be twenty more series per
trial and task."""
_OF_PROGRESS = {
    "loss": "loss",
    "tokens_per_second": "tokens_per_second",
    "mfu": "mfu",
    "code_ratio_planned": "code_ratio_planned",
    "code_ratio_real": "code_ratio_real",
    "data_wait_share": "data_wait_share",
}
"""Metric to the field of `Progress` that holds its value."""


@dataclass(frozen=True)
class Reading:
    """A metric's value under its labels."""

    metric: Metric
    value: float
    labels: Mapping[str, str]

    @property
    def series(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        return self.metric.name, tuple(sorted(self.labels.items()))


@dataclass(frozen=True)
class View:
    """A running sweep at one moment."""

    sweep: str
    num_trials: int
    objectives: Sequence[Objective]
    snapshot: Snapshot
    results: Sequence[TrialResult]
    labels: Mapping[int, TrialLabels] = field(default_factory=dict)
    """Labels of each trial in `results`, by its number."""


def readings(view: View) -> list[Reading]:
    """All values that are known. A value that is not finite is left out."""
    found = [*_of_sweep(view), *_of_trials(view), *_of_stages(view)]
    return [Reading(BY_NAME[name], value, labels) for name, value, labels in found if math.isfinite(value)]


_Found = Iterator[tuple[str, float, dict[str, str]]]


def _of_sweep(view: View) -> _Found:
    snapshot, sweep = view.snapshot, {"sweep": view.sweep}
    counts = Counter(result.state for result in view.results)
    for state in dict.fromkeys((*STATES, *counts)):
        yield "trials", counts[state], {**sweep, "state": state}
    yield "trials_planned", view.num_trials, sweep
    slots = Counter(slot.state for slot in snapshot.slot_views)
    for activity in SlotActivity:
        yield "slots", slots[activity], {**sweep, "state": activity.value}
    yield "nodes", snapshot.num_nodes, sweep
    yield "deaths", snapshot.deaths, sweep
    yield "preemptions", snapshot.preemptions, sweep
    yield "tokens_saved", _tokens_saved(view), sweep
    yield "training_slot_seconds", snapshot.busy_seconds.get("training", 0.0), sweep
    yield "evaluation_slot_seconds", snapshot.busy_seconds.get("evaluation", 0.0), sweep
    for objective in view.objectives:
        best = best_trial(view.results, objective)
        if best is not None:
            yield "best_objective", best.metrics[objective.metric], {**sweep, "task": objective.metric}


def _of_trials(view: View) -> _Found:
    objectives = {objective.metric for objective in view.objectives}
    for result in view.results:
        if result.number not in view.labels:
            continue
        labels = view.labels[result.number].of_trial()
        yield "trial_state", 1.0, {**labels, "state": result.state}
        if result.state not in ENDED:
            continue
        for task, value in result.metrics.items():
            if task in objectives or task.rpartition("/")[2] in _SCORES:
                yield "score", value, {**labels, "task": task}
            if task in objectives:
                yield "objective", value, {**labels, "task": task}
        yield "trial_tokens", result.tokens.get("total", 0), labels
        yield "device_seconds", result.device_seconds, labels
        yield "trial_deaths", result.deaths, labels
        for row in result.ledger:
            yield "trial_source_tokens", row.tokens, {**labels, "source": row.source}
        total = sum(row.tokens for row in result.ledger)
        if total:
            code = sum(row.tokens for row in result.ledger if row.kind in CODE_KINDS)
            yield "trial_code_ratio", code / total, labels


def _of_stages(view: View) -> _Found:
    running = {**view.snapshot.ended, **view.snapshot.running}
    for number in sorted(view.snapshot.chains):
        for place, key in enumerate(view.snapshot.chains[number]):
            progress = running.pop(key, None)  # a stage that trials share is the first one's
            if progress is not None and progress.num_steps and number in view.labels:
                yield from _of_progress(progress, view.labels[number].of_stage(place))


def _of_progress(progress: Progress, labels: dict[str, str]) -> _Found:
    yield "stage_progress", progress.step / progress.num_steps, labels
    if not progress.step:
        return
    for name, field_name in _OF_PROGRESS.items():
        yield name, getattr(progress, field_name), labels
    for source, value in progress.held_out_bpb.items():
        yield "held_out_bpb", value, {**labels, "source": source}


def best_trial(results: Sequence[TrialResult], objective: Objective) -> TrialResult | None:
    """The complete trial with the objective's best value; None while there is none."""
    scored = [r for r in results if r.state == "complete" and math.isfinite(r.metrics.get(objective.metric, math.nan))]
    better = min if objective.mode == "min" else max
    return better(scored, key=lambda result: result.metrics[objective.metric], default=None)


def _tokens_saved(view: View) -> int:
    """Planned tokens of all stages that the trials ask for, less those of the stages that are trained."""
    chains = {result.number: result.stages for result in view.results} | view.snapshot.chains
    num_tokens = {
        key: tokens
        for number, labels in view.labels.items()
        for key, tokens in zip(chains.get(number, ()), labels.num_tokens, strict=False)  # without the evaluation
    }
    return sharing(chains.values(), num_tokens).tokens_saved
