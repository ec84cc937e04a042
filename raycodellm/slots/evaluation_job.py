"""An evaluation job, done by all workers of a slot together."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from raycodellm import engine, evaluation, finished, model
from raycodellm.engine import StorageError, World
from raycodellm.files import Folder
from raycodellm.records import EvaluationJob, Progress

_REPORT_SECONDS = 1.0
"""Between two reports of how many items are scored."""


def run_evaluation(
    job: EvaluationJob, world: World, on_progress: Callable[[Progress], None] = lambda progress: None
) -> dict[str, float]:
    """Evaluates the job's model; writes `items.parquet` and, last, `metrics.json` into its folder. A collective.

    Rank 0 decides for all whether the evaluation is finished already: ranks that saw different files would wait for
    each other. Rank 0 tells `on_progress` about once a second how many items are scored. Returns the metrics, with the
    evaluation's wall `seconds` among them. Raises StorageError on all ranks when the results cannot be written.
    """
    folder = Folder(job.folder)
    done = engine.gather(world, finished.finished_evaluation(folder) if world.rank == 0 else None)[0]
    if done is not None:
        return done
    began = time.monotonic()
    on_items = _reporter(job.key, on_progress) if world.rank == 0 else lambda scored, in_all: None
    with Folder(job.model).as_local() as model_files:
        model.require_undamaged(model_files, Folder(job.model))
        result = evaluation.evaluate(
            model_files,
            job.evaluation,
            rank=world.rank,
            world_size=world.world_size,
            gather=partial(engine.gather, world) if world.world_size > 1 else None,
            device=world.device,
            last_stage=Folder(job.model).parent,
            held_out=job.held_out,
            on_items=on_items,
        )
    metrics = {**result.metrics, "seconds": time.monotonic() - began}
    error: OSError | None = None
    if world.rank == 0:
        try:
            folder.write_table("items.parquet", result.items)
            folder.write_json("metrics.json", metrics)
        except OSError as caught:
            error = caught
    problem = engine.gather(world, None if error is None else str(error))[0]
    if problem is not None:
        raise StorageError(f"the evaluation's results could not be written into {folder}: {problem}") from error
    return metrics


def _reporter(key: str, on_progress: Callable[[Progress], None]) -> Callable[[int, int], None]:
    """Tells `on_progress` how many items are scored: the first and the last time, and about once a second between."""
    told_at = -_REPORT_SECONDS

    def on_items(scored: int, in_all: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _REPORT_SECONDS or scored == in_all:
            told_at = time.monotonic()
            on_progress(Progress(key, note="evaluating", items=scored, num_items=in_all))

    return on_items
