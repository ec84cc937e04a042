from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from raycodellm import ingest
from raycodellm.ingest import blocks, readers

LENGTH = 8


class FakePlan:
    """Position p is sequence 7 p + 3 of source p mod 3."""

    def __init__(self, num_sequences: int) -> None:
        self.num_sequences = num_sequences

    def rows(self, start: int, stop: int) -> SimpleNamespace:
        position = np.arange(start, stop, dtype=np.int64)
        return SimpleNamespace(position=position, source=(position % 3).astype(np.int16), sequence=7 * position + 3)


class FakeStore:
    """Token j of sequence s is 1000 source + s + j; the first s mod 8 tokens do not count."""

    def __init__(self, source: int) -> None:
        self.source = source

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
        place = np.arange(sequence_length)
        tokens = 1000 * self.source + sequences[:, None] + place
        return tokens.astype(np.int32), place >= (sequences % sequence_length)[:, None]


class FailingStore(FakeStore):
    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
        raise OSError("the disk is gone")


STORES = [FakeStore(0), FakeStore(1), FakeStore(2)]


def take(num_sequences=60, batch=5, position=0, **options):
    return list(ingest.steps(FakePlan(num_sequences), STORES, LENGTH, batch, position, **options))


def positions(batches) -> list[int]:
    return [int(p) for batch in batches for p in batch.position]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    for name in ("BLOCK_BYTES", "TASK_BYTES"):  # 7 rows: a step and no more
        monkeypatch.setattr(readers, name, 7 * LENGTH * blocks.TOKEN_BYTES)


def test_a_row_of_a_batch_is_what_the_plan_says_of_its_position():
    for batch in take():
        rows = np.concatenate([part["tokens"].numpy() for part in batch.micro_batches])
        labels = np.concatenate([part["labels"].numpy() for part in batch.micro_batches])
        for row, position in enumerate(batch.position):
            tokens, mask = STORES[position % 3].read(np.array([7 * position + 3]), LENGTH)
            assert (batch.source[row], batch.sequence[row]) == (position % 3, 7 * position + 3)
            assert np.array_equal(rows[row], tokens[0])
            assert np.array_equal(labels[row], np.where(mask[0], tokens[0], ingest.IGNORED))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_the_workers_together_train_each_step_s_positions_once(world_size):
    workers = [take(rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batches in enumerate(zip(*workers, strict=True)):
        assert sorted(positions(batches)) == list(range(5 * step, 5 * step + 5))
        assert len({len(batch.micro_batches) for batch in batches}) == 1


def test_continuing_starts_at_a_position_and_changes_nothing_after_it():
    assert positions(take(position=25)) == positions(take())[25:]
    with pytest.raises(ValueError, match="inside a step"):
        take(position=26)


def test_micro_batches_cut_a_step_in_order():
    (first, *_) = take(micro_batch=2)
    assert [len(part["tokens"]) for part in first.micro_batches] == [2, 2, 1]
    (first, *_) = take(micro_batch=2, rank=1, world_size=2)  # rank 0 has three rows, rank 1 two: two passes each
    assert [len(part["tokens"]) for part in first.micro_batches] == [2, 0]
    assert ingest.micro_batches_per_step(5, 2, 2) == 2


def test_a_failed_read_is_raised_where_its_data_was_needed():
    with pytest.raises(OSError, match="the disk is gone"):
        list(ingest.steps(FakePlan(10), [FailingStore(0)] * 3, LENGTH, 5, 0))


def test_reading_stays_a_few_blocks_ahead_and_ends_with_the_training():
    read: list[int] = []

    class Counting(FakePlan):
        def rows(self, start, stop):
            read.append(start)
            return super().rows(start, stop)

    batches = ingest.steps(Counting(7000), STORES, LENGTH, 5, 0)
    next(batches)
    time.sleep(0.2)
    assert len(read) <= readers.BLOCKS_AHEAD + 3
    batches.close()
    assert not any(thread.name == "raycodellm-ingest" for thread in threading.enumerate())


@pytest.mark.slow
@pytest.mark.ray
def test_ray_data_gives_the_same_batches_as_a_thread(ray_cluster, monkeypatch):
    ray_cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(readers, "BLOCKS_PER_DATASET", 5)
    for options in ({}, {"position": 25}, {"rank": 1, "world_size": 2}, {"rank": 6, "world_size": 7}):
        plain, by_ray = take(**options), take(use_ray=True, **options)
        assert positions(by_ray) == positions(plain)
        for left, right in zip(plain, by_ray, strict=True):
            assert np.array_equal(left.micro_batches[0]["labels"], right.micro_batches[0]["labels"])


@pytest.mark.slow
@pytest.mark.ray
def test_reading_needs_no_free_cpu(ray_cluster):
    ray_cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])

    @ray_cluster.remote(num_cpus=4)
    class Holder:
        def ready(self) -> None: ...

    holder = Holder.remote()
    ray_cluster.get(holder.ready.remote())
    assert positions(take(use_ray=True)) == list(range(60))
    ray_cluster.kill(holder)
