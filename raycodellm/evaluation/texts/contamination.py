"""Says which evaluated items a model was trained on, by the texts of its stages' sequences (see `corpora.item_runs`).

A stage's findings are kept in its folder, a file per task's texts: stages that trials share are searched once. A model
that starts from pretrained weights has seen other texts too, of which nothing is known here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from raycodellm import corpora, retrying
from raycodellm.config import UserError
from raycodellm.corpora import ItemRuns
from raycodellm.evaluation.workers import ONE_WORKER, Stopped, Workers
from raycodellm.files import DamagedFile, Folder, cause, fingerprint
from raycodellm.records import StageJob, from_json
from raycodellm.tokens import StoreError

T = TypeVar("T")

_KEEP_SECONDS = 20.0
"""Search that a killed worker may lose."""
_NUM_LISTS = b"lists"
"""Key of a table's metadata: lists of texts that were searched."""


class NotKnown(Exception):
    """The texts that a model was trained on can no longer be read."""


class NotRead(OSError):
    """The storage of the texts that a model was trained on does not answer now, and may do so later. Raised on all
    ranks; has the storage's error as its cause on each rank that saw one."""


def contaminated_items(
    last_stage: Folder,
    texts: Mapping[str, Sequence[str]],
    workers: Workers = ONE_WORKER,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, list[bool | None]]:
    """For each task, whether each of its items is contaminated; None for an item too short to be looked for.

    `last_stage`: the folder of the stage that left the model. `texts`: task -> text of each item, prompt and right
    answer. A collective. Raises NotKnown on all ranks where a stage's record or a token store is gone or damaged,
    NotRead, and `Stopped` when `should_stop`, which is asked on every rank, ends the search on one.
    """
    runs = {task: corpora.item_runs(item_texts) for task, item_texts in texts.items()}
    seen = {task: np.zeros(len(task_runs.hashes), bool) for task, task_runs in runs.items()}
    for folder, job in _stages(last_stage, workers):
        for task, seen_in_stage in _seen_in_stage(folder, job, runs, workers, should_stop).items():
            seen[task] |= seen_in_stage
    return {task: runs[task].contaminated(task_seen) for task, task_seen in seen.items()}


def stage_of(model: str) -> Folder | None:
    """The folder of the stage that left the model; None for a model from elsewhere."""
    folder = Folder(model).parent
    return folder if Path(model).is_dir() and folder.exists("stage.json") else None


def _stages(last: Folder, workers: Workers) -> Iterator[tuple[Folder, StageJob]]:
    """The stage in the folder `last`, and the stages before it, the last one first."""
    folder: Folder | None = last
    while folder is not None:
        job = _read_on_all_ranks(partial(_job_of, folder), workers)[0]
        yield folder, job
        folder = None if job.parent is None else Folder(job.parent)


def _job_of(folder: Folder) -> StageJob:
    file = f"{folder}/stage.json"
    document = folder.read_json("stage.json")
    return from_json(StageJob, document.get("job") if isinstance(document, dict) else None, file)


def _read_on_all_ranks(read: Callable[[], T], workers: Workers) -> list[T]:
    """The value of each worker's `read`. Raises NotKnown, NotRead or Stopped on all ranks if one has reason to."""
    is_stopped = False
    failure: Exception | None = None
    try:
        value_and_fault: tuple[T | None, str] = (read(), "")
    except Stopped:
        value_and_fault, is_stopped = (None, ""), True
    except (OSError, DamagedFile, StoreError, UserError) as error:
        value_and_fault, failure = (None, cause(error)), error
    passing_cause = retrying.passing_cause(failure) if failure is not None else None
    outcomes, stops, passing_causes = zip(*workers.all((value_and_fault, is_stopped, passing_cause)), strict=True)
    if any(stops):
        raise Stopped
    if passing_cause := next((reason for reason in passing_causes if reason is not None), None):
        raise NotRead(f"the texts that the model was trained on cannot be read now: {passing_cause}") from failure
    fault = next((fault for _, fault in outcomes if fault), None)
    if fault is not None:
        raise NotKnown(fault)
    return [value for value, _ in outcomes]  # each worker that has no fault has a value


def _seen_in_stage(
    folder: Folder, job: StageJob, runs: Mapping[str, ItemRuns], workers: Workers, should_stop: Callable[[], bool]
) -> dict[str, np.ndarray]:
    """Maps each task to bool[distinct runs]: True where the stage was trained on the run."""
    names = {task: f"seen-{fingerprint(task_runs.hashes.tobytes().hex())}.parquet" for task, task_runs in runs.items()}
    is_first = workers.rank == 0
    on_disk = {task: _read_seen(folder, name, runs[task].hashes) if is_first else None for task, name in names.items()}
    seen_by_task = workers.first(on_disk)  # rank 0 decides for all
    unsearched = [task for task, seen in seen_by_task.items() if seen is None]
    if unsearched:
        hashes = np.unique(np.concatenate([runs[task].hashes for task in unsearched]))
        progress = _SearchProgress(folder / f"searching-{fingerprint(hashes.tobytes().hex())}", workers, hashes)
        shares = _read_on_all_ranks(partial(_search, job, progress, should_stop), workers)
        is_seen = np.logical_or.reduce([seen for seen, _ in shares])
        for task in unsearched:
            seen_by_task[task] = task_seen = is_seen[np.searchsorted(hashes, runs[task].hashes)]
            if is_first:
                _write_seen(folder, names[task], runs[task].hashes[task_seen])
        if is_first and any(is_kept for _, is_kept in shares):
            progress.forget()
    return {task: seen for task, seen in seen_by_task.items() if seen is not None}


class _SearchProgress:
    """A file that says how far a worker has come with its share of a stage's texts: a killed search goes on there."""

    def __init__(self, folder: Folder, workers: Workers, hashes: np.ndarray) -> None:
        """`hashes`: of the runs to look for."""
        self._folder, self._workers, self.hashes = folder, workers, hashes
        self._name = f"{workers.rank}-of-{workers.size}.parquet"
        self._kept_at = time.monotonic()
        self.is_kept = False
        """True if the file exists. The last step of a search deletes it."""

    @property
    def share(self) -> tuple[int, int]:
        return self._workers.rank, self._workers.size

    def read(self) -> tuple[np.ndarray, int]:
        """(bool[len(hashes)]: True for each run that was found; lists of texts that were searched)"""
        try:
            table = self._folder.read_table(self._name, {"run": "uint64"})
            num_lists = int((table.schema.metadata or {}).get(_NUM_LISTS, 0))
        except (FileNotFoundError, DamagedFile, ValueError):
            return np.zeros(len(self.hashes), bool), 0
        self.is_kept = True
        return np.isin(self.hashes, table["run"].to_numpy()), num_lists

    def keep(self, seen: np.ndarray, num_lists: int, *, now: bool = False) -> None:
        """Writes the runs that were found in the first `num_lists` lists of texts; about every `_KEEP_SECONDS`, or
        `now`."""
        import pyarrow as pa

        if now or time.monotonic() - self._kept_at >= _KEEP_SECONDS:
            self._kept_at, self.is_kept = time.monotonic(), True
            table = pa.table({"run": pa.array(self.hashes[seen], pa.uint64())})
            with contextlib.suppress(OSError):  # without the file a killed search begins again
                self._folder.write_table(self._name, table.replace_schema_metadata({_NUM_LISTS: str(num_lists)}))

    def forget(self) -> None:
        """Deletes the files of all workers."""
        with contextlib.suppress(OSError):
            self._folder.delete()


def _search(job: StageJob, progress: _SearchProgress, should_stop: Callable[[], bool]) -> tuple[np.ndarray, bool]:
    """(bool[len(hashes)]: True for each run that stands in this worker's share of the stage's texts; whether a file
    says how far the search was). Goes on where an earlier search by as many workers was stopped or killed."""
    from raycodellm import stage  # imports torch, which commands that evaluate nothing do without

    seen, num_lists = progress.read()
    for texts in stage.trained_texts(job, *progress.share, skip=num_lists):
        seen |= corpora.seen_in(texts, progress.hashes)
        num_lists += 1
        if should_stop():
            progress.keep(seen, num_lists, now=True)
            raise Stopped
        progress.keep(seen, num_lists)
    return seen, progress.is_kept


def _read_seen(folder: Folder, name: str, hashes: np.ndarray) -> np.ndarray | None:
    try:
        return np.isin(hashes, folder.read_table(name, {"run": "uint64"})["run"].to_numpy())
    except (FileNotFoundError, DamagedFile):
        return None


def _write_seen(folder: Folder, name: str, seen: np.ndarray) -> None:
    import pyarrow as pa

    with contextlib.suppress(OSError):  # without the file the stage is searched once more for the next evaluation
        folder.write_table(name, pa.table({"run": pa.array(seen, pa.uint64())}))
