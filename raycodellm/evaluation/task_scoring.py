"""The scoring of one task after the other with a loaded model, each from where an earlier attempt left it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raycodellm.config import Evaluation
from raycodellm.evaluation.engine.agreement import WritersDisagree, problem
from raycodellm.evaluation.results.partial_rows import PartialRows
from raycodellm.evaluation.results.task_results import TaskResult
from raycodellm.evaluation.scores.corpus_metrics import corpus_metrics
from raycodellm.evaluation.scores.items_table import items_table
from raycodellm.evaluation.scores.metrics import task_metrics
from raycodellm.evaluation.scoring import (
    ScoredItem,
    blocks,
    instances_by_item,
    judge,
    score_task,
    writing_requests,
)
from raycodellm.evaluation.workers import Stopped, Workers

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

    from raycodellm.evaluation.engine.language_model import AnswerLM
    from raycodellm.evaluation.tasks.loading import LoadedTasks


class NothingFits(RuntimeError):
    """No item of a task fits into the model's context."""


@dataclass(frozen=True)
class Listener:
    """The caller's functions that an evaluation calls while it scores."""

    on_items: Callable[[int, int], None]
    """Hears how many items all workers have scored, and of how many."""
    say: Callable[[str], None]
    """Hears a line about a task that is continued."""
    should_stop: Callable[[], bool]
    """Asked after each block of items."""


class TaskScorer:
    """A model that scores tasks. Every worker of the group has one, and calls it for the same tasks."""

    def __init__(
        self,
        lm: AnswerLM | None,
        tasks: LoadedTasks,
        settings: Evaluation,
        workers: Workers,
        listener: Listener,
        contaminated: Mapping[str, Sequence[bool | None]] | None = None,
    ) -> None:
        """`lm`: None on all workers but the first where that one holds the model for all. `contaminated`: for each
        task, by its own name, whether each of its items is; a task may be missing."""
        self._lm, self._tasks, self._settings = lm, tasks, settings
        self._contaminated = contaminated or {}
        self._workers, self._listener = workers, listener
        context_lengths = workers.all(None if lm is None else lm.max_length)
        self._max_length = context_lengths[0] or 0
        self._num_models = sum(length is not None for length in context_lengths)
        self._items = {
            name: {member: instances_by_item(task, settings.limit) for member, task in members.items()}
            for name, members in tasks.by_name.items()
        }
        """The requests of each item of each of the tasks' members."""
        self._num_items = sum(len(items) for members in self._items.values() for items in members.values())
        self._num_scored = 0
        self._task_began = time.monotonic()
        self._listener.on_items(0, self._num_items)

    def score(self, name: str, partial: PartialRows | None) -> TaskResult:
        """Scores a task, or the members of a group that is kept as one, and returns the same on all ranks.

        `partial`: this worker's place for the rows that it scores. Raises as `evaluate` does.
        """
        members = tuple(self._tasks.by_name[name])
        rows_by_block, seconds = self._rows_of_earlier_attempts(name, partial)
        done_keys = self._workers.first([*rows_by_block])
        own_rows = [row for block_rows in rows_by_block.values() for row in block_rows]
        try:
            for member in members:
                done_numbers = {number for task, number in done_keys if task == member}
                own_rows += self._score_member(name, member, done_numbers, partial)
        except BaseException:  # Ctrl-C and a stop among them
            if partial is not None:
                partial.flush()
            raise
        all_rows = [row for worker_rows in self._workers.all(own_rows) for row in worker_rows]
        order = {member: index for index, member in enumerate(members)}
        all_rows.sort(key=lambda row: (order[row["task"]], row["item"]))
        # Every rank has all rows here, so that all ranks raise together and none waits for a rank that has raised.
        require_fitting_and_finite(all_rows, self._max_length)
        metrics: dict[str, float] = {}
        for member in members:
            member_rows = [row for row in all_rows if row["task"] == member]
            if member in self._contaminated:
                for row in member_rows:
                    row["contaminated"] = self._contaminated[member][row["item"]]
            judge(member_rows)
            metrics |= task_metrics(member, member_rows)
            metrics |= corpus_metrics(member, self._tasks.by_name[name][member].aggregation(), member_rows)
        now = time.monotonic()
        seconds, self._task_began = seconds + now - self._task_began, now
        return TaskResult(items_table(all_rows, {name: members}), metrics, members, seconds)

    def _rows_of_earlier_attempts(
        self, name: str, partial: PartialRows | None
    ) -> tuple[dict[tuple[str, int], list[ScoredItem]], float]:
        """(rows of each block that earlier attempts scored, the seconds that these took); empty on all ranks but 0."""
        if partial is None:
            return {}, 0.0
        partial.restart_interval()
        if self._workers.rank != 0:
            return {}, 0.0
        earlier = partial.read()
        expected_items = {
            (member, block_number): [instances[0].doc_id for instances in block]
            for member, items in self._items[name].items()
            for block_number, block in enumerate(blocks(items, self._settings))
        }
        rows_by_block = {
            block_key: block_rows
            for block_key, block_rows in earlier.blocks.items()
            if [row["item"] for row in block_rows] == expected_items.get(block_key)
            and not any(row.get("not_run") for row in block_rows)  # a program that was not run may run now
        }
        if rows_by_block or earlier.num_damaged:
            damage = f"; the items of {earlier.num_damaged} damaged files are scored again"
            damage_note = damage if earlier.num_damaged else ""
            num_items = sum(map(len, self._items[name].values()))
            num_kept = sum(map(len, rows_by_block.values()))
            self._listener.say(f"{name}: continues after {num_kept} of {num_items} items{damage_note}")
        return rows_by_block, earlier.seconds

    def _score_member(
        self, name: str, member: str, done_blocks: set[int], partial: PartialRows | None
    ) -> list[ScoredItem]:
        """This worker's rows of a task or member, without the rows of the blocks in `done_blocks`."""
        rows: list[ScoredItem] = []
        items = self._items[name][member]
        self._check_writer(member, self._tasks.by_name[name][member], items)
        item_blocks = blocks(items, self._settings)
        self._count(sum(len(block) for number, block in enumerate(item_blocks) if number in done_blocks))

        def on_block(block: int | None, scored: list[ScoredItem]) -> None:
            rows.extend(scored)
            if partial is not None and block is not None:
                partial.add((member, block), scored)
            reports = self._workers.all((len(scored), self._listener.should_stop()))
            self._count(sum(num_scored for num_scored, _ in reports))
            if any(stops for _, stops in reports):
                raise Stopped

        score_task(
            self._lm,
            member,
            self._tasks.by_name[name][member],
            items,
            self._settings,
            self._workers.rank,
            self._num_models,
            on_block=on_block,
            done_blocks=done_blocks,
        )
        return rows

    def _check_writer(self, name: str, task: Task, items: Sequence[list[Instance]]) -> None:
        """Raises WritersDisagree on all ranks where one worker's other engine writes other answers than this package's
        own engine."""
        if self._settings.backend == "transformers" or not (requests := writing_requests(task, items)):
            return
        fault = ""
        if self._lm is not None and self._lm.writer is not None:
            fault = problem(self._lm, self._lm.writer, name, requests)
        if first_fault := next(filter(None, self._workers.all(fault)), None):
            raise WritersDisagree(first_fault)

    def _count(self, num_items: int) -> None:
        """Adds items that some worker has scored, and tells the listener."""
        if num_items:
            self._num_scored += num_items
            self._listener.on_items(self._num_scored, self._num_items)


def require_fitting_and_finite(rows: Sequence[ScoredItem], max_length: int) -> None:
    """Raises FloatingPointError for a log-likelihood that is not finite, and NothingFits for a task of which no item
    fits into a context of `max_length` tokens."""
    needed_tokens: dict[str, list[int]] = {}
    for row in rows:
        if row.get("not_finite"):
            raise FloatingPointError(
                f"task {row['task']!r}, item {row['item']}: the model's log-likelihood is {row['not_finite']}; "
                "its weights are probably not finite either"
            )
        needed_tokens.setdefault(row["task"], []).append(row["needed"])
    for task, tokens in needed_tokens.items():
        if min(tokens) > max_length:
            raise NothingFits(
                f"task {task!r}: all {len(tokens)} items are longer than the model's context of {max_length} tokens; "
                f"the shortest needs {min(tokens)}, the longest {max(tokens)}"
            )
