"""Sequences on their way to training: from storage that is slow, far away or lost, and through copies on a node."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycodellm import config, ingest
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.ingest import blocks, cache, readers, step_batches
from raycodellm.mixture import Plan
from raycodellm.records import SourceSlice
from raycodellm.schedule import Schedule
from raycodellm.tokens import Reading, TokenStore
from raycodellm.tokens.manifest import write_manifest
from raycodellm.tokens.ranges import join_ranges, read_layout
from raycodellm.tokens.shard_files import write_shard

LENGTH = 16


def write_store(folder: Path, num_sequences: int = 600, shards: int = 3, seed: int = 0) -> TokenStore:
    """Random ids; a document per sequence."""
    target, made, length = Folder(str(folder)).make(), np.random.default_rng(seed), LENGTH
    written = []
    for number in range(shards):
        count = num_sequences // shards
        rows = pa.table(
            {
                "key": pa.array([index.to_bytes(4, "big") for index in range(count)], pa.binary()),
                "tokens": pa.array([made.integers(1, 399, length, np.uint16).tobytes() for _ in range(count)]),
                "num_prompt": pa.array(np.zeros(count, np.int32)),
                "num_bytes": pa.array(np.ones(count, np.int64)),
                "skipped": pa.nulls(count, pa.string()),
                "count": pa.array(np.zeros(count, np.int64)),
            }
        )
        written.append(write_shard(target, number, rows, np.dtype(np.uint16), False, batch_tokens=10 * length + 3))
    prints = {name: "f" for name in ("fingerprint", "source_fingerprint", "tokenizer_fingerprint")}
    write_manifest(target, written, name=folder.name, kind="text", seed=0, vocab_size=400, eos_id=0, **prints)
    return TokenStore.open(target)


class CountingFiles(pyarrow.fs.FileSystemHandler):
    """An object storage: a local folder, of which every opened file counts the bytes that are read."""

    def __init__(self, folder: Path, seconds_per_read: float = 0.0) -> None:
        self.inside = pyarrow.fs.SubTreeFileSystem(str(folder), pyarrow.fs.LocalFileSystem())
        self.num_bytes = self.num_reads = 0
        self.seconds = seconds_per_read
        self.lock = threading.Lock()

    def __eq__(self, other: object) -> bool:
        return self is other

    def get_type_name(self) -> str:
        return "counting"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths):
        return self.inside.get_file_info(paths)

    def get_file_info_selector(self, selector):
        return self.inside.get_file_info(selector)

    def _opened(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(_CountedFile(self, self.inside.open_input_file(path)), mode="r")

    open_input_file = open_input_stream = _opened

    def _refuse(self, *_: object) -> None:
        raise OSError("this storage is only read")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = _refuse
    move = copy_file = open_output_stream = open_append_stream = _refuse


class _CountedFile:
    def __init__(self, files: CountingFiles, file: pa.NativeFile) -> None:
        self.files, self.file, self.closed = files, file, False

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size if size is not None and size >= 0 else None)
        with self.files.lock:
            self.files.num_bytes += len(data)
            self.files.num_reads += 1
        time.sleep(self.files.seconds)
        return data

    def seek(self, place: int, whence: int = 0) -> int:
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def size(self) -> int:
        return self.file.size()

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True
        self.file.close()


@pytest.fixture
def far(tmp_path, monkeypatch):
    """A function: the stores written under a folder, as `far://bucket/...`, and the counter of what is read of them."""
    (tmp_path / "bucket").mkdir()
    files = CountingFiles(tmp_path / "bucket")
    handler = pyarrow.fs.PyFileSystem(files)
    opened = Folder._opened.func
    monkeypatch.setattr(
        Folder,
        "_opened",
        property(
            lambda folder: (
                (handler, folder.uri.removeprefix("far://bucket/"))
                if folder.uri.startswith("far://")
                else opened(folder)
            )
        ),
    )

    def make(name: str, **options) -> Folder:
        write_store(tmp_path / "bucket" / name, **options)
        return Folder(f"far://bucket/{name}")

    make.files, make.folder = files, tmp_path / "bucket"
    return make


# ------------------------------------------------------------------------------------------------- reading ranges


def test_a_file_s_layout_is_where_arrow_itself_finds_the_values(tmp_path):
    store = write_store(tmp_path / "s")
    with pa.memory_map(str(tmp_path / "s" / "tokens-00001.arrow")) as file:
        layout, reader = read_layout(file), pa.ipc.open_file(file)
        whole = file.read_at(file.size(), 0)
        assert len(layout.starts) == reader.num_record_batches
        for number in range(reader.num_record_batches):
            values = reader.get_batch(number).column(0).to_numpy()
            start = int(layout.starts[number])
            assert np.frombuffer(whole[start : start + values.nbytes], np.uint16).tolist() == values.tolist()
            if number + 1 < reader.num_record_batches:
                assert len(values) == layout.batch_values
    assert store.num_sequences(LENGTH) == 600


DAMAGED = [b"", b"ARROW1", b"x" * 1000, b"\xff" * 500 + (400).to_bytes(4, "little") + b"ARROW1"]


@pytest.mark.parametrize("data", DAMAGED)
def test_a_file_that_is_none_of_ours_is_refused(data):
    with pytest.raises(ValueError, match=r"footer|does not end"):
        read_layout(pa.BufferReader(data))


def test_ranges_that_nearly_touch_are_fetched_as_one():
    gap, largest = 64 * 2**10, 8 * 2**20
    assert list(join_ranges([0, 100, 100 + gap, 10 * gap], [100] * 4)) == [(0, 3), (3, 4)]
    starts = list(range(0, 3 * largest, gap))
    assert next(join_ranges(starts, [gap] * len(starts))) == (0, largest // gap)
    assert list(join_ranges([5, 5, 5], [10] * 3)) == [(0, 3)]


@given(st.lists(st.integers(0, 599), min_size=1, max_size=50), st.sampled_from([LENGTH, 7, 100]))
def test_a_distant_store_reads_as_a_near_one(tmp_path_factory, sequences, length):
    folder = tmp_path_factory.mktemp("bucket")
    near = write_store(folder / "s")
    distant = TokenStore.open(Folder(str(folder / "s")))
    files = CountingFiles(folder)
    object.__setattr__(distant.folder, "uri", "far://s")
    distant.folder.__dict__["_opened"] = (pyarrow.fs.PyFileSystem(files), "s")
    chosen = np.array(sequences) % near.num_sequences(length)
    assert distant.read(chosen, length)[0].tolist() == near.read(chosen, length)[0].tolist()


def test_of_a_distant_store_little_more_is_read_than_is_asked_for(far, monkeypatch):
    monkeypatch.setattr("raycodellm.tokens.ranges.JOIN_GAP_BYTES", 64)
    store = TokenStore.open(far("s", num_sequences=6000))
    store.read(np.arange(3), LENGTH)  # opens a file
    before = far.files.num_bytes
    store.read(np.arange(0, 2000, 40), LENGTH)
    asked = 50 * LENGTH * 2
    assert asked <= far.files.num_bytes - before <= 3 * asked


# --------------------------------------------------------------------------------------- copies on a node's own disk


def size_of(store: Folder) -> int:
    return cache._num_bytes(TokenStore.open(store).manifest)


def cached(store: Folder, folder: Path, limit_bytes: int = 2**30) -> cache.CachedStore:
    return cache.CachedStore(store, Reading(), cache.Cache(str(folder), limit_bytes))


def fill(store: cache.CachedStore) -> Folder | None:
    return store.cache.fill(store.folder, store.manifest)


def has_copy(store: cache.CachedStore) -> bool:
    return store.cache.copy_of(store.folder) is not None


def test_a_cached_store_is_read_from_afar_until_its_copy_is_there_and_never_again_after_that(far, tmp_path):
    store = cached(far("s"), tmp_path / "cache")
    expected = TokenStore.open(Folder(str(far.folder / "s"))).read(np.arange(600), LENGTH)[0].tolist()
    assert store.read(np.arange(600), LENGTH)[0].tolist() == expected and not has_copy(store)
    assert fill(store) == store.cache.copy_of(store.folder)
    before = far.files.num_bytes
    assert store.read(np.arange(600), LENGTH)[0].tolist() == expected and has_copy(store)
    assert pickle.loads(pickle.dumps(store)).read_raw(np.arange(5), LENGTH)[0].tolist() == expected[:5]
    assert len(pickle.dumps(store)) < 500
    fill(store)
    after = far.files.num_bytes - before
    assert after < size_of(store.folder) / 10, "only the manifest of the pickled one, opened anew, may be read again"


def filling_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "raycodellm-cache"}


def test_filling_runs_while_training_does_and_says_what_could_not_be_copied(far, tmp_path, caplog):
    stores = [cached(far(name), tmp_path / "cache", limit_bytes=1000) for name in ("a", "b")]
    with ingest.filling(stores):
        while len(caplog.records) < 2:
            time.sleep(0.01)
    assert "the store is read from where it is; cache_gib: 1 would hold it, or delete copies there" in caplog.text
    assert not any(has_copy(store) for store in stores)
    stores = [cached(store.folder, tmp_path / "cache") for store in stores]
    with ingest.filling(stores):
        while not all(has_copy(store) for store in stores):
            time.sleep(0.01)
    before = filling_threads()  # the last one may still be ending
    with ingest.filling([object()]):
        assert filling_threads() <= before


def test_a_store_that_does_not_fit_is_refused_and_the_copies_before_it_stay(far, tmp_path):
    folders = {name: far(name) for name in ("a", "b", "c")}
    room = int(2.5 * size_of(folders["a"]))
    opened = {name: cached(folder, tmp_path / "cache", room) for name, folder in folders.items()}
    (tmp_path / "cache" / "other").mkdir(parents=True)
    (tmp_path / "cache" / "other" / "log").write_bytes(b"0" * room)  # no copy: does not count
    assert fill(opened["a"]) and fill(opened["b"])
    with pytest.raises(cache.CacheRefused, match=r"c has .* GiB, but copies in .* take .*delete copies there"):
        fill(opened["c"])
    assert has_copy(opened["a"]) and has_copy(opened["b"]) and not has_copy(opened["c"])
    expected = TokenStore.open(Folder(str(far.folder / "c"))).read(np.arange(9), LENGTH)[0].tolist()
    assert opened["c"].read(np.arange(9), LENGTH)[0].tolist() == expected


def test_a_copy_that_came_damaged_is_not_kept(far, tmp_path):
    store = cached(far("s"), tmp_path / "cache")
    path = far.folder / "s" / "tokens-00002.arrow"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(cache.CacheRefused, match=r"not the .* of its manifest"):
        fill(store)
    assert not has_copy(store) and not list((tmp_path / "cache").glob("*.part"))


def test_a_full_disk_leaves_no_half_copy_and_says_how_much_there_is(far, tmp_path, monkeypatch):
    store = cached(far("s"), tmp_path / "cache")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(cache.CacheRefused, match=r"could not be copied .* are free there\): No space left on device"):
        fill(store)
    assert not has_copy(store) and not list((tmp_path / "cache").glob("*.part"))


def test_held_out_documents_are_read_by_ranges_and_from_a_copy_alike(tmp_path, far):
    near = write_store(tmp_path / "near").packed(Reading(held_out_tokens=40 * LENGTH))
    distant = cache.CachedStore(far("s"), near.reading, cache.Cache(str(tmp_path / "cache"), 2**30))
    for expected, store in ((near, distant), (near.measured(), distant.measured())):
        everything = np.arange(expected.num_sequences(LENGTH))
        assert store.num_sequences(LENGTH) == len(everything) in (560, 40)
        for _ in range(2):
            assert np.array_equal(store.read(everything, LENGTH)[0], expected.read(everything, LENGTH)[0])
            fill(distant)
        assert has_copy(store)


def test_where_copies_lie_is_a_setting(tmp_path, far):
    near = write_store(tmp_path / "near").packed("concatenate")
    assert ingest.cached(near, config.Scaling()) is near
    local = config.Scaling(cache="local", cache_folder=str(tmp_path / "cache"), cache_gib=0.5)
    assert ingest.cached(near, local) is near, "a copy on the same disk would gain nothing"
    distant = ingest.cached(TokenStore.open(far("s")).packed("concatenate"), local)
    assert isinstance(distant, cache.CachedStore) and distant.cache.limit_bytes == 2**29
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"scaling\.cache_folder: .* cannot be made"):
        ingest.cached(near, config.Scaling(cache="local", cache_folder=str(tmp_path / "file" / "inside")))
    with pytest.raises(ValueError, match="cache_gib"):
        config.Scaling(cache_gib=0)


def fill_in_process(bucket: str, folder: str, seconds_per_read: float, told: multiprocessing.Queue) -> None:
    files = CountingFiles(Path(bucket), seconds_per_read)
    store = Folder("far://bucket/s")
    store.__dict__["_opened"] = (pyarrow.fs.PyFileSystem(files), "s")
    opened = cached(store, Path(folder))
    before = files.num_bytes
    while fill(opened) is None:
        time.sleep(0.01)
    told.put((files.num_bytes - before, has_copy(opened)))


def start_filling(bucket: Path, folder: Path, seconds_per_read: float = 0.0):
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=fill_in_process, args=(str(bucket), str(folder), seconds_per_read, told))
    process.start()
    return process, told


@pytest.mark.slow
def test_two_processes_at_once_make_one_copy(tmp_path):
    write_store(tmp_path / "bucket" / "s")
    both = [start_filling(tmp_path / "bucket", tmp_path / "cache", 0.05) for _ in range(2)]
    told = [queue.get(timeout=500) for _, queue in both]
    for process, _ in both:
        process.join()
    assert all(near for _, near in told)
    whole = sum(path.stat().st_size for path in (tmp_path / "bucket" / "s").iterdir())
    assert sum(num_bytes for num_bytes, _ in told) == whole, "each byte is read once, by one of them"


@pytest.mark.slow
def test_a_copy_whose_maker_was_killed_is_never_read_and_is_made_again(tmp_path):
    write_store(tmp_path / "bucket" / "s")
    process, _ = start_filling(tmp_path / "bucket", tmp_path / "cache", seconds_per_read=0.3)
    copies = cache.Cache(str(tmp_path / "cache"), 2**30)
    while not list((tmp_path / "cache").glob("s.part/*.arrow")):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    store = Folder(str(tmp_path / "bucket" / "s"))
    assert (tmp_path / "cache" / "s.part").exists() and copies.copy_of(store) is None
    copy = copies.fill(store, TokenStore.open(store).manifest)
    assert sorted(os.listdir(copy.local)) == sorted(os.listdir(store.local))
    TokenStore.open(copy).verify()
    assert not (tmp_path / "cache" / "s.part").exists()


# ------------------------------------------------------------------------------------------- order and continuing


class CountingPlan:
    """Position p is sequence 3 p of source p mod 2."""

    def __init__(self, num_sequences: int) -> None:
        self.num_sequences = num_sequences

    def rows(self, start: int, stop: int) -> SimpleNamespace:
        position = np.arange(start, stop, dtype=np.int64)
        return SimpleNamespace(position=position, source=(position % 2).astype(np.int16), sequence=3 * position)


class SlowStore:
    """Tokens are the sequence's number; every read takes a while, and says which process did it."""

    every_token_counts = True

    def __init__(self, seconds: float = 0.0, pids: str | None = None) -> None:
        self.seconds, self.pids = seconds, pids

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, None]:
        if self.pids:
            (Path(self.pids) / str(os.getpid())).write_text("")
        time.sleep(self.seconds)
        return np.repeat(sequences[:, None] % 60_000, sequence_length, axis=1).astype(np.uint16), None


@pytest.mark.slow
def test_training_slower_than_reading_never_waits_and_a_slow_store_shows_as_waiting(monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 8 * LENGTH * blocks.TOKEN_BYTES)
    made: list[readers.Prefetcher] = []

    class Prefetcher(readers.Prefetcher):
        def __init__(self, source) -> None:
            super().__init__(source)
            made.append(self)

    monkeypatch.setattr(step_batches, "Prefetcher", Prefetcher)
    waited, ready = [], []
    for number, batch in enumerate(ingest.steps(CountingPlan(240), [SlowStore(0.002)] * 2, LENGTH, 8, 0), 1):
        waited.append(batch.wait_seconds)
        ready.append(batch.blocks_ready)
        while number < 29 and made[0].num_ready < readers.BLOCKS_AHEAD:  # training takes longer than reading
            time.sleep(0.001)
    assert len(waited) == 30 and np.median(waited[1:]) < 0.002, "reading takes four milliseconds"
    assert set(ready[1:29]) == {readers.BLOCKS_AHEAD}
    batches = list(ingest.steps(CountingPlan(40), [SlowStore(0.1)] * 2, LENGTH, 8, 0))
    assert np.median([batch.wait_seconds for batch in batches]) > 0.1, "of 0.2 s of reading"
    assert np.median([batch.blocks_ready for batch in batches]) == 0


def test_a_step_of_unmasked_tokens_is_its_own_label():
    (batch,) = ingest.steps(CountingPlan(8), [SlowStore()] * 2, LENGTH, 8, 0)
    (part,) = batch.micro_batches
    assert part["labels"] is not None and part["labels"].data_ptr() == part["tokens"].data_ptr()
    assert part["tokens"].dtype == part["labels"].dtype and str(part["tokens"].dtype) == "torch.int64"


@given(
    st.integers(0, 3_000),
    st.integers(1, 5_000),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 5_000),
)
def test_blocks_cover_the_plan_once_in_order_from_a_single_step_on(start, num_sequences, batch, world_size, block_rows):
    block_bytes = block_rows * LENGTH * blocks.TOKEN_BYTES
    cut = blocks.spans(start, start + num_sequences, batch, world_size, LENGTH, block_bytes)
    assert [first for first, _ in cut] == [start, *(last for _, last in cut[:-1])]
    assert cut[-1][1] == start + num_sequences
    assert all(0 < last - first <= max(1, block_rows) * world_size for first, last in cut)
    if block_rows * world_size >= batch:
        assert all((last - start) % batch == 0 for _, last in cut[:-1])


SCHEDULES = st.one_of(
    st.lists(st.floats(0, 1), min_size=2, max_size=2).map(lambda ends: ([0.0, 1.0], ends, "linear")),
    st.lists(st.floats(0, 1), min_size=3, max_size=3).map(lambda ends: ([0.0, 0.4, 1.0], ends, "cosine")),
    st.lists(st.floats(0, 1), min_size=3, max_size=3).map(lambda ends: ([0.0, 0.7, 1.0], [*ends[:2], ends[1]], "step")),
)


RUNS = st.tuples(st.integers(0, 25), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 5)))
"""Step at which a run stops, workers, micro-batch."""


@given(
    schedule=SCHEDULES,
    sizes=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    num_steps=st.integers(1, 25),
    batch=st.integers(1, 12),
    runs=st.lists(RUNS, min_size=1, max_size=5),
    block_rows=st.integers(1, 30),
)
def test_a_stage_stopped_anywhere_and_continued_by_any_number_of_workers_draws_the_same_stream(
    stores, schedule, sizes, num_steps, batch, runs, block_rows
):
    progress, ratios, interpolation = schedule
    weights = tuple((1.0 - ratio, ratio) for ratio in ratios)
    sources = tuple(SourceSlice(name, "text", "", size, 3) for name, size in zip("ab", sizes, strict=True))
    plan = Plan(Schedule(tuple(progress), weights, interpolation), sources, num_steps * batch, seed=5)
    whole = drawn(plan, stores, batch, 0, num_steps, 1, None, 10**6)
    assert len(whole) == num_steps * batch
    parts, step = [], 0
    for number, (stop, world_size, micro_batch) in enumerate([*runs, (num_steps, 1, None)]):
        stop = min(num_steps, max(step, stop if number < len(runs) else num_steps))
        again = Plan(plan.schedule, sources, plan.num_sequences, seed=5)
        continued = again.starting_at(step * batch, plan.counts(step * batch))
        parts += drawn(continued, stores, batch, step, stop, world_size, micro_batch, block_rows)
        step = stop
    assert parts == whole


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [write_store(folder / name, 60, 2, seed) for seed, name in enumerate("ab")]


def drawn(plan, stores, batch, step, stop, world_size, micro_batch, block_rows) -> list[tuple]:
    """(position, source, sequence, tokens) of steps step..stop-1, in the order of positions inside each step."""
    before, readers.BLOCK_BYTES = readers.BLOCK_BYTES, block_rows * LENGTH * blocks.TOKEN_BYTES
    workers = [
        ingest.steps(plan, stores, LENGTH, batch, step * batch, rank, world_size, micro_batch)
        for rank in range(world_size)
    ]
    found = []
    try:
        for _ in range(step, stop):
            found += sorted(row for worker in workers for row in rows_of(next(worker)))
    finally:
        readers.BLOCK_BYTES = before
        for worker in workers:
            worker.close()
    return found


def rows_of(batch: ingest.StepBatch) -> list[tuple]:
    tokens = np.concatenate([part["tokens"].numpy() for part in batch.micro_batches])
    columns = (batch.position.tolist(), batch.source.tolist(), batch.sequence.tolist(), tokens.tolist())
    return list(zip(*columns, strict=True))


# ------------------------------------------------------------------------------------------------ losses of workers


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_reading_process_changes_nothing_of_the_stream(ray_cluster, tmp_path, monkeypatch):
    ray_cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(readers, "TASK_BYTES", 8 * LENGTH * blocks.TOKEN_BYTES)
    slow = [SlowStore(0.05, str(tmp_path))] * 2
    plan, killed, found = CountingPlan(400), set(), []
    batches = ingest.steps(plan, slow, LENGTH, 8, 0, use_ray=True)
    for step, batch in enumerate(batches):
        found += rows_of(batch)
        if step in (4, 18, 32):
            pids = {int(path.name) for path in tmp_path.iterdir()} - killed - {os.getpid()}
            for pid in pids:  # all processes that have read: some of them are reading now
                os.kill(pid, signal.SIGKILL)
            assert pids, "reading went on in other processes than those killed before"
            killed |= pids
    expected = [row for batch in ingest.steps(plan, [SlowStore()] * 2, LENGTH, 8, 0) for row in rows_of(batch)]
    assert found == expected
    assert len(killed) >= 3


LOSE_A_NODE = """
import sys, time
import numpy as np
import ray
import ray._private.utils
from ray.cluster_utils import Cluster

ray._private.utils.write_ray_address = lambda *_, **__: None  # a file that other clusters of this machine would find
sys.path.insert(0, sys.argv[1])
import test_streaming as here
from raycodellm import ingest
from raycodellm.ingest import blocks, readers

ray.cloudpickle.register_pickle_by_value(here)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
ray.init(address=cluster.address, log_to_driver=False)
lost = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
readers.TASK_BYTES = 8 * here.LENGTH * blocks.TOKEN_BYTES
readers._this_node = lambda: lost.node_id
slow = [here.SlowStore(0.05, sys.argv[2])] * 2
found = []
for step, batch in enumerate(ingest.steps(here.CountingPlan(400), slow, here.LENGTH, 8, 0, use_ray=True)):
    found += here.rows_of(batch)
    if step == 10:
        before = {path.name for path in here.Path(sys.argv[2]).iterdir()}
        cluster.remove_node(lost, allow_graceful=False)
expected = ingest.steps(here.CountingPlan(400), [here.SlowStore()] * 2, here.LENGTH, 8, 0)
assert found == [row for batch in expected for row in here.rows_of(batch)]
assert {path.name for path in here.Path(sys.argv[2]).iterdir()} - before, "processes of another node went on"
ray.shutdown()
cluster.shutdown()
print("the same")
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive  # `test_runs.py` takes nodes away from whole sweeps
def test_a_lost_node_changes_nothing_of_the_stream(tmp_path):
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", LOSE_A_NODE, str(Path(__file__).parent), str(tmp_path)]
    for _ in range(3):
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
        if "timed out during startup" not in run.stderr:  # a node has 30 s to start, which a busy machine may not make
            break
    assert run.returncode == 0 and "the same" in run.stdout, run.stderr[-3000:]
