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
    """The outside of an evaluation."""

    on_items: Callable[[int, int], None]
    """Hears how many items all workers have scored, and of how many."""
    say: Callable[[str], None]
    """Hears a line about what is continued."""
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
        models = workers.all(None if lm is None else lm.max_length)
        self._max_length = models[0] or 0
        self._num_models = sum(length is not None for length in models)
        self._items = {
            name: {member: instances_by_item(one, settings.limit) for member, one in of_name.items()}
            for name, of_name in tasks.of.items()
        }
        """The requests of each item of each of the tasks' members."""
        self._num_items = sum(len(items) for of_name in self._items.values() for items in of_name.values())
        self._num_scored = 0
        self._task_began = time.monotonic()
        self._listener.on_items(0, self._num_items)

    def score(self, name: str, partial: PartialRows | None) -> TaskResult:
        """Scores a task, or the members of a group that is kept as one, and returns the same on all ranks.

        `partial`: this worker's place for the rows that it scores. Raises as `evaluate` does.
        """
        members = tuple(self._tasks.of[name])
        rows, seconds = self._continued(name, partial)
        done = self._workers.first([(row_task, block) for row_task, block in rows])
        mine = [row for some in rows.values() for row in some]
        try:
            for member in members:
                skipped = {block for task, block in done if task == member}
                mine += self._score_member(name, member, skipped, partial)
        except BaseException:  # Ctrl-C and a stop among them
            if partial is not None:
                partial.flush()
            raise
        gathered = [row for part in self._workers.all(mine) for row in part]
        order = {member: index for index, member in enumerate(members)}
        gathered.sort(key=lambda row: (order[row["task"]], row["item"]))
        # Every rank has all rows here, so that all ranks raise together and none waits for a rank that has raised.
        require_fitting_and_finite(gathered, self._max_length)
        metrics: dict[str, float] = {}
        for member in members:
            own = [row for row in gathered if row["task"] == member]
            if member in self._contaminated:
                for row in own:
                    row["contaminated"] = self._contaminated[member][row["item"]]
            judge(own)
            metrics |= task_metrics(member, own)
            metrics |= corpus_metrics(member, self._tasks.of[name][member].aggregation(), own)
        now = time.monotonic()
        seconds, self._task_began = seconds + now - self._task_began, now
        return TaskResult(items_table(gathered, {name: members}), metrics, members, seconds)

    def _continued(
        self, name: str, partial: PartialRows | None
    ) -> tuple[dict[tuple[str, int], list[ScoredItem]], float]:
        """On rank 0 the rows of the blocks that earlier attempts scored, and the seconds that this took."""
        if partial is None:
            return {}, 0.0
        partial.restart_interval()
        if self._workers.rank != 0:
            return {}, 0.0
        found = partial.read()
        expected = {
            (member, number): [one[0].doc_id for one in block]
            for member, items in self._items[name].items()
            for number, block in enumerate(blocks(items, self._settings))
        }
        rows = {
            key: some
            for key, some in found.blocks.items()
            # What was not run may run now.
            if [row["item"] for row in some] == expected.get(key) and not any(row.get("not_run") for row in some)
        }
        if rows or found.num_damaged:
            again = f"; the items of {found.num_damaged} damaged files are scored again" if found.num_damaged else ""
            in_all = sum(map(len, self._items[name].values()))
            self._listener.say(f"{name}: continues after {sum(map(len, rows.values()))} of {in_all} items{again}")
        return rows, found.seconds

    def _score_member(self, name: str, member: str, done: set[int], partial: PartialRows | None) -> list[ScoredItem]:
        """This worker's rows of a task or member, without those of the blocks in `done`."""
        rows: list[ScoredItem] = []
        items = self._items[name][member]
        self._check_writer(member, self._tasks.of[name][member], items)
        in_blocks = blocks(items, self._settings)
        self._count(sum(len(block) for number, block in enumerate(in_blocks) if number in done))

        def on_block(block: int | None, scored: list[ScoredItem]) -> None:
            rows.extend(scored)
            if partial is not None and block is not None:
                partial.add((member, block), scored)
            told = self._workers.all((len(scored), self._listener.should_stop()))
            self._count(sum(number for number, _ in told))
            if any(stop for _, stop in told):
                raise Stopped

        score_task(
            self._lm,
            member,
            self._tasks.of[name][member],
            items,
            self._settings,
            self._workers.rank,
            self._num_models,
            on_block=on_block,
            done=done,
        )
        return rows

    def _check_writer(self, name: str, task: Task, items: Sequence[list[Instance]]) -> None:
        """Raises WritersDisagree on all ranks where what writes the answers of one does not write what ours does."""
        if self._settings.backend == "transformers" or not (requests := writing_requests(task, items)):
            return
        told = ""
        if self._lm is not None and self._lm.writer is not None:
            told = problem(self._lm, self._lm.writer, name, requests)
        if why := next(filter(None, self._workers.all(told)), None):
            raise WritersDisagree(why)

    def _count(self, scored: int) -> None:
        if scored:
            self._num_scored += scored
            self._listener.on_items(self._num_scored, self._num_items)


def require_fitting_and_finite(rows: Sequence[ScoredItem], max_length: int) -> None:
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
