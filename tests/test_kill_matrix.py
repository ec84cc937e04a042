"""A stage killed at any point, once or twice, ends with the order, the ledger and the weights of an undisturbed one.

Each case trains one tiny stage of eight steps, with a checkpoint every three, in processes that end themselves with
SIGKILL at a chosen point, and then once more to the end. The same with Ray and whole sweeps: `test_runs.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from kill_points import KILLED, WROTE_NOT, Kill, train, train_in_one_process
from test_stage import LENGTH, ROWS, make_job

from raycodellm.config import LearningRate, Scaling
from raycodellm.records import StageJob

pytestmark = pytest.mark.slow  # `test_stage.py` stops and continues stages inside one process

EVERY = 3 * ROWS * LENGTH
STEP = "step"


def each(cases: dict[str, object], *exhaustive: str) -> list:
    """Names of the cases; those of which another case tries the kind are exhaustive."""
    assert set(exhaustive) < set(cases)
    return [pytest.param(name, marks=pytest.mark.exhaustive if name in exhaustive else ()) for name in cases]


@dataclass(frozen=True)
class Left:
    """The record of a finished stage without what may differ: seconds, and where it was continued."""

    order: str
    ledger: tuple
    final_loss: float
    losses: tuple
    weights: str
    files: frozenset


def left_by(job: StageJob) -> Left:
    folder = Path(job.folder)
    record = json.loads((folder / "stage.json").read_text())["record"]
    return Left(
        record["order_checksum"],
        tuple(map(str, pq.read_table(folder / "ledger.parquet").to_pylist())),
        record["final_loss"],
        tuple(pq.read_table(folder / "metrics.parquet")["loss"].to_pylist()),
        hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest(),
        frozenset(os.listdir(folder)),
    )


def resumed_at(job: StageJob) -> list[int]:
    return json.loads(Path(job.folder, "stage.json").read_text())["record"]["resumed_at"]


def job_in(folder: Path, workers: int = 1, **scaling) -> StageJob:
    return make_job(folder, scaling=Scaling(workers=workers, checkpoint_tokens=EVERY, **scaling))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Left:
    job = job_in(tmp_path_factory.mktemp("undisturbed"))
    assert train(job) == (0,)
    return left_by(job)


# where it is killed, one Kill per attempt; and the steps at which the stage must have been continued
CASES = {
    "before the first step": ([Kill(STEP, 0)], []),
    "before the first step, twice": ([Kill(STEP, 0)] * 2, []),
    "at a step": ([Kill(STEP, 5)], [3]),
    "at the same step, twice": ([Kill(STEP, 5)] * 2, [3]),
    "at two steps": ([Kill(STEP, 5), Kill(STEP, 7)], [3, 6]),
    "between a step and its checkpoint": ([Kill("after step", 2)], []),
    "at the last step": ([Kill("after step", 7)], [6]),
    "half a checkpoint written, before any other": ([Kill("half shard", 0)], []),
    "half a checkpoint written, twice": ([Kill("half shard", 1), Kill("half shard", 0)], [3]),
    "before a checkpoint is complete": ([Kill("before COMPLETE", 1)], [3]),
    "after a checkpoint is complete": ([Kill("after COMPLETE", 1)], [6]),
    "at a step, then in a checkpoint": ([Kill(STEP, 5), Kill("half shard", 0), Kill("before COMPLETE", 0)], [3]),
    "inside the export": ([Kill("exported")], [6]),
    "inside the export, twice": ([Kill("exported")] * 2, [6]),
    "after the export": ([Kill("before ledger.parquet")], [6]),
    "before the record is written": ([Kill("before stage.json", 1)], [6]),
    "just before DONE": ([Kill("before DONE")], [6]),
    "just before DONE, twice": ([Kill("before DONE")] * 2, [6]),
}


@pytest.mark.parametrize(
    "name",
    each(
        CASES,
        "before the first step, twice",
        "at a step",
        "at the same step, twice",
        "at the last step",
        "half a checkpoint written, twice",
        "inside the export",
        "after the export",
        "just before DONE",
    ),
)
def test_a_killed_stage_ends_as_if_nothing_had_happened(tmp_path, undisturbed, name):
    kills, continued = CASES[name]
    job = job_in(tmp_path)
    for kill in kills:
        assert train(job, kill) == (KILLED,)
        assert not Path(job.folder, "DONE").exists()
    assert train(job) == (0,)
    assert left_by(job) == undisturbed
    assert resumed_at(job) == continued[-1:] or resumed_at(job) == continued


BESIDE = {
    "half a checkpoint written": [Kill("half shard", 0)],
    "before a checkpoint is complete, twice": [Kill("before COMPLETE", 1), Kill("before COMPLETE", 0)],
    "at a step, while a checkpoint is written": [Kill(STEP, 3), Kill(STEP, 6)],
}


@pytest.mark.parametrize("name", each(BESIDE, "half a checkpoint written"))
def test_a_stage_killed_while_its_checkpoint_is_written_beside_the_training(tmp_path, undisturbed, name):
    job = job_in(tmp_path, background_checkpoints=True)
    for kill in BESIDE[name]:
        assert train(job, kill) == (KILLED,)
    assert train(job) == (0,)
    assert left_by(job) == undisturbed


def test_a_stage_killed_after_done_is_done(tmp_path, undisturbed):
    job = job_in(tmp_path)
    assert train(job, Kill("after DONE")) == (KILLED,)
    written = Path(job.folder, "DONE").stat().st_mtime_ns
    assert train(job) == (0,)
    assert Path(job.folder, "DONE").stat().st_mtime_ns == written
    there = left_by(job)
    assert there.files - undisturbed.files <= {"checkpoint"}  # all that is lost is its space
    assert replace(there, files=undisturbed.files) == undisturbed


# what may have become of the checkpoints of steps 3 and 6 while nobody looked; where the stage must go on
DAMAGE = {
    "the newest is truncated": (["step-000006/shard"], [3]),
    "the newest has half a state": (["step-000006/state.json"], [3]),
    "the newest has half a marker": (["step-000006/COMPLETE"], [3]),
    "both are truncated": (["step-000006/shard", "step-000003/shard"], []),
}


@pytest.mark.parametrize("name", each(DAMAGE, "the newest has half a state", "the newest has half a marker"))
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(tmp_path, undisturbed, name):
    damaged, continued = DAMAGE[name]
    job = job_in(tmp_path)
    assert train(job, Kill(STEP, 7)) == (KILLED,)
    for prefix in damaged:
        (path,) = Path(job.folder, "checkpoint", prefix).parent.glob(f"{Path(prefix).name}*")
        os.truncate(path, path.stat().st_size // 2)
    assert train(job) == (0,)
    assert left_by(job) == undisturbed
    assert resumed_at(job) == continued


def test_a_disk_that_is_full_while_a_checkpoint_is_written_costs_what_came_after_the_one_before(tmp_path, undisturbed):
    job = job_in(tmp_path)
    assert train(job, Kill(STEP, 5)) == (KILLED,)
    for _ in range(2):
        assert train(job, file_bytes=20_000) == (WROTE_NOT,)  # the next checkpoint has more
        assert not Path(job.folder, "DONE").exists()
    assert train(job) == (0,)
    assert left_by(job) == undisturbed
    assert resumed_at(job) == [3]


def test_a_disk_that_is_full_while_the_model_is_exported_costs_what_came_after_the_last_checkpoint(
    tmp_path, undisturbed
):
    job = job_in(tmp_path)
    assert train(job, Kill("after step", 7)) == (KILLED,)
    assert train(job, file_bytes=5_000) == (WROTE_NOT,)
    assert not Path(job.folder, "DONE").exists()
    assert train(job) == (0,)
    assert left_by(job) == undisturbed


# ----------------------------------------------------------------------------------------- several workers

TOGETHER = {
    "rank 1 at a step": [Kill(STEP, 5, rank=1)],
    "rank 0 at a step, then rank 1": [Kill(STEP, 5), Kill("after step", 6, rank=1)],
    "rank 1 in its half of a checkpoint": [Kill("half shard", 1, rank=1)],
    "rank 0 before a checkpoint is complete, twice": [Kill("before COMPLETE", 1), Kill("before COMPLETE", 0)],
    "rank 0 in the export": [Kill("exported")],
    "rank 1 after the last step": [Kill("after step", 7, rank=1)],
}


@pytest.fixture(scope="module")
def undisturbed_pair(tmp_path_factory) -> Left:
    job = job_in(tmp_path_factory.mktemp("pair"), workers=2)
    assert train(job, world_size=2) == (0, 0)
    return left_by(job)


@pytest.mark.parametrize(
    "name", each(TOGETHER, "rank 1 at a step", "rank 0 in the export", "rank 1 after the last step")
)
def test_a_stage_of_two_workers_of_which_one_is_killed(tmp_path, undisturbed_pair, name):
    job = job_in(tmp_path, workers=2)
    for kill in TOGETHER[name]:
        assert KILLED in train(job, kill, world_size=2)
        assert not Path(job.folder, "DONE").exists()
    assert train(job, world_size=2) == (0, 0)
    assert left_by(job) == undisturbed_pair


def test_a_stage_killed_with_two_workers_goes_on_with_one_and_with_two_again(tmp_path, undisturbed):
    job = job_in(tmp_path, workers=2)
    assert KILLED in train(job, Kill(STEP, 4, rank=1), world_size=2)
    assert KILLED in train(replace(job, scaling=job.scaling.model_copy(update={"workers": 1})), Kill(STEP, 7))
    assert train(job, world_size=2) == (0, 0)
    there = left_by(job)
    assert (there.order, there.ledger, there.files) == (undisturbed.order, undisturbed.ledger, undisturbed.files)
    assert there.final_loss == pytest.approx(undisturbed.final_loss, rel=1e-4)  # other sums, other rounding
    assert resumed_at(job) == [3, 6]


# ------------------------------------------------------------------------------------------ the stage tree


def test_a_stage_that_shares_its_parent_ends_with_the_weights_of_one_trained_alone(tmp_path):
    def chain(folder: Path, *children: float) -> list[StageJob]:
        parent = job_in(folder / "parent")
        jobs = [parent]
        for rate in children:
            child = job_in(folder / f"child{rate}")
            settings = child.stage.model_copy(update={"name": "second", "learning_rate": LearningRate(peak=rate)})
            jobs.append(replace(child, parent=parent.folder, stage=settings, seed=8))
        return jobs

    shared = chain(tmp_path / "shared", 0.003, 0.02)
    assert train_in_one_process(*shared) == 0  # one after the other, as in a warm slot
    for place, rate in enumerate((0.003, 0.02), start=1):
        alone = chain(tmp_path / f"alone{rate}", rate)
        for job in alone:
            assert train(job) == (0,)  # each in a process of its own
        assert left_by(alone[-1]) == left_by(shared[place])
    assert left_by(shared[1]).weights != left_by(shared[2]).weights
