"""An evaluation job, done by all workers of a slot together."""

from __future__ import annotations

import time
from functools import partial

from raycodellm import engine, evaluation, finished, model
from raycodellm.engine import StorageError, World
from raycodellm.files import Folder
from raycodellm.records import EvaluationJob


def run_evaluation(job: EvaluationJob, world: World) -> dict[str, float]:
    """Evaluates the job's model; writes `items.parquet` and, last, `metrics.json` into its folder. A collective.

    Rank 0 decides for all whether the evaluation is finished already: ranks that saw different files would wait for
    each other. Returns the metrics, with the evaluation's wall `seconds` among them. Raises StorageError on all ranks
    when the results cannot be written.
    """
    folder = Folder(job.folder)
    done = engine.gather(world, finished.finished_evaluation(folder) if world.rank == 0 else None)[0]
    if done is not None:
        return done
    began = time.monotonic()
    with Folder(job.model).as_local() as model_files:
        model.require_undamaged(model_files, Folder(job.model))
        result = evaluation.evaluate(
            model_files,
            job.evaluation,
            rank=world.rank,
            world_size=world.world_size,
            gather=partial(engine.gather, world) if world.world_size > 1 else None,
            device=world.device,
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
