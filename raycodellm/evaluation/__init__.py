"""Scoring a model on reasoning tasks by lm-eval, with an account of every item. The only door to `lm_eval`.

Every task gives accuracy (Wilson interval), bits per byte of the right answer (Student interval), the chance level, and
how many items were scored and how many were too long for the model. The items come back as a table, one row each.

What differs from `lm_eval.simple_evaluate`, on purpose: an item that does not fit into the model's context is counted
and left out (lm-eval cuts its beginning off and scores the rest), several workers share a task without changing any
item's prompt, and log-likelihoods are summed in 32 bits also for a model in 16 (in lm-eval: `softmax_dtype=float32`).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycodellm.config import Evaluation
from raycodellm.evaluation.items import evaluated_tasks, item_texts
from raycodellm.evaluation.loading import (
    check_tasks,
    load_model,
    load_tasks,
    model_files,
    own_randomness,
    preload,
    quiet,
)
from raycodellm.evaluation.objectives import check_evaluation
from raycodellm.evaluation.scoring import score_task
from raycodellm.evaluation.table import ITEMS_SCHEMA, items_table, named_tasks, samples
from raycodellm.evaluation.task_files import lm_eval_version, task_content
from raycodellm.files import Folder
from raycodellm.statistics import Interval, correlations, mean_interval, mean_of_intervals, wilson_interval

__all__ = [
    "ITEMS_SCHEMA",
    "EvaluationResult",
    "NothingFits",
    "check_evaluation",
    "check_tasks",
    "evaluate",
    "evaluated_tasks",
    "item_texts",
    "lm_eval_version",
    "load_tasks",
    "named_tasks",
    "preload",
    "samples",
    "task_content",
]


@dataclass(frozen=True)
class EvaluationResult:
    metrics: dict[str, float]
    """`<task>/acc`, `/acc_low`, `/acc_high`, `/bpb`, `/bpb_low`, `/bpb_high`, `/chance`, `/items` (scored), `/too_long`
    (left out); for each part of a task `/acc_<part>` with its interval, `/bpb_<part>`, `/items_<part>`; and `mean/acc`,
    `mean/bpb`, `mean/chance` over the named tasks, unweighted: a group of tasks counts once, as all its members' items
    together. A task without right and wrong has no `acc`."""
    items: pa.Table
    """One row per item, in the order of the tasks and of their items; see `evaluation.table`."""


class NothingFits(RuntimeError):
    """No item of a task fits into the model's context."""


def evaluate(
    model_folder: Folder | Path | str,
    settings: Evaluation,
    *,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[Any], list[Any]] | None = None,
    device: str | None = "cpu",
) -> EvaluationResult:
    """Scores a Hugging Face folder (or hub name) on `settings.tasks`: built-in, lm-eval's, or paths of YAML files.

    Of several workers each scores some of the items; `gather(object)` must return every rank's object, on every rank.
    All ranks return the same result, and it is the one that a single worker would have returned. `device=None` takes
    CUDA where there is one. Built-in tasks need no network.

    Raises UserError for an unknown task or model, NothingFits when no item of a task fits into the model's context, and
    FloatingPointError, with the task and item, when a log-likelihood is infinite or no number.
    """
    if not 0 <= rank < world_size or (world_size > 1 and gather is None):
        raise ValueError(f"rank {rank} of {world_size} workers, gather={gather}; several workers need a gather")
    check_tasks(settings.tasks)
    with quiet(), own_randomness(), model_files(model_folder) as files:
        tasks = load_tasks(settings.tasks, settings.few_shot)
        lm = load_model(files, settings.batch_size, device)
        max_length = lm.max_length
        rows = [
            row for name, task in tasks.single.items() for row in score_task(lm, name, task, settings, rank, world_size)
        ]
    if gather is not None:
        parts = gather(rows)
        if len(parts) != world_size:
            raise ValueError(f"gather returned {len(parts)} objects from {world_size} workers")
        rows = [row for part in parts for row in part]
    order = {name: index for index, name in enumerate(tasks.single)}
    rows.sort(key=lambda row: (order[row["task"]], row["item"]))
    # Only here, where every rank has all rows: they raise together, and none waits for another that has raised.
    _check_rows(rows, max_length)
    by_task = {name: [row for row in rows if row["task"] == name] for name in tasks.single}
    for task_rows in by_task.values():
        _judge(task_rows)
    pooled = {name: [row for one in members for row in by_task[one]] for name, members in tasks.named.items()}
    items = items_table(rows, tasks.named)
    return EvaluationResult(_all_metrics(by_task, pooled, items), items)


def _check_rows(rows: list[dict[str, Any]], max_length: int) -> None:
    needed: dict[str, list[int]] = {}
    for row in rows:
        if row.get("not_finite"):
            raise FloatingPointError(
                f"task {row['task']!r}, item {row['item']}: the model's log-likelihood is {row['not_finite']}; "
                "its weights are probably not finite either"
            )
        needed.setdefault(row["task"], []).append(row["needed"])
    for task, tokens in needed.items():
        if min(tokens) > max_length:
            raise NothingFits(
                f"task {task!r}: all {len(tokens)} items are longer than the model's context of {max_length} tokens; "
                f"the shortest needs {min(tokens)}, the longest {max(tokens)}"
            )


def _judge(rows: list[dict[str, Any]]) -> None:
    """Sets `correct` from the task's `acc`, else `exact_match`, else its first metric that is 0 or 1 for every item."""
    scored = [row["scores"] for row in rows if not row["too_long"]]
    names = sorted(scored[0], key=lambda name: {"acc": 0, "exact_match": 1}.get(name, 2))
    judge = next((name for name in names if all(scores.get(name) in (0.0, 1.0) for scores in scored)), None)
    for row in rows:
        if judge is None:
            row["chance"] = None
        elif not row["too_long"]:
            row["correct"] = bool(row["scores"][judge])


def _all_metrics(by_task: dict[str, list[dict]], pooled: dict[str, list[dict]], items: pa.Table) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, rows in {**by_task, **pooled}.items():
        metrics |= _task_metrics(name, rows)
    for metric in ("acc", "bpb"):
        intervals = [
            (metrics[f"{name}/{metric}"], metrics[f"{name}/{metric}_low"], metrics[f"{name}/{metric}_high"])
            for name in pooled
            if f"{name}/{metric}" in metrics
        ]
        if intervals:
            # A group and a task of its own may be named beside each other: their scores have items in common.
            together = correlations(samples(items, f"mean/{metric}"))
            metrics |= _with_interval(f"mean/{metric}", mean_of_intervals(intervals, together))
    chances = [metrics[f"{name}/chance"] for name in pooled if f"{name}/chance" in metrics]
    if chances:
        metrics["mean/chance"] = statistics.fmean(chances)
    return metrics


def _task_metrics(name: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    scored = [row for row in rows if not row["too_long"]]
    metrics = {f"{name}/items": float(len(scored)), f"{name}/too_long": float(len(rows) - len(scored))}
    metrics |= _accuracy(f"{name}/acc", scored)
    chances = [row["chance"] for row in scored if row["chance"] is not None]
    if chances:
        metrics[f"{name}/chance"] = statistics.fmean(chances)
    bits = [row["bits_per_byte"] for row in scored if row["bits_per_byte"] is not None]
    if bits:
        metrics |= _with_interval(f"{name}/bpb", mean_interval(bits))
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in scored:
        if part := json.loads(row["attributes"]).get("part"):
            parts.setdefault(part, []).append(row)
    for part, some in sorted(parts.items()):
        metrics |= _accuracy(f"{name}/acc_{part}", some)
        metrics[f"{name}/items_{part}"] = float(len(some))
        metrics[f"{name}/bpb_{part}"] = statistics.fmean(row["bits_per_byte"] for row in some)
    return metrics


def _accuracy(name: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    judged = [row["correct"] for row in rows if row.get("correct") is not None]
    if not judged:
        return {}
    return _with_interval(name, (statistics.fmean(judged), *wilson_interval(sum(judged), len(judged))))


def _with_interval(name: str, interval: Interval) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
