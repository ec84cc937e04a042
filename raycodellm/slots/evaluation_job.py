"""An evaluation job, done by all workers of a slot together."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from raycodellm import engine, evaluation, model
from raycodellm.engine import StorageError, World
from raycodellm.files import Folder
from raycodellm.records import EVALUATING, EvaluationJob, Progress
from raycodellm.stage_store import evaluation_outcome, finished_outcome

_REPORT_SECONDS = 1.0
"""Between two reports of how many items are scored."""


def run_evaluation(
    job: EvaluationJob,
    world: World,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Evaluates the job's model on those of the job's tasks that have no result; keeps each task's result in the job's
    folder. A collective. Returns the metrics; None when told to stop, with the scored items kept.

    A task in work is continued from the items that are kept. Rank 0 decides for all which tasks have a result, and
    tells `on_progress` about once a second how many items are scored. `should_stop` is asked on every rank after each
    block of items; one saying yes stops all. Raises StorageError on all ranks when a result cannot be written,
    or the texts that the model was trained on cannot be read for now.
    """
    finished_metrics = engine.gather(world, finished_outcome(job) if world.rank == 0 else None)[0]
    if finished_metrics is not None:
        return finished_metrics
    reporter = _Reporter(job.key, on_progress if world.rank == 0 else lambda progress: None)
    try:
        with evaluation.model_files(job.model) as model_files:
            if job.parent:
                model.require_undamaged(Path(model_files), Folder(job.model))
            result = evaluation.evaluate(
                model_files,
                job.evaluation,
                rank=world.rank,
                world_size=world.world_size,
                gather=partial(engine.gather, world) if world.world_size > 1 else None,
                device=world.device,
                last_stage=Folder(job.model).parent if job.parent else None,
                held_out=job.held_out,
                data_commits=job.data_commits,
                results=evaluation.KeptResults(Folder(job.folder), job.keys),
                on_items=reporter.on_items,
                say=reporter.say,
                should_stop=should_stop,
            )
    except evaluation.Stopped:
        return None
    except evaluation.NotWritten as error:
        raise StorageError(f"an evaluation's result could not be written into {job.folder}: {error}") from (
            error.__cause__ or error
        )
    except evaluation.NotRead as error:
        raise StorageError(str(error)) from (error.__cause__ or error)
    return evaluation_outcome(result)


class _Reporter:
    """Tells how many items are scored: the first and the last time, and about once a second between."""

    def __init__(self, key: str, on_progress: Callable[[Progress], None]) -> None:
        self._key, self._on_progress = key, on_progress
        self._reported_at = -_REPORT_SECONDS
        self._items = (0, 0)

    def on_items(self, num_scored: int, num_items: int) -> None:
        self._items = (num_scored, num_items)
        if time.monotonic() - self._reported_at >= _REPORT_SECONDS or num_scored == num_items:
            self._reported_at = time.monotonic()
            self._on_progress(Progress(self._key, note=EVALUATING, items=num_scored, num_items=num_items))

    def say(self, line: str) -> None:
        """Tells a line about what is continued."""
        num_scored, num_items = self._items
        self._on_progress(Progress(self._key, note=line, items=num_scored, num_items=num_items))
