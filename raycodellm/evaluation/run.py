"""Evaluates one model on the tasks of the settings, alone or with other workers.

Differences from `lm_eval.simple_evaluate`, on purpose: an item longer than the model's context is counted and left out
(lm-eval cuts off its beginning and scores the rest); several workers share a task without changing any item's prompt;
log-likelihoods are summed in 32 bits also for a model in 16 bits (in lm-eval: `softmax_dtype=float32`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycodellm.config import Evaluation
from raycodellm.evaluation.isolation import own_randomness, quiet
from raycodellm.evaluation.items_table import items_table, samples
from raycodellm.evaluation.language_model import load_model, model_files
from raycodellm.evaluation.metrics import mean_metrics, task_metrics
from raycodellm.evaluation.scoring import ScoredItem, instances_by_item, judge, score_task
from raycodellm.evaluation.suites import asked_tasks
from raycodellm.evaluation.task_loading import check_tasks, load_tasks
from raycodellm.evaluation.task_names import Places
from raycodellm.files import Folder


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics of a model, and its items."""

    metrics: dict[str, float]
    """`<task>/acc`, `/acc_low`, `/acc_high`, `/bpb`, `/bpb_low`, `/bpb_high`, `/chance`, `/items` (scored), `/too_long`
    (left out); for each part of a task `/acc_<part>` with its interval, `/bpb_<part>`, `/items_<part>`; and `mean/acc`,
    `mean/bpb`, `mean/chance`, unweighted means over the named tasks, in which a group counts as one task of all its
    members' items. A task without right and wrong answers has no `acc`."""
    items: pa.Table
    """One row per item, in the order of the tasks and of their items; see `items_table.ITEMS_SCHEMA`."""


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
    on_items: Callable[[int, int], None] = lambda scored, in_all: None,
) -> EvaluationResult:
    """Scores a Hugging Face folder (or hub name) on the tasks that the settings ask for.

    With several workers each scores some of the items; `gather(object)` must return every rank's object on every rank.
    All ranks return the result that a single worker would have returned. `device=None` takes CUDA if the machine has
    it. Built-in tasks need no network. `on_items(scored, in_all)` hears how many of all workers' items are scored.

    Raises UserError for an unknown task or model, NothingFits when no item of a task fits into the model's context, and
    FloatingPointError, with the task and item, when a log-likelihood is infinite or no number.
    """
    if not 0 <= rank < world_size or (world_size > 1 and gather is None):
        raise ValueError(f"rank {rank} of {world_size} workers, gather={gather}; several workers need a gather")
    asked, places = asked_tasks(settings), Places.of(settings)
    check_tasks(asked, places)
    with quiet(), own_randomness(), model_files(model_folder) as files:
        tasks = load_tasks(asked, settings.few_shot, places)
        lm = load_model(files, settings.batch_size, device)
        max_length = lm.max_length
        items_of = {name: instances_by_item(task, settings.limit) for name, task in tasks.single.items()}
        counter = _Counter(sum(map(len, items_of.values())), on_items)
        rows: list[ScoredItem] = []

        def on_block(block: int | None, scored: list[ScoredItem]) -> None:
            rows.extend(scored)
            counter.add(world_size * len(scored))  # if the other workers are as fast as this one

        for name, task in tasks.single.items():
            score_task(lm, name, task, items_of[name], settings, rank, world_size, on_block=on_block)
    if gather is not None:
        parts = gather(rows)
        if len(parts) != world_size:
            raise ValueError(f"gather returned {len(parts)} objects from {world_size} workers")
        rows = [row for part in parts for row in part]
    order = {name: index for index, name in enumerate(tasks.single)}
    rows.sort(key=lambda row: (order[row["task"]], row["item"]))
    # Every rank has all rows here, so that all ranks raise together and none waits for a rank that has raised.
    _require_fitting_and_finite(rows, max_length)
    by_task = {name: [row for row in rows if row["task"] == name] for name in tasks.single}
    for task_rows in by_task.values():
        judge(task_rows)
    by_group = {name: [row for one in members for row in by_task[one]] for name, members in tasks.named.items()}
    items = items_table(rows, tasks.named)
    metrics: dict[str, float] = {}
    for name, some in {**by_task, **by_group}.items():
        metrics |= task_metrics(name, some)
    metrics |= mean_metrics(by_group, metrics, partial(samples, items))
    return EvaluationResult(metrics, items)


class _Counter:
    """Counts scored items, and tells how many there are of all."""

    def __init__(self, in_all: int, tell: Callable[[int, int], None]) -> None:
        self._scored, self._in_all, self._tell = 0, in_all, tell
        tell(0, in_all)

    def add(self, scored: int) -> None:
        self._scored = min(self._in_all, self._scored + scored)
        self._tell(self._scored, self._in_all)


def _require_fitting_and_finite(rows: Sequence[ScoredItem], max_length: int) -> None:
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
