"""How fast a mixed stream of pre-tokenised sequences reaches training: sequences per second and consumer.

Two sources at 70/30, the same sequences in every loader's own files, batches of int64 tokens [batch, sequence_length].
Each side runs in fresh processes, one per consumer, all reading at the same time; imports are not counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import _common
import _sides
from _sides import Spec

LABELS = {
    "ours-thread": "raycodellm, thread reader",
    "ours-ray": "raycodellm, Ray Data reader",
    "datasets-map": "datasets, interleave_datasets, map-style",
    "datasets-stream": "datasets, interleave_datasets, IterableDataset",
    "mosaic": "mosaicml-streaming, StreamingDataset with proportions",
    "ray-mix": "Ray Data, Dataset.mix",
}
WITH_WORKERS = ("datasets-map", "datasets-stream", "mosaic")


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="raycodellm-stream-") as temporary:
        folder = Path(options.folder or temporary)
        _sides.prepare(folder, options.sequence_length, options.megabytes, options.python_streaming)
        rows = []
        for consumers in options.consumers:
            spec = Spec(
                str(folder),
                options.sequence_length,
                options.batch,
                # A whole number of steps for any number of consumers measured.
                options.sequences - options.sequences % (options.batch * consumers),
                world=consumers,
                seconds=options.seconds,
            )
            best_by_side = {side: _best(side, spec, options) for side in _sides_to_run(options)}
            rows += _rows(best_by_side, consumers)
    text = _common.header(
        f"Mixed stream, sequences of {options.sequence_length:,} tokens",
        "raycodellm",
        "ray",
        "torch",
        "datasets",
        "pyarrow",
        notes=[
            f"{options.megabytes} MB of tokens, batches of {options.batch}, at most {options.seconds:g} s per side; "
            f"loader processes per consumer tried: {', '.join(map(str, options.workers))}, the faster is shown",
            f"mosaicml-streaming runs under {_streaming_version(options.python_streaming)}",
            "memory: anonymous and shared pages of all processes of the side together, at their most",
        ],
    )
    columns = (
        "consumers",
        "loader",
        "loader processes",
        "sequences/s per consumer",
        "ours is",
        "first batch, s",
        "MiB",
    )
    _common.finish(text + "\n" + _common.table(columns, rows), options.out)


def _options() -> Any:
    parser = _common.parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="of tokens, all sources together")
    parser.add_argument("--sequences", type=int, default=2_000_000, help="at most, per side")
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32, help="sequences per batch and consumer")
    parser.add_argument("--consumers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=4.0, help="of measurement per side")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="loader processes per consumer to try")
    parser.add_argument("--sides", nargs="+", choices=list(LABELS), default=list(LABELS))
    parser.add_argument("--python-streaming", help="Python of an environment that has mosaicml-streaming")
    return parser.parse_args()


def _sides_to_run(options: Any) -> list[str]:
    return [side for side in options.sides if side != "mosaic" or options.python_streaming]


def _streaming_version(python: str | None) -> str:
    if python is None:
        return "nothing: name an environment's Python by --python-streaming to have it measured"
    code = "import importlib.metadata as m; print('mosaicml-streaming', m.version('mosaicml-streaming'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _best(side: str, spec: Spec, options: Any) -> dict[str, Any]:
    runs = []
    for workers in options.workers if side in WITH_WORKERS else [0]:
        runs.append({**measure(side, replace(spec, workers=workers), options.python_streaming), "workers": workers})
    return max(runs, key=lambda run: run["sequences_per_second"])


def measure(side: str, spec: Spec, streaming_python: str | None) -> dict[str, Any]:
    """Runs a side's consumers at the same time: mean rate per consumer, slowest first batch, memory."""
    script = str(Path(__file__).with_name("_sides.py"))
    python = streaming_python if side == "mosaic" and streaming_python else sys.executable
    one_process = side in ("ours-ray", "ray-mix")
    environment, work = _environment(spec), []
    for rank in range(1 if one_process else spec.world):
        ranked = {} if one_process else {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        work.append(([python, script, side, json.dumps(asdict(replace(spec, rank=rank)))], {**environment, **ranked}))
    running = _common.started(work)
    watch = _common.Memory([process.pid for process in running])
    results = [timing for of_process in _common.finished(running, timeout=300) for timing in of_process]
    return {
        "sequences_per_second": sum(timing["sequences_per_second"] for timing in results) / spec.world,
        "first_seconds": max(timing["first_seconds"] for timing in results),
        "mib": watch.most(),
    }


def _environment(spec: Spec) -> dict[str, str]:
    """The sides' variables: `streaming` finds its ranks in them, and Ray reads Parquet without an actor per footer."""
    return {
        "MEET": uuid.uuid4().hex,
        "WORLD_SIZE": str(spec.world),
        "LOCAL_WORLD_SIZE": str(spec.world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_common.free_port()),
        "RAY_DATA_USE_DATASOURCE_V2": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _rows(best_by_side: dict[str, dict[str, Any]], consumers: int) -> list[list[Any]]:
    our_rate = max(
        (run["sequences_per_second"] for side, run in best_by_side.items() if side.startswith("ours")), default=0.0
    )
    rows = []
    for side, run in best_by_side.items():
        rate = run["sequences_per_second"]
        times = "" if side.startswith("ours") else f"{our_rate / rate:.1f}×"
        workers = run["workers"] if side in WITH_WORKERS else "–"
        rows.append(
            [consumers, LABELS[side], workers, float(round(rate)), times, run["first_seconds"], round(run["mib"])]
        )
    return rows


if __name__ == "__main__":
    main()
