"""How long a stopped stage takes to its first batch when it is continued: ours at several positions, theirs at 90 %.

Each side starts in a fresh process from what its own checkpoint would hold: ours a position and the sequences drawn of
each source, `datasets` and `streaming` their state_dict (or a skip). Imports are not counted; opening the data is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import _common
import _sides
import stream
from _sides import Spec


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=100, help="of tokens, all sources together")
    parser.add_argument("--sequences", type=int, default=20_000, help="of the stage")
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--long-stage", type=int, default=10_000_000, help="sequences of a stage that only ours is tried on"
    )
    parser.add_argument("--python-streaming", help="Python of an environment that has mosaicml-streaming")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raycodellm-resume-") as temporary:
        folder = Path(options.folder or temporary)
        _sides.prepare(folder, options.sequence_length, options.megabytes, options.python_streaming)
        whole = options.sequences - options.sequences % options.batch
        spec = Spec(str(folder), options.sequence_length, options.batch, whole, seconds=0.0)
        rows = [_row("raycodellm, thread reader", "ours-thread", spec, share, options) for share in (0.01, 0.5, 0.9)]
        long = replace(spec, sequences=options.long_stage - options.long_stage % options.batch)
        rows += [_row("raycodellm, thread reader", "ours-thread", long, share, options) for share in (0.01, 0.5, 0.9)]
        rows.append(_row("raycodellm, Ray Data reader", "ours-ray", spec, 0.9, options))
        rows.append(_row("datasets, IterableDataset, load_state_dict", "datasets-stream", spec, 0.9, options))
        rows.append(_row("datasets, IterableDataset, skip", "datasets-stream", spec, 0.9, options, state=False))
        rows.append(_row("datasets, map-style, from an index on", "datasets-map", spec, 0.9, options))
        if options.python_streaming:
            rows.append(_row("mosaicml-streaming, load_state_dict", "mosaic", spec, 0.9, options))
        rows.append(_row("Ray Data, Dataset.mix, read again and dropped", "ray-mix", spec, 0.9, options))
    text = _common.header(
        f"Continuing a stage, sequences of {options.sequence_length:,} tokens",
        "raycodellm",
        "ray",
        "torch",
        "datasets",
        notes=[f"mosaicml-streaming runs under {stream._streaming_version(options.python_streaming)}"],
    )
    columns = ("loader", "stage, sequences", "stopped at", "first batch, s", "second batch came after, s")
    _common.finish(text + "\n" + _common.table(columns, rows), options.out)


def _row(label: str, side: str, spec: Spec, share: float, options: Any, state: bool = True) -> list[Any]:
    start = int(spec.sequences * share)
    stopped = replace(spec, start=start - start % spec.batch)
    if state:
        stopped = replace(stopped, state=_state(side, stopped, options))
    timing = stream.measure(side, stopped, options.python_streaming)
    next_seconds = spec.batch / timing["sequences_per_second"] if timing["sequences_per_second"] else float("nan")
    return [label, spec.sequences, f"{share:.0%}", timing["first_seconds"], next_seconds]


def _state(side: str, spec: Spec, options: Any) -> str:
    """The content of the side's checkpoint at `spec.start`; made in a process of its own, which is not timed."""
    if side not in ("ours-thread", "ours-ray", "datasets-stream", "mosaic"):
        return ""
    python = options.python_streaming if side == "mosaic" else sys.executable
    command = [python, str(Path(_sides.__file__)), f"state:{side}", json.dumps(asdict(spec))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if run.returncode:
        raise RuntimeError(f"the state of {side} could not be made:\n{run.stderr[-3000:]}")
    return run.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
