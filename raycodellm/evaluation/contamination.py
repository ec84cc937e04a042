"""Says which evaluated items a model was trained on, by the texts of its stages' sequences (see `corpora.item_runs`).

A stage's findings are kept in its folder, a file per task's texts: stages that trials share are searched once. A model
that starts from pretrained weights has seen other texts too, of which nothing is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from raycodellm import corpora
from raycodellm.corpora import ItemRuns
from raycodellm.files import DamagedFile, Folder, fingerprint
from raycodellm.records import StageJob, from_json

Gather = Callable[[Any], list[Any]]
"""Returns every worker's object on every worker."""


def contaminated_items(
    last_stage: Folder,
    texts: Mapping[str, Sequence[str]],
    rank: int = 0,
    world_size: int = 1,
    gather: Gather = lambda value: [value],
) -> dict[str, list[bool | None]]:
    """For each task, whether each of its items is contaminated; None for an item too short to be looked for.

    `last_stage`: the folder of the stage that left the model. `texts`: task -> text of each item, prompt and right
    answer. A collective. Raises FileNotFoundError where a stage's record or a token store is gone.
    """
    runs = {task: corpora.item_runs(some) for task, some in texts.items()}
    seen = {task: np.zeros(len(of_task.hashes), bool) for task, of_task in runs.items()}
    for folder, job in _stages(last_stage):
        for task, found in _seen_in_stage(folder, job, runs, rank, world_size, gather).items():
            seen[task] |= found
    return {task: runs[task].contaminated(found) for task, found in seen.items()}


def _stages(last: Folder) -> Iterator[tuple[Folder, StageJob]]:
    """The stage of this folder, and those before it."""
    folder: Folder | None = last
    while folder is not None:
        job = from_json(StageJob, folder.read_json("stage.json")["job"], f"{folder}/stage.json")
        yield folder, job
        folder = None if job.parent is None else Folder(job.parent)


def _seen_in_stage(
    folder: Folder, job: StageJob, runs: Mapping[str, ItemRuns], rank: int, world_size: int, gather: Gather
) -> dict[str, np.ndarray]:
    """For each task bool[distinct runs]: True where the stage was trained on the run."""
    from raycodellm import stage  # imports torch, which commands that evaluate nothing do without

    names = {task: f"seen-{fingerprint(of_task.hashes.tobytes().hex())}.parquet" for task, of_task in runs.items()}
    kept = {task: _kept(folder, name, runs[task].hashes) for task, name in names.items()} if rank == 0 else None
    known: dict[str, np.ndarray | None] = gather(kept)[0]  # rank 0 decides for all
    wanted = [task for task, found in known.items() if found is None]
    if wanted:
        every = np.unique(np.concatenate([runs[task].hashes for task in wanted]))
        mine = np.zeros(len(every), bool)
        for some in stage.trained_texts(job, rank, world_size):
            mine |= corpora.seen_in(some, every)
        seen = np.logical_or.reduce(gather(mine))
        for task in wanted:
            known[task] = seen[np.searchsorted(every, runs[task].hashes)]
            if rank == 0:
                _keep(folder, names[task], runs[task].hashes[known[task]])
    return {task: found for task, found in known.items() if found is not None}


def _kept(folder: Folder, name: str, hashes: np.ndarray) -> np.ndarray | None:
    try:
        return np.isin(hashes, folder.read_table(name, {"run": "uint64"})["run"].to_numpy())
    except (FileNotFoundError, DamagedFile):
        return None


def _keep(folder: Folder, name: str, seen: np.ndarray) -> None:
    import pyarrow as pa

    folder.write_table(name, pa.table({"run": pa.array(seen, pa.uint64())}))
