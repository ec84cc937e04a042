"""The table of a model's scores: a row per suite, task, part and metric, with facts of the task beside the score."""

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
"""Metrics that the table leaves out where a task has an accuracy; the metrics themselves keep them."""


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
    is_average = {task: task in averages and "items" not in task_metrics for task, task_metrics in by_task.items()}
    tasks = sorted(by_task, key=lambda task: (is_average[task], task == evaluation.MEAN, order.get(task, len(order))))
    all_scores = []
    for task in tasks:
        all_scores += _task_scores(suites.get(task, ""), task, by_task[task])
    return all_scores


def _suites(settings: Evaluation) -> dict[str, str]:
    """Maps each task, and the name of each average, to the first of the asked suites that has it."""
    suite_of: dict[str, str] = {}
    for name in settings.suites:
        if name not in evaluation.suite_names():  # a run of another version of this package may name it
            continue
        suite = evaluation.suite(name)
        averages = [average.rpartition("/")[0] for average in suite.averages]
        for task in [*(entry.task for entry in suite.tasks), *averages]:
            suite_of.setdefault(task, name)
    return suite_of


def _task_scores(suite: str, task: str, metrics: Mapping[str, float]) -> list[Score]:
    parts = [name.removeprefix("items_") for name in metrics if name.startswith("items_")]
    split = {name: split_name for name in metrics if (split_name := _metric_and_part(name, metrics, parts)) is not None}
    hidden = _OWN_COLUMN | (_HIDDEN_BESIDE_ACCURACY if "acc" in metrics else set())
    hidden |= _SAME_AS_BPB_CORPUS if "bpb_corpus" in metrics else set()
    part_scores = []
    for part in ["", *sorted(parts, key=_by_numbers)]:
        part_metrics = {
            metric: name for name, (metric, owner) in split.items() if owner == part and metric not in hidden
        }
        if part and "acc" in part_metrics:
            part_metrics = {"acc": part_metrics["acc"]}
        for metric, name in part_metrics.items():
            low, high = (metrics.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
            count = metrics.get(f"{name}_items", metrics.get(f"items_{part}" if part else "items"))
            num_items = None if count is None else int(count)
            part_scores.append(Score(suite, task, part, metric, metrics[name], low, high, num_items))
    return part_scores


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
    rows = scores(metrics, settings)
    return _table(
        [
            *_word_columns([(row.suite, row.name, row.metric) for row in rows]),
            ("value", [cells.score(row.value) for row in rows]),
            ("95 % interval", [Cell(formats.interval(row.low, row.high), row.low) for row in rows]),
            *_baselines(rows, metrics, settings),
            ("items", [Cell(formats.NOTHING) if (n := row.num_items) is None else cells.whole(n) for row in rows]),
            *((name, [_count(row, key, metrics) for row in rows]) for name, key in _COUNTED.items()),
            (_CLEAN, [cells.score(_clean_accuracy(row, metrics)) for row in rows]),
        ],
    )


def side_by_side(by_model: Mapping[str, Mapping[str, float]], settings: Evaluation) -> Table:
    """The scores of several models, a column each: the value with its interval."""
    model_scores = {model: scores(metrics, settings) for model, metrics in by_model.items()}
    by_key = {model: {(row.suite, row.name, row.metric): row for row in rows} for model, rows in model_scores.items()}
    any_row = {key: row for rows_by_key in reversed(by_key.values()) for key, row in rows_by_key.items()}
    keys = list(dict.fromkeys(key for rows_by_key in by_key.values() for key in rows_by_key))
    metrics = {name: value for model_metrics in by_model.values() for name, value in model_metrics.items()}
    return _table(
        [
            *_word_columns(keys),
            *((model, [_with_interval(rows_by_key.get(key)) for key in keys]) for model, rows_by_key in by_key.items()),
            *_baselines([any_row[key] for key in keys], metrics, settings),
            ("items", [_item_counts([rows_by_key.get(key) for rows_by_key in by_key.values()]) for key in keys]),
        ]
    )


_WORDS = ("suite", "task", "metric")
_CLEAN = "clean accuracy"
_Column = tuple[str, Sequence[str]]


def _word_columns(keys: Sequence[tuple[str, str, str]]) -> list[_Column]:
    return [(name, [key[place] for key in keys]) for place, name in enumerate(_WORDS)]


def _table(columns: Sequence[_Column]) -> Table:
    """The table without those columns that say nothing, of the ones that only some tasks need."""
    dispensable = ("suite", "chance", "majority", *_COUNTED, _CLEAN)
    shown = [column for column in columns if column[0] not in dispensable or any(map(_says_something, column[1]))]
    header = tuple(name for name, _ in shown)
    rows = list(zip(*(values for _, values in shown), strict=True))
    return Table(header, rows, left=tuple(place for place, name in enumerate(header) if name in _WORDS))


_COUNTED = {"too long": "too_long", "not run": "not_run", "contaminated": "contaminated"}
"""Headings of the counts of items to their names in the metrics."""


def _says_something(cell: str) -> bool:
    return cell not in ("", "0", formats.NOTHING)


def _baselines(rows: Sequence[Score], metrics: Mapping[str, float], settings: Evaluation) -> list[_Column]:
    facts = {row.task: evaluation.task_facts(row.task, settings) for row in rows}

    def chance(row: Score) -> float | None:
        if row.part:
            return metrics.get(f"{row.task}/chance_{row.part}")
        return metrics.get(f"{row.task}/chance", getattr(facts[row.task], "chance", None))

    def majority(row: Score) -> float | None:
        return None if row.part else getattr(facts[row.task], "majority", None)

    return [
        (name, [cells.score(value(row) if row.metric == "acc" else None) for row in rows])
        for name, value in (("chance", chance), ("majority", majority))
    ]


def _clean_accuracy(row: Score, metrics: Mapping[str, float]) -> float | None:
    """The accuracy over the clean items of a task that has others; of items too short to be searched nothing is known,
    so that without contaminated items it would be another accuracy for no reason."""
    is_shown = row.metric == "acc" and not row.part and metrics.get(f"{row.task}/contaminated")
    return metrics.get(f"{row.task}/acc_clean") if is_shown else None


def _count(row: Score, key: str, metrics: Mapping[str, float]) -> Cell:
    count = metrics.get(f"{row.task}/{key}")
    return Cell(formats.NOTHING) if count is None or row.part else cells.whole(int(count))


def _item_counts(rows: Sequence[Score | None]) -> Cell:
    """The number of items that a score is made of, or the numbers where models differ."""
    counts = dict.fromkeys(row.num_items for row in rows if row is not None and row.num_items is not None)
    return Cell(", ".join(f"{count:,}" for count in counts) or formats.NOTHING, next(iter(counts), None))


def _with_interval(row: Score | None) -> Cell:
    if row is None:
        return Cell(formats.NOTHING)
    ends = "" if math.isnan(row.low) else f" ({formats.interval(row.low, row.high)})"
    return Cell(f"{formats.score(row.value)}{ends}", row.value)


def remarks(metrics: Mapping[str, float], settings: Evaluation) -> list[str]:
    """Remarks for a reader of the scores: averages that have no value, items that are in no score, and tasks whose
    scores say little at small scale."""
    lacking = evaluation.missing_averages(evaluation.asked_averages(settings), metrics)
    lines = [f"{average} has no value: {reason}." for average, reason in lacking.items()]
    # A task whose items are counted may have no score.
    counted_tasks = (name.removesuffix("/items") for name in metrics if name.endswith("/items"))
    tasks = dict.fromkeys([*(row.task for row in scores(metrics, settings)), *counted_tasks])
    for task in tasks:
        items, not_run = (int(metrics.get(f"{task}/{name}", 0)) for name in ("items", "not_run"))
        if not_run:
            lines.append(
                f"{task}: {not_run} of {items + not_run} items were not run, by a failure of the sandbox or the "
                "machine; they are in no score."
            )
    unscored = evaluation.tasks_not_scored(tasks, metrics)
    if unscored and len(tasks) > 1:
        lines.append(f"There is no mean over the tasks, since no item of {', '.join(unscored)} was scored.")
    facts = {task: evaluation.task_facts(task, settings) for task in tasks}
    return lines + [
        f"{task}: {task_fact.warning}"
        for task, task_fact in facts.items()
        if task_fact is not None and task_fact.warning
    ]
