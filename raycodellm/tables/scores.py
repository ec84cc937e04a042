"""The table of a model's scores: a row per suite, task, part and metric, and what is known of the task beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raycodellm import evaluation
from raycodellm.config import Evaluation
from raycodellm.tables import cells, formats
from raycodellm.tables.table import Cell, Table

_ENDS = ("_low", "_high", "_items")
"""Behind a metric's name: the ends of its interval, and the number of items that have the score."""
_OWN_COLUMN = {"acc_clean"}
"""Metrics that stand in a column of another metric's row."""
_SAME_AS_BPB_CORPUS = {"bits_per_byte"}
"""lm-eval's name of the metric, which has an interval by ours."""
_HIDDEN_BESIDE_ACCURACY = {"bpb_corpus"}
"""Metrics that a reader of accuracies does not look for; they are in the metrics all the same."""


@dataclass(frozen=True)
class Score:
    """One metric of a task, or of a part of a task."""

    suite: str
    """The first of the asked suites that has the task; empty for a task beside the suites."""
    task: str
    part: str
    metric: str
    """The name behind the task's."""
    value: float
    low: float
    high: float
    """Ends of the 95 % interval; NaN where the metric has none."""
    num_items: int | None
    """Scored items that the value is made of; None for a mean over tasks."""

    @property
    def name(self) -> str:
        return f"{self.task} · {self.part}" if self.part else self.task


def scores(metrics: Mapping[str, float], settings: Evaluation) -> list[Score]:
    """The scores in `metrics`, by suite and then by task in the order in which the settings ask for them, tasks that
    they do not name (the members of groups) next, averages last. Of a part only the accuracy, where there is one."""
    suites = _suites(settings)
    order = {name: place for place, name in enumerate(dict.fromkeys([*suites, *settings.tasks]))}
    averages = {evaluation.MEAN, *(name.rpartition("/")[0] for name in evaluation.asked_averages(settings))}
    by_task: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        task, slash, metric = name.rpartition("/")
        if slash:
            by_task.setdefault(task, {})[metric] = value
    is_average = {task: task in averages and "items" not in of_task for task, of_task in by_task.items()}
    tasks = sorted(by_task, key=lambda task: (is_average[task], task == evaluation.MEAN, order.get(task, len(order))))
    found = []
    for task in tasks:
        found += _of_task(suites.get(task, ""), task, by_task[task])
    return found


def _suites(settings: Evaluation) -> dict[str, str]:
    """Maps each task, and the name of each average, to the first of the asked suites that has it."""
    found: dict[str, str] = {}
    for name in settings.suites:
        if name not in evaluation.suite_names():  # of a run of another version of this package
            continue
        suite = evaluation.suite(name)
        for task in [one.task for one in suite.tasks] + [average.rpartition("/")[0] for average in suite.averages]:
            found.setdefault(task, name)
    return found


def _of_task(suite: str, task: str, metrics: Mapping[str, float]) -> list[Score]:
    parts = [name.removeprefix("items_") for name in metrics if name.startswith("items_")]
    split = {name: known for name in metrics if (known := _metric_and_part(name, metrics, parts)) is not None}
    hidden = _OWN_COLUMN | (_HIDDEN_BESIDE_ACCURACY if "acc" in metrics else set())
    hidden |= _SAME_AS_BPB_CORPUS if "bpb_corpus" in metrics else set()
    found = []
    for part in ["", *sorted(parts, key=_by_numbers)]:
        of_part = {metric: name for name, (metric, of) in split.items() if of == part and metric not in hidden}
        if part and "acc" in of_part:
            of_part = {"acc": of_part["acc"]}
        for metric, name in of_part.items():
            low, high = (metrics.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
            count = metrics.get(f"{name}_items", metrics.get(f"items_{part}" if part else "items"))
            num_items = None if count is None else int(count)
            found.append(Score(suite, task, part, metric, metrics[name], low, high, num_items))
    return found


def _by_numbers(part: str) -> list[tuple[int, str]]:
    """Sorts `4_words` before `12_words`."""
    return [(int(piece) if piece.isdigit() else -1, piece) for piece in re.split(r"([0-9]+)", part) if piece]


def _metric_and_part(name: str, metrics: Mapping[str, float], parts: Sequence[str]) -> tuple[str, str] | None:
    """The metric and the part that a name says; None for a count, chance, and the end of an interval."""
    if name in (*evaluation.COUNTS, "chance") or name.startswith(("items_", "chance_")):
        return None
    if any(name.endswith(end) and name.removesuffix(end) in metrics for end in _ENDS):
        return None
    for part in sorted(parts, key=len, reverse=True):
        if name.endswith(f"_{part}") and name.removesuffix(f"_{part}") in metrics:
            return name.removesuffix(f"_{part}"), part
    return name, ""


def score_table(metrics: Mapping[str, float], settings: Evaluation) -> Table:
    """One model's scores, with chance, the majority baseline, and the numbers of items. A column that would be empty,
    and a count that is 0 everywhere, are left out."""
    found = scores(metrics, settings)
    return _table(
        [
            *_words([(one.suite, one.name, one.metric) for one in found]),
            ("value", [cells.score(one.value) for one in found]),
            ("95 % interval", [Cell(formats.interval(one.low, one.high), one.low) for one in found]),
            *_baselines(found, metrics, settings),
            ("items", [Cell(formats.NOTHING) if (n := one.num_items) is None else cells.whole(n) for one in found]),
            *((name, [_count(one, key, metrics) for one in found]) for name, key in _COUNTED.items()),
            (_CLEAN, [cells.score(_clean_accuracy(one, metrics)) for one in found]),
        ],
    )


def side_by_side(by_model: Mapping[str, Mapping[str, float]], settings: Evaluation) -> Table:
    """The scores of several models, a column each: the value with its interval."""
    found = {model: scores(metrics, settings) for model, metrics in by_model.items()}
    by_key = {model: {(one.suite, one.name, one.metric): one for one in some} for model, some in found.items()}
    first = {key: one for some in reversed(by_key.values()) for key, one in some.items()}
    keys = list(dict.fromkeys(key for some in by_key.values() for key in some))
    metrics = {name: value for of_model in by_model.values() for name, value in of_model.items()}
    return _table(
        [
            *_words(keys),
            *((model, [_with_interval(some.get(key)) for key in keys]) for model, some in by_key.items()),
            *_baselines([first[key] for key in keys], metrics, settings),
            ("items", [_item_counts([some.get(key) for some in by_key.values()]) for key in keys]),
        ]
    )


_WORDS = ("suite", "task", "metric")
_CLEAN = "clean accuracy"
_Column = tuple[str, Sequence[str]]


def _words(keys: Sequence[tuple[str, str, str]]) -> list[_Column]:
    return [(name, [key[place] for key in keys]) for place, name in enumerate(_WORDS)]


def _table(columns: Sequence[_Column]) -> Table:
    """The table without those columns that say nothing, of the ones that only some tasks need."""
    dispensable = ("suite", "chance", "majority", *_COUNTED, _CLEAN)
    kept = [one for one in columns if one[0] not in dispensable or any(map(_says_something, one[1]))]
    header = tuple(name for name, _ in kept)
    rows = list(zip(*(values for _, values in kept), strict=True))
    return Table(header, rows, left=tuple(place for place, name in enumerate(header) if name in _WORDS))


_COUNTED = {"too long": "too_long", "not run": "not_run", "contaminated": "contaminated"}
"""Headings of the counts of items to their names in the metrics."""


def _says_something(cell: str) -> bool:
    return cell not in ("", "0", formats.NOTHING)


def _baselines(found: Sequence[Score], metrics: Mapping[str, float], settings: Evaluation) -> list[_Column]:
    facts = {one.task: evaluation.task_facts(one.task, settings) for one in found}

    def chance(one: Score) -> float | None:
        if one.part:
            return metrics.get(f"{one.task}/chance_{one.part}")
        return metrics.get(f"{one.task}/chance", getattr(facts[one.task], "chance", None))

    def majority(one: Score) -> float | None:
        return None if one.part else getattr(facts[one.task], "majority", None)

    return [
        (name, [cells.score(value(one) if one.metric == "acc" else None) for one in found])
        for name, value in (("chance", chance), ("majority", majority))
    ]


def _clean_accuracy(one: Score, metrics: Mapping[str, float]) -> float | None:
    """The accuracy over the clean items of a task that has others; of items too short to be searched nothing is known,
    so that without contaminated items it would be another accuracy for no reason."""
    is_shown = one.metric == "acc" and not one.part and metrics.get(f"{one.task}/contaminated")
    return metrics.get(f"{one.task}/acc_clean") if is_shown else None


def _count(one: Score, key: str, metrics: Mapping[str, float]) -> Cell:
    count = metrics.get(f"{one.task}/{key}")
    return Cell(formats.NOTHING) if count is None or one.part else cells.whole(int(count))


def _item_counts(of_models: Sequence[Score | None]) -> Cell:
    """The number of items that a score is made of, or the numbers where models differ."""
    counts = dict.fromkeys(one.num_items for one in of_models if one is not None and one.num_items is not None)
    return Cell(", ".join(f"{count:,}" for count in counts) or formats.NOTHING, next(iter(counts), None))


def _with_interval(one: Score | None) -> Cell:
    if one is None:
        return Cell(formats.NOTHING)
    known = "" if math.isnan(one.low) else f" ({formats.interval(one.low, one.high)})"
    return Cell(f"{formats.score(one.value)}{known}", one.value)


def remarks(metrics: Mapping[str, float], settings: Evaluation) -> list[str]:
    """Remarks for a reader of the scores: averages that have no value, items that are in no score, and tasks whose
    scores say little at small scale."""
    lacking = evaluation.missing_averages(evaluation.asked_averages(settings), metrics)
    said = [f"{average} has no value: {reason}." for average, reason in lacking.items()]
    known = (name.removesuffix("/items") for name in metrics if name.endswith("/items"))  # with a score or without
    tasks = dict.fromkeys([*(one.task for one in scores(metrics, settings)), *known])
    for task in tasks:
        items, not_run = (int(metrics.get(f"{task}/{name}", 0)) for name in ("items", "not_run"))
        if not_run:
            said.append(
                f"{task}: {not_run} of {items + not_run} items were not run, by a failure of the sandbox or the "
                "machine; they are in no score."
            )
    unscored = evaluation.tasks_not_scored(tasks, metrics)
    if unscored and len(tasks) > 1:
        said.append(f"There is no mean over the tasks, since no item of {', '.join(unscored)} was scored.")
    facts = {task: evaluation.task_facts(task, settings) for task in tasks}
    return said + [f"{task}: {found.warning}" for task, found in facts.items() if found is not None and found.warning]
