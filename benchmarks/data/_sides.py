"""The loaders that are compared, each on its own files of the same sequences, and a child process that times one.

Every side gives int64 tensors [batch, sequence_length] of a 70/30 mixture of two sources, in shuffled order, and each
rank its share. The files hold the same token ids, as uint16, uncompressed. Imports are inside: mosaicml-streaming asks
for older numpy and transformers than the others and cannot be installed beside them, so its side may run under another
Python.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NAMES = ("text", "code")
WEIGHTS = (0.7, 0.3)
VOCABULARY = 50_000
SEED = 7


@dataclass(frozen=True)
class Spec:
    """One consumer's work; travels to its process as JSON."""

    folder: str
    sequence_length: int
    batch: int
    """Sequences per batch and consumer."""
    sequences: int
    """Sequences of the whole run, all consumers together."""
    rank: int = 0
    world: int = 1
    workers: int = 0
    """Loader processes per consumer, where a loader has them."""
    start: int = 0
    """Sequences, of all consumers together, that an earlier run has already given."""
    seconds: float = 1e9
    """The measurement ends after this, or at the last sequence."""
    weights: tuple[float, ...] = WEIGHTS
    state: str = ""
    """A loader's saved state, JSON, where it has one."""

    @property
    def path(self) -> Path:
        return Path(self.folder)


# --------------------------------------------------------------------------------------------------------- data


def arrays(sequence_length: int, megabytes: int) -> dict[str, Any]:
    """uint16[sequences, length] per source, in shares of 70/30: random ids, since no side looks at them."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    rows = max(64, megabytes * 2**20 // (2 * sequence_length))
    counts = {name: int(rows * weight) for name, weight in zip(NAMES, WEIGHTS, strict=True)}
    return {
        name: rng.integers(1, VOCABULARY, (count, sequence_length), dtype=np.uint16) for name, count in counts.items()
    }


def prepare(folder: Path, sequence_length: int, megabytes: int, streaming_python: str | None) -> None:
    """Makes every side's files, once; `folder/ready` says that they are there."""
    if (folder / "ready").exists():
        return
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in arrays(sequence_length, megabytes).items():
        np.save(folder / f"{name}.npy", rows)
        _write_store(folder / "ours" / name, name, rows)
        _write_arrow(folder / "datasets" / name, rows)
        _write_parquet(folder / "parquet" / name, rows)
    if streaming_python:
        import subprocess

        subprocess.run([streaming_python, __file__, "write-mds", str(folder)], check=True)
    (folder / "ready").write_text("")


def _write_store(folder: Path, name: str, rows: Any) -> None:
    """One document per sequence: a store then holds exactly these sequences, in shards of 64 MiB."""
    import numpy as np
    import pyarrow as pa

    from raycodellm.files import Folder
    from raycodellm.tokens.manifest import write_manifest
    from raycodellm.tokens.shard_files import write_shard

    target, shards = Folder(str(folder)), []
    target.make()
    per_shard = max(1, 64 * 2**20 // rows[0].nbytes)
    for number, first in enumerate(range(0, len(rows), per_shard)):
        part = rows[first : first + per_shard]
        table = pa.table(
            {
                "key": pa.array([index.to_bytes(8, "big") for index in range(len(part))], pa.binary()),
                "tokens": pa.array([row.tobytes() for row in part], pa.large_binary()),
                "num_prompt": pa.array(np.zeros(len(part), np.int32)),
                "num_bytes": pa.array(np.zeros(len(part), np.int64)),
                "skipped": pa.nulls(len(part), pa.string()),
                "count": pa.array(np.zeros(len(part), np.int64)),
            }
        )
        shards.append(write_shard(target, number, table, rows.dtype, False))
    write_manifest(
        target,
        shards,
        name=name,
        kind="code" if name == "code" else "text",
        fingerprint=name,
        source_fingerprint=name,
        tokenizer_fingerprint="benchmark",
        seed=SEED,
        vocab_size=VOCABULARY,
        eos_id=0,
    )


def _write_arrow(folder: Path, rows: Any) -> None:
    import pyarrow as pa
    from datasets import Dataset

    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    Dataset(pa.table({"tokens": column})).save_to_disk(str(folder), max_shard_size="64MB")


def _write_parquet(folder: Path, rows: Any) -> None:
    """Files of 16 MiB, each one block to Ray Data, as large as those that our reader makes there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    per_file = max(1, 16 * 2**20 // rows[0].nbytes)
    for number, first in enumerate(range(0, len(rows), per_file)):
        part = rows[first : first + per_file]
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(part.reshape(len(part), -1))
        pq.write_table(
            pa.table({"tokens": column}), folder / f"{number:05d}.parquet", compression="none", use_dictionary=False
        )


def _write_mds(folder: Path) -> None:
    import numpy as np
    from streaming import MDSWriter

    for name in NAMES:
        rows = np.load(folder / f"{name}.npy", mmap_mode="r")
        columns = {"tokens": f"ndarray:uint16:{rows.shape[1]}"}
        with MDSWriter(out=str(folder / "mds" / name), columns=columns, size_limit=64 * 2**20) as out:
            for row in rows:
                out.write({"tokens": np.ascontiguousarray(row)})


# -------------------------------------------------------------------------------------------------------- sides


def ours_plan(spec: Spec) -> tuple[Any, list[Any]]:
    from raycodellm.mixture import Plan
    from raycodellm.records import SourceSlice
    from raycodellm.schedule import Schedule
    from raycodellm.tokens import TokenStore

    stores = [TokenStore.open(str(spec.path / "ours" / name)) for name in NAMES]
    sources = tuple(
        SourceSlice(
            store.manifest.name, store.manifest.kind, str(store.folder), store.num_sequences(spec.sequence_length), 0
        )
        for store in stores
    )
    weights = tuple(spec.weights)
    return Plan(Schedule((0.0, 1.0), (weights, weights), "step"), sources, spec.sequences, SEED), stores


def ours(spec: Spec, use_ray: bool) -> Iterator[Any]:
    from raycodellm import ingest

    plan, stores = ours_plan(spec)
    if spec.start:  # what a checkpoint holds beside its step
        plan = plan.starting_at(spec.start, json.loads(spec.state))
    steps = ingest.steps(
        plan, stores, spec.sequence_length, spec.batch * spec.world, spec.start, spec.rank, spec.world, use_ray=use_ray
    )
    for step in steps:
        yield step.micro_batches[0]["tokens"]


def datasets_map(spec: Spec) -> Iterator[Any]:
    """Map-style: shuffled, interleaved by probability, batches fetched whole as the library's guide for torch says."""
    import torch
    from datasets import interleave_datasets, load_from_disk
    from datasets.distributed import split_dataset_by_node
    from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

    parts = [load_from_disk(str(spec.path / "datasets" / name)).shuffle(seed=SEED) for name in NAMES]
    # all_exhausted: a source that ends begins again, as in every other loader here.
    mixed = interleave_datasets(parts, list(spec.weights), seed=SEED, stopping_strategy="all_exhausted")
    mixed = split_dataset_by_node(mixed, spec.rank, spec.world).with_format("numpy")
    start = spec.start // spec.world
    order = BatchSampler(SequentialSampler(range(start, len(mixed))), spec.batch, drop_last=True)
    shifted = [[start + place for place in batch] for batch in order] if start else order
    loader = DataLoader(
        mixed, sampler=shifted, batch_size=None, num_workers=spec.workers, collate_fn=lambda rows: rows["tokens"]
    )
    for tokens in loader:
        yield torch.from_numpy(tokens.astype("int64"))


def datasets_iterable(spec: Spec) -> Any:
    """(dataset, batches): streamed from Arrow, shards and a buffer of 1,000 shuffled, interleaved by probability."""
    from datasets import interleave_datasets, load_from_disk
    from datasets.distributed import split_dataset_by_node

    parts = [
        load_from_disk(str(spec.path / "datasets" / name))
        .with_format("numpy")
        .to_iterable_dataset(num_shards=32)
        .shuffle(seed=SEED, buffer_size=1000)
        for name in NAMES
    ]
    mixed = interleave_datasets(parts, list(spec.weights), seed=SEED, stopping_strategy="all_exhausted")
    return split_dataset_by_node(mixed, spec.rank, spec.world)


def datasets_stream(spec: Spec) -> Iterator[Any]:
    import numpy as np
    import torch
    from torch.utils.data import DataLoader

    mixed = datasets_iterable(spec)
    if spec.state:
        mixed.load_state_dict(json.loads(spec.state))
    elif spec.start:
        mixed = mixed.skip(spec.start // spec.world)

    def collate(rows: list[dict[str, Any]]) -> Any:
        return torch.from_numpy(np.stack([row["tokens"] for row in rows]).astype(np.int64))

    yield from DataLoader(mixed, batch_size=spec.batch, num_workers=spec.workers, collate_fn=collate, drop_last=True)


def mosaic_loader(spec: Spec) -> Any:
    import numpy as np
    import torch
    from streaming import Stream, StreamingDataLoader, StreamingDataset

    class Tokens(StreamingDataset):
        def __getitem__(self, at: int) -> Any:
            return super().__getitem__(at)["tokens"]

    streams = [
        Stream(local=str(spec.path / "mds" / name), proportion=share)
        for name, share in zip(NAMES, spec.weights, strict=True)
    ]
    dataset = Tokens(
        streams=streams,
        batch_size=spec.batch,
        shuffle=True,
        shuffle_seed=SEED,
        epoch_size=spec.sequences,
        num_canonical_nodes=1,
    )
    return StreamingDataLoader(
        dataset,
        batch_size=spec.batch,
        num_workers=spec.workers,
        drop_last=True,
        collate_fn=lambda rows: torch.from_numpy(np.stack(rows).astype(np.int64)),
    )


def mosaic(spec: Spec) -> Iterator[Any]:
    loader = mosaic_loader(spec)
    if spec.state:
        loader.load_state_dict(json.loads(spec.state))
    yield from loader


def ray_mixed(spec: Spec) -> Any:
    """`Dataset.mix` of two Parquet folders, files in shuffled order; the order of blocks kept."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    parts = [ray.data.read_parquet(str(spec.path / "parquet" / name), shuffle="files") for name in NAMES]
    return parts[0].mix(parts[1], weights=list(spec.weights))


def ray_batches(data: Any, spec: Spec) -> Iterator[Any]:
    import torch

    skipped = 0
    for batch in data.iter_torch_batches(
        batch_size=spec.batch, dtypes={"tokens": torch.int64}, prefetch_batches=4, drop_last=True
    ):
        # There is no position to go to: what an earlier run has given is read again and dropped.
        if skipped >= spec.start // spec.world:
            yield batch["tokens"]
        skipped += spec.batch


SIDES: dict[str, Callable[[Spec], Iterator[Any]]] = {
    "ours-thread": lambda spec: ours(spec, False),
    "ours-ray": lambda spec: ours(spec, True),
    "datasets-map": datasets_map,
    "datasets-stream": datasets_stream,
    "mosaic": mosaic,
}


def state_of(side: str, spec: Spec) -> str:
    """The content of the side's checkpoint at `spec.start`, as JSON."""
    if side.startswith("ours"):
        return json.dumps(ours_plan(spec)[0].counts(spec.start).tolist())
    if side == "mosaic":
        from streaming import StreamingDataset

        dataset: StreamingDataset = mosaic_loader(spec).dataset
        return json.dumps(dataset.state_dict(num_samples=spec.start, from_beginning=True))
    # It knows its state only by having come there.
    mixed = datasets_iterable(spec)
    for position, _ in enumerate(mixed, start=1):
        if position == spec.start:
            break
    return json.dumps(mixed.state_dict())


# ------------------------------------------------------------------------------------------------------ timing


def timed(batches: Callable[[], Iterator[Any]], spec: Spec) -> dict[str, float]:
    """Seconds to the first batch, its own making included, then sequences per second until the end."""
    started_at = time.perf_counter()
    running = batches()
    first = next(running)
    first_seconds = time.perf_counter() - started_at
    assert tuple(first.shape) == (spec.batch, spec.sequence_length), first.shape
    num_taken, started_at = 0, time.perf_counter()
    for batch in running:
        num_taken += len(batch)
        elapsed = time.perf_counter() - started_at
        if elapsed > spec.seconds:
            break
    elapsed = time.perf_counter() - started_at
    close = getattr(running, "close", None)
    if close is not None:
        close()
    return {
        "first_seconds": first_seconds,
        "sequences_per_second": num_taken / elapsed if num_taken else 0.0,
        "taken": num_taken,
    }


def meet(spec: Spec, name: str) -> None:
    """Waits for the other consumers, so that all of them read at the same time."""
    place = spec.path / "meet"
    place.mkdir(exist_ok=True)
    (place / f"{name}-{spec.rank}").write_text("")
    deadline = time.monotonic() + 120
    while len(list(place.glob(f"{name}-*"))) < spec.world:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name}: {spec.world} consumers did not all start within two minutes")
        time.sleep(0.01)


def warm_imports(side: str) -> None:
    """Imports are not what is compared."""
    import torch

    torch.set_num_threads(1)
    if side.startswith("ours"):
        import raycodellm.ingest
        import raycodellm.mixture
        import raycodellm.tokens  # noqa: F401
    elif side.startswith("datasets"):
        import datasets
        import datasets.distributed
        import torch.utils.data

        datasets.disable_progress_bars()
    elif side == "mosaic":
        import streaming  # noqa: F401


def through_ray(side: str, spec: Spec) -> list[dict[str, float]]:
    """All consumers of a side that needs Ray, on one local cluster: each a process of its own."""
    import logging

    import ray

    ray.init(address="local", num_cpus=max(4, 2 * spec.world), include_dashboard=False, log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)

    @ray.remote(num_cpus=0)
    class Consumer:
        def __init__(self, spec: Spec) -> None:
            sys.path.insert(0, str(Path(__file__).parent))
            self.spec = spec
            warm_imports("ours")
            from raycodellm import ingest

            ingest.preload()

        def run(self, data: Any) -> dict[str, float]:
            if data is None:
                return timed(lambda: ours(self.spec, True), self.spec)
            return timed(lambda: ray_batches(data, self.spec), self.spec)

    specs = [Spec(**{**asdict(spec), "rank": rank}) for rank in range(spec.world)]
    consumers = [Consumer.remote(each) for each in specs]
    ray.get([consumer.__ray_ready__.remote() for consumer in consumers])
    shares: list[Any] = [None] * spec.world
    started_at = time.perf_counter()
    if side == "ray-mix":
        mixed = ray_mixed(spec)
        shares = mixed.streaming_split(spec.world, equal=True) if spec.world > 1 else [mixed]
    mixing_seconds = time.perf_counter() - started_at
    timings = ray.get([consumer.run.remote(share) for consumer, share in zip(consumers, shares, strict=True)])
    ray.shutdown()
    return [{**timing, "first_seconds": timing["first_seconds"] + mixing_seconds} for timing in timings]


def main() -> None:
    side, argument = sys.argv[1], sys.argv[2]
    if side == "write-mds":
        return _write_mds(Path(argument))
    fields = json.loads(argument)
    spec = Spec(**{**fields, "weights": tuple(fields["weights"])})
    if side.startswith("state:"):
        print(state_of(side.removeprefix("state:"), spec), flush=True)
        os._exit(0)
    if side in ("ours-ray", "ray-mix"):
        print(json.dumps(through_ray(side, spec)), flush=True)
        return
    warm_imports(side)
    meet(spec, f"{side}-{os.environ['MEET']}")
    result = timed(lambda: SIDES[side](spec), spec)
    print(json.dumps([result]), flush=True)
    os._exit(0)  # loaders with processes and shared memory of their own may take long to end


if __name__ == "__main__":
    main()
