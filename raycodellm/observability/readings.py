"""The values of all metrics at one moment: plain records in, plain records out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from raycodellm.config import CODE_KINDS, Objective, SweepFile
from raycodellm.dispatch import SlotActivity, Snapshot
from raycodellm.evaluation import AVERAGED
from raycodellm.known_trials import changed, open_trials, state_counts
from raycodellm.observability.labels import TrialLabels, trial_labels
from raycodellm.observability.metrics import BY_NAME, Metric
from raycodellm.observability.totals import Totals
from raycodellm.records import ENDED, Progress, TrialResult

MOST_ENDED = 100
"""Ended trials, the newest ones, that have series of their own: each has some forty. Ray drops a series that is set no
more, so that a sweep of thousands of trials has as many series as one of a hundred."""
STATES = (*ENDED, "running", "waiting")
_SCORES = (*(metric.name for metric in AVERAGED), "chance")
"""Metrics of a task that are shown; its own scores, its intervals, counts and parts would be twenty more series per
trial and task."""
_PROGRESS_FIELDS = {
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
    labels: dict[str, str]

    @cached_property
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
    ended_trials = _EndedTrials(view.objectives)
    ended_trials.add([result for result in view.results if result.state in ENDED], view.labels)
    return [
        *ended_trials.changing(view),
        *(reading for trial_readings in ended_trials.settled.values() for reading in trial_readings),
    ]


class SweepReadings:
    """The readings of a sweep, look after look. Each ended trial is read once."""

    def __init__(self, file: SweepFile) -> None:
        sweep = file.example()
        self._file, self._name, self._objectives = file, sweep.name, sweep.search.objectives
        self._ended_trials = _EndedTrials(self._objectives)
        self._labels: dict[int, TrialLabels] = {}
        self._last_results: Sequence[TrialResult] = ()
        """The trials at the last reading."""

    def of(
        self, snapshot: Snapshot, results: Sequence[TrialResult], num_trials: int
    ) -> tuple[list[Reading], dict[int, list[Reading]]]:
        """The readings that change, and those of ended trials, which stay, by the trials' numbers.

        `results`: of all trials that have begun; `num_trials`: of the whole sweep, as far as is known.
        """
        changed_results, self._last_results = changed(results, self._last_results), results
        for result in changed_results:
            if result.number not in self._labels and result.arm >= 0:
                self._labels[result.number] = trial_labels(self._file, result.number, result.arm, result.params)
        self._ended_trials.add([result for result in changed_results if result.state in ENDED], self._labels)
        view = View(self._name, num_trials, self._objectives, snapshot, results, self._labels)
        return self._ended_trials.changing(view), dict(self._ended_trials.settled)


_NamedValues = Iterator[tuple[str, float, dict[str, str]]]


class _EndedTrials:
    """The ended trials that have been read."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = {objective.metric for objective in objectives}
        self._totals = Totals(objectives)
        self._numbers: set[int] = set()
        self.settled: dict[int, list[Reading]] = {}
        """Maps each of the newest ended trials to its readings."""

    def add(self, ended: Iterable[TrialResult], labels: Mapping[int, TrialLabels]) -> None:
        """Reads those of the ended trials that were not read before."""
        for result in ended:
            if result.number in self._numbers:
                continue
            self._numbers.add(result.number)
            own_labels = labels.get(result.number)
            self._totals.add(result)
            if own_labels is not None:
                self.settled[result.number] = _finite_readings(_trial_values(result, own_labels, self._objectives))
            if len(self.settled) > MOST_ENDED:
                del self.settled[next(iter(self.settled))]

    def changing(self, view: View) -> list[Reading]:
        """All readings of this moment but those of ended trials, which no longer change."""
        current = _finite_readings(self._sweep_values(view))
        for result in open_trials(view.results):
            if result.number in view.labels:
                current += _finite_readings(_trial_values(result, view.labels[result.number], self._objectives))
        return [*current, *_finite_readings(_stage_values(view))]

    def _sweep_values(self, view: View) -> _NamedValues:
        snapshot, sweep = view.snapshot, {"sweep": view.sweep}
        counts = state_counts(view.results)
        for state in dict.fromkeys((*STATES, *counts)):
            yield "trials", counts.get(state, 0), {**sweep, "state": state}
        yield "trials_planned", view.num_trials, sweep
        slots = Counter(slot.state for slot in snapshot.slot_views)
        for activity in SlotActivity:
            yield "slots", slots[activity], {**sweep, "state": activity.value}
        yield "nodes", snapshot.num_nodes, sweep
        yield "deaths", snapshot.deaths, sweep
        yield "preemptions", snapshot.preemptions, sweep
        yield "tokens_saved", snapshot.tokens_saved, sweep
        yield "tokens_stopped", snapshot.tokens_stopped, sweep
        yield "training_slot_seconds", snapshot.busy_seconds.get("training", 0.0), sweep
        yield "evaluation_slot_seconds", snapshot.busy_seconds.get("evaluation", 0.0), sweep
        for metric, best in self._totals.best.items():
            yield "best_objective", best, {**sweep, "task": metric}


def _finite_readings(values: _NamedValues) -> list[Reading]:
    return [Reading(BY_NAME[name], value, labels) for name, value, labels in values if math.isfinite(value)]


def _trial_values(result: TrialResult, own_labels: TrialLabels, objectives: Collection[str]) -> _NamedValues:
    labels = own_labels.of_trial()
    yield "trial_state", 1.0, {**labels, "state": result.state}
    if result.state not in ENDED:
        return
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


def _stage_values(view: View) -> _NamedValues:
    running = {**view.snapshot.ended, **view.snapshot.running}
    for number in sorted(view.snapshot.chains):
        for index, key in enumerate(view.snapshot.chains[number]):
            progress = running.pop(key, None)  # a stage that trials share is the first one's
            if progress is not None and progress.num_steps and number in view.labels:
                yield from _progress_values(progress, view.labels[number].of_stage(index))


def _progress_values(progress: Progress, labels: dict[str, str]) -> _NamedValues:
    yield "stage_progress", progress.step / progress.num_steps, labels
    if not progress.step:
        return
    for name, field_name in _PROGRESS_FIELDS.items():
        yield name, getattr(progress, field_name), labels
    for source, value in progress.held_out_bpb.items():
        yield "held_out_bpb", value, {**labels, "source": source}
