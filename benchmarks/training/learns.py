"""Shows that a model learns: held-out bits per byte of each source while `tiny` trains.

Runs `raycodellm run` on English books and the installed Python's source and reads `metrics.parquet`. The last tokens of
each source are held out of training; bits per byte compares texts whatever the tokenizer.

    python benchmarks/training/learns.py --text BOOKS                    # a folder of plain text; some five minutes
    python benchmarks/training/learns.py --text BOOKS --tokens 10_000_000 --code-ratio 0.5
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import _common

SOURCES = {"books": "text", "stdlib": "code"}


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="raycodellm-learns-") as temporary:
        stage = _trained(Path(options.folder or temporary), options)
        rows = pq.read_table(stage / "metrics.parquet").to_pylist()
        record = json.loads((stage / "stage.json").read_text())["record"]
    text = _common.header(
        f"What `{options.preset}` learns from {options.tokens:,} tokens",
        *("raycodellm", "ray", "deepspeed", "torch", "transformers"),
        notes=[
            f"books and standard library, mean code ratio {options.code_ratio}, {options.schedule}; "
            f"{options.held_out:,} tokens of each held out",
            f"{record['wall_seconds']:.0f} s in the stage, measuring included; largest difference between ledger and "
            f"plan: {max(abs(row['difference']) for row in record['ledger'])} tokens; epochs: "
            + ", ".join(f"{row['source']} {row['epochs']:.2f}" for row in record["ledger"]),
        ],
    )
    text += "\n" + _common.table(
        ["tokens", "code ratio so far", *(f"{name}, bits per byte" for name in SOURCES), "training loss, nats"],
        [_row(row) for row in rows if row["bpb/books"] == row["bpb/books"]],  # NaN: not measured at this row
    )
    _common.finish(text, options.out)


def _options() -> Any:
    parser = _common.parser(__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="a folder of books as plain text")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--tokens", type=int, default=3_000_000)
    parser.add_argument("--held-out", type=int, default=32_768, help="tokens of each source")
    parser.add_argument("--code-ratio", type=float, default=0.3)
    parser.add_argument("--schedule", default="linear_up")
    return parser.parse_args()


def _row(row: dict[str, float]) -> tuple[Any, ...]:
    return (row["tokens"], row["code_ratio_real"], *(row[f"bpb/{name}"] for name in SOURCES), row["loss"])


def _trained(folder: Path, options: Any) -> Path:
    """The finished stage's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "learns.yaml"
    file.write_text(sweep_text(options))
    command = [sys.executable, "-m", "raycodellm.cli", "run", str(file), "--storage", str(folder / "storage")]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (stage,) = (folder / "storage" / "stages").glob("pretrain-*")
    return stage


def sweep_text(options: Any) -> str:
    """A sweep of one trial; its evaluation is as short as can be."""
    return f"""
name: learns
model: {{preset: {options.preset}}}
tokenizer: {{train: {{vocab_size: 4096}}}}
sources:
  books: {{kind: text, path: {json.dumps(str(Path(options.text).resolve()))}, format: text, documents: paragraphs}}
  stdlib: {{kind: code, path: "builtin:python-code"}}
stages:
  - name: pretrain
    tokens: {options.tokens}
    sequence_length: 128
    batch_tokens: 4_096
    learning_rate: {{peak: 3.0e-3, schedule: cosine, warmup: 0.05, final: 0.1}}
    code_ratio: {options.code_ratio}
    schedule: {options.schedule}
    held_out: {{tokens: {options.held_out}, every_tokens: {max(4_096, options.tokens // 10)}}}
evaluation: {{tasks: [boxes], limit: 20}}
search: {{trials: 1, sampler: random, objective: {{metric: mean/bpb, mode: min}}}}
scaling: {{workers: 1, slots: 1, deepspeed: {{zero: 1}}}}
"""


if __name__ == "__main__":
    main()
