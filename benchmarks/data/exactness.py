"""How far a loader's mixture is from what was asked for: the largest deviation over all prefixes, in sequences of code.

Each library makes the order itself, over two sources of rows that only say which source they are of. For a ramp, which
needs weights that change along the stage, the others get the best that constant weights allow: a new loader for each of
ten equal phases, with the ramp's mean over the phase.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import _common
import numpy as np
import stream

PHASES = 10
RAMP = (0.05, 0.6)
SEED = 7


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "mosaic":
        print(json.dumps(_mosaic_here(**json.loads(sys.argv[2]))), flush=True)
        os._exit(0)  # its shared memory may take long to end
    parser = _common.parser(__doc__)
    parser.add_argument("--sequences", type=int, default=20_000, help="of the stage")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.01, 0.3, 0.95], help="code ratios")
    parser.add_argument("--python-streaming", help="Python of an environment that has mosaicml-streaming")
    options = parser.parse_args()
    rows = [_row("raycodellm", _ours, options, ramps=True)]
    rows.append(_row("datasets, interleave_datasets, map-style", _datasets_map, options))
    rows.append(_row("datasets, interleave_datasets, IterableDataset", _datasets_stream, options))
    if options.python_streaming:
        rows.append(_row("mosaicml-streaming, proportions", _mosaic(options), options))
    rows.append(_row("Ray Data, Dataset.mix, blocks of 64 rows", _ray_mix, options))
    text = _common.header(
        f"Largest deviation over all prefixes of {options.sequences:,} sequences",
        "raycodellm",
        "ray",
        "datasets",
        notes=[
            f"ramp: code ratio {RAMP[0]:g} to {RAMP[1]:g} on a straight line; only raycodellm can be asked for it, the "
            f"others are given {PHASES} equal phases, each a new loader with the ramp's mean over the phase",
            f"mosaicml-streaming runs under {stream._streaming_version(options.python_streaming)}",
        ],
    )
    columns = ("loader", *(f"{ratio:.0%} code" for ratio in options.ratios), "ramp")
    _common.finish(text + "\n" + _common.table(columns, rows), options.out)


Order = Callable[[int, float], np.ndarray]
"""(sequences, code ratio) → whether each sequence is code, in the order in which they come."""


def _row(label: str, order: Any, options: Any, ramps: bool = False) -> list[Any]:
    count, deviations = options.sequences, []
    for ratio in options.ratios:
        deviations.append(_deviation(order(count, ratio), np.full(count, ratio)))
    ramp_order = order(count, RAMP) if ramps else np.concatenate([order(*phase) for phase in _phases(count)])
    return [label, *deviations, _deviation(ramp_order, _ramp(count))]


def _ramp(count: int) -> np.ndarray:
    """Code ratio wanted of each sequence."""
    return RAMP[0] + (RAMP[1] - RAMP[0]) * (np.arange(count) + 0.5) / count


def _phases(count: int) -> list[tuple[int, float]]:
    """(sequences, code ratio) of equal phases that stand for the ramp."""
    return [(len(part), float(part.mean())) for part in np.array_split(_ramp(count), PHASES)]


def _deviation(is_code: np.ndarray, code_ratios: np.ndarray) -> float:
    assert len(is_code) == len(code_ratios), f"{len(is_code)} sequences came of {len(code_ratios)}"
    return float(np.abs(np.cumsum(is_code) - np.cumsum(code_ratios)).max())


def _ours(count: int, ratio: float | tuple[float, float]) -> np.ndarray:
    from raycodellm.mixture import Plan
    from raycodellm.records import SourceSlice
    from raycodellm.schedule import Schedule

    ends = ratio if isinstance(ratio, tuple) else (ratio, ratio)
    sources = tuple(SourceSlice(name, name, "", count, 0) for name in ("text", "code"))
    weights = tuple((1.0 - end, end) for end in ends)
    schedule = Schedule((0.0, 1.0), weights, "linear" if ends[0] != ends[1] else "step")
    return Plan(schedule, sources, count, SEED).rows(0, count).source == 1


def _datasets_parts(count: int) -> list[Any]:
    from datasets import Dataset

    return [Dataset.from_dict({"code": np.full(count, is_code)}).with_format("numpy") for is_code in (False, True)]


def _datasets_map(count: int, ratio: float) -> np.ndarray:
    from datasets import interleave_datasets

    mixed = interleave_datasets(
        _datasets_parts(count), [1.0 - ratio, ratio], seed=SEED, stopping_strategy="all_exhausted"
    )
    return np.asarray(mixed[:count]["code"])


def _datasets_stream(count: int, ratio: float) -> np.ndarray:
    from datasets import interleave_datasets

    parts = [part.to_iterable_dataset() for part in _datasets_parts(count)]
    mixed = interleave_datasets(parts, [1.0 - ratio, ratio], seed=SEED, stopping_strategy="all_exhausted")
    return np.array([row["code"] for row in mixed.take(count)])


def _mosaic(options: Any) -> Order:
    """All orders that will be asked for, made by one process of the other environment."""
    asked = [(options.sequences, ratio) for ratio in options.ratios] + _phases(options.sequences)
    with tempfile.TemporaryDirectory(prefix="raycodellm-exactness-") as folder:
        arguments = json.dumps({"folder": folder, "asked": asked})
        run = subprocess.run([options.python_streaming, __file__, "mosaic", arguments], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"streaming ended with {run.returncode}:\n{run.stderr[-3000:]}")
    orders = dict(zip(asked, json.loads(run.stdout.strip().splitlines()[-1]), strict=True))
    return lambda count, ratio: np.array(orders[count, ratio], bool)


def _mosaic_here(folder: str, asked: list[tuple[int, float]]) -> list[list[int]]:
    from streaming import MDSWriter, Stream, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    max_count = max(count for count, _ in asked)
    for name, code in (("text", 0), ("code", 1)):
        with MDSWriter(out=f"{folder}/{name}", columns={"code": "int"}) as out:
            for _ in range(max_count):
                out.write({"code": code})
    orders = []
    for count, ratio in asked:
        shares = (("text", 1 - ratio), ("code", ratio))
        streams = [Stream(local=f"{folder}/{name}", proportion=share) for name, share in shares]
        dataset = StreamingDataset(
            streams=streams, batch_size=1, shuffle=True, shuffle_seed=SEED, epoch_size=count, num_canonical_nodes=1
        )
        orders.append([row["code"] for row in dataset])
        del dataset
        clean_stale_shared_memory()  # a folder may be open once at a time
    return orders


def _ray_mix(count: int, ratio: float) -> np.ndarray:
    import ray.data

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    sizes = [count - int(count * ratio), int(count * ratio)]
    parts = [
        ray.data.from_numpy(list(np.array_split(np.full(size, is_code), max(1, size // 64))))
        for size, is_code in zip(sizes, (False, True), strict=True)
    ]
    mixed = parts[0].mix(parts[1], weights=[1.0 - ratio, ratio])
    return np.concatenate([batch["data"] for batch in mixed.iter_batches(batch_size=None)])[:count]


if __name__ == "__main__":
    main()
