"""Evaluates one model on the tasks of the settings, alone or with other workers.

Differences from `lm_eval.simple_evaluate`, on purpose: an item longer than the model's context is counted and left out
(lm-eval cuts off its beginning and scores the rest); several workers share a task without changing any item's prompt;
log-likelihoods are summed in 32 bits also for a model in 16 bits (in lm-eval: `softmax_dtype=float32`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycodellm.config import Evaluation
from raycodellm.evaluation.engine.language_model import AnswerLM, load_for, model_files
from raycodellm.evaluation.engine.placement import device_or_default
from raycodellm.evaluation.engine.vllm_writer import opened_vllm, python_with_vllm
from raycodellm.evaluation.isolation import own_randomness, quiet
from raycodellm.evaluation.results.composition import EvaluationResult, compose
from raycodellm.evaluation.results.task_results import NoResults, Results, TaskResult
from raycodellm.evaluation.task_scoring import Listener, NothingFits, TaskScorer
from raycodellm.evaluation.tasks.loading import LoadedTasks, check_tasks, load_tasks
from raycodellm.evaluation.tasks.names import Places
from raycodellm.evaluation.tasks.sampling import Sampling
from raycodellm.evaluation.tasks.suites import asked_tasks
from raycodellm.evaluation.tasks.units import asked_units
from raycodellm.evaluation.texts.contamination import NotKnown, contaminated_items
from raycodellm.evaluation.texts.items import texts_of
from raycodellm.evaluation.workers import Workers
from raycodellm.files import Folder
from raycodellm.records import HeldOutSource


class NotWritten(OSError):
    """A task's result could not be written. Raised on all ranks; rank 0's has the storage's error as its cause."""


def evaluate(
    model_folder: Folder | Path | str,
    settings: Evaluation,
    *,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[Any], list[Any]] | None = None,
    device: str | None = "cpu",
    results: Results | None = None,
    last_stage: Folder | None = None,
    held_out: Sequence[HeldOutSource] = (),
    data_commits: Mapping[str, str] | None = None,
    leaves_out_unfit: bool = False,
    on_items: Callable[[int, int], None] = lambda scored, in_all: None,
    say: Callable[[str], None] = lambda line: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> EvaluationResult:
    """Scores a Hugging Face folder (or hub name) on the tasks that the settings ask for.

    With several workers each scores some of the items; `gather(object)` must return every rank's object on every rank.
    All ranks return the result that a single worker would have returned. `device=None` takes CUDA if the machine has
    it. Built-in tasks need no network.

    `results` keeps each task's result: a task that has one is not scored, and one that an earlier attempt has begun is
    continued. `last_stage`: the folder of the stage that left the model, for items that it or a stage before it was
    trained on to be marked. `held_out`: the documents of the sweep's sources whose bits per byte the settings measure.
    `data_commits`: those at which data sets of the hub are read.
    `leaves_out_unfit`: says of which tasks no item fits into the model's context, and goes on with the others; a task
    that is a part of a group takes the group with it.

    `on_items(scored, in_all)` hears how many items of the other tasks all workers have scored, `say` a line about each
    task that is continued or left out. `should_stop` is asked on every rank after each block of items; one saying yes
    stops all.

    Raises UserError for an unknown task or model, and where there is no vLLM for `backend: vllm`, `WritersDisagree`
    where its answers are not this package's, NothingFits when no item of a task, or of any task, fits into the
    model's context, FloatingPointError, with the task and item, when a log-likelihood is infinite or no number,
    `Stopped` when told to stop, `NotRead` and `NotWritten`.
    """
    workers, kept_results = Workers(rank, world_size, gather), results or NoResults()
    places = Places.of(settings, held_out, data_commits)
    check_tasks(asked_tasks(settings), places)
    tasks_by_name = asked_units(settings)
    all_tasks = list(dict.fromkeys(task for members in tasks_by_name.values() for task in members))
    # Rank 0 decides for all: ranks that saw different files would wait for each other.
    task_results = kept_results.read(all_tasks) if rank == 0 else {}
    missing = workers.first([task for task in all_tasks if task not in task_results])
    if missing:
        listener = Listener(on_items, say, should_stop)
        searched_stage = last_stage if settings.contamination else None
        with _scorer(model_folder, settings, missing, places, workers, listener, device, searched_stage) as scorer:
            for task in missing:
                try:
                    task_results[task] = _score_and_keep(scorer, task, workers, kept_results)
                except NothingFits as error:  # raised on all ranks together
                    tasks_by_name = {name: tasks for name, tasks in tasks_by_name.items() if task not in tasks}
                    if not leaves_out_unfit or not tasks_by_name:
                        raise
                    say(f"{error}; left out")
    return workers.first(compose(settings, tasks_by_name, task_results) if rank == 0 else EvaluationResult())


@contextmanager
def _scorer(
    model_folder: Folder | Path | str,
    settings: Evaluation,
    tasks: Sequence[str],
    places: Places,
    workers: Workers,
    listener: Listener,
    device: str | None,
    last_stage: Folder | None,
) -> Iterator[TaskScorer]:
    """Loads the model and all tasks; yields what scores them."""
    if settings.backend == "vllm":
        python_with_vllm(device_or_default(device))  # refuses before anything is loaded
    with quiet(), own_randomness(), model_files(model_folder) as files:
        loaded = load_tasks(tuple(tasks), settings.few_shot, places, Sampling.of(settings))
        lm = load_for(files, settings.batch_size, device, workers)
        contaminated = _contaminated(last_stage, loaded, settings.limit, workers, listener)
        with _writer_of(lm, files, settings):
            yield TaskScorer(lm, loaded, settings, workers, listener, contaminated)


@contextmanager
def _writer_of(lm: AnswerLM | None, files: str, settings: Evaluation) -> Iterator[None]:
    """Until the `with` ends, the engine that the settings name writes the answers."""
    if settings.backend == "transformers" or lm is None:
        yield
    else:
        with opened_vllm(files, lm) as lm.writer:
            yield


def _contaminated(
    last_stage: Folder | None, tasks: LoadedTasks, limit: int | None, workers: Workers, listener: Listener
) -> dict[str, list[bool | None]]:
    """Maps each task to whether each of its items is contaminated; empty without a `last_stage`, and where the training
    texts can no longer be read."""
    if last_stage is None:
        return {}
    texts = {name: texts_of(task, limit) for name, task in tasks.single.items()}
    num_items = sum(map(len, texts.values()))

    def should_stop() -> bool:
        # The answer to a report is how a slot hears of a stop, and the search may take minutes.
        listener.on_items(0, num_items)
        return listener.should_stop()

    try:
        return contaminated_items(last_stage, texts, workers, should_stop)
    except NotKnown as error:
        listener.say(f"which items the model was trained on is not known: {error}")
        return {}


def _score_and_keep(scorer: TaskScorer, task: str, workers: Workers, kept_results: Results) -> TaskResult:
    """Scores a task, from where an earlier attempt left it, and keeps its result."""
    partial = kept_results.partial(task, workers.size)
    result = scorer.score(task, partial)
    error: OSError | None = None
    if workers.rank == 0:
        try:
            kept_results.write(task, result)
            if partial is not None:
                partial.delete()
        except OSError as caught:
            error = caught
    if (problem := workers.first(None if error is None else str(error))) is not None:
        raise NotWritten(problem) from error
    return result
