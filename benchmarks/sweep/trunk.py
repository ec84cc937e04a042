"""Measures how much stages of several total lengths save by sharing one trunk, in one process and without Ray.

    python benchmarks/sweep/trunk.py --folder /tmp/trunk --rounds 3

Each length is trained to its end, a decay over its last part included (warm up, stay, decay), the shortest first: once
with the trunk, where a longer stage goes on from a checkpoint of a shorter one, and once alone. A round trains all
lengths on both sides, the sides in turns, so that the load of the machine meets both. Equal: the bytes of each model's
weights are the same on both sides.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import _common

from raycodellm import config, stage_store, tokens
from raycodellm.files import Folder
from raycodellm.records import StageJob, StageRecord
from raycodellm.stage import World, train_stage

SWEEP = """
name: trunk
model: {{preset: {preset}}}
tokenizer: {{train: {{vocab_size: 4096, sample_bytes: 4_000_000}}}}
sources:
  prose: {{kind: text, path: "builtin:python-prose"}}
  python: {{kind: code, path: "builtin:python-code", limit_documents: 200}}
stages:
  - name: pretrain
    tokens: {{search: {{choice: {tokens}}}}}
    sequence_length: 128
    batch_tokens: 2_048
    learning_rate: {{peak: 3.0e-3, schedule: wsd, warmup_steps: 5, decay: {decay}}}
    code_ratio: 0.25
evaluation: {{tasks: [boxes], limit: 20}}
search: {{sampler: grid, objective: {{metric: mean/bpb, mode: min}}}}
"""
STEP = 2_048
"""Tokens."""


def main() -> None:
    parser = _common.parser(__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 100, 150, 200], help="lengths of the stage")
    parser.add_argument("--decay", type=float, default=0.2, help="share of each length in which the rate decays")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(options.folder or "/tmp/raycodellm-trunk").resolve()
    lengths = [steps * STEP for steps in sorted(options.steps)]
    file = config.parse(SWEEP.format(preset=options.preset, tokens=lengths, decay=options.decay))
    data = tokens.prepare(file.example(), Folder(str(folder / "data")))
    sides: dict[str, list[dict[str, Any]]] = {"shared": [], "alone": []}
    _side(file, data, folder / "warm", lengths[:1], shared=False)  # imports, and the machine's caches
    for number in range(options.rounds):
        for side in sorted(sides, reverse=bool(number % 2)):
            sides[side].append(_side(file, data, folder / side, lengths, shared=side == "shared"))
    _common.finish(_table(sides, options, lengths), options.out)


def _side(
    file: config.SweepFile, data: tokens.Prepared, storage: Path, lengths: list[int], shared: bool
) -> dict[str, Any]:
    """Trains each length in an empty storage; returns what was trained, how long that took, and the weights' hashes."""
    shutil.rmtree(storage, ignore_errors=True)
    contents = stage_store.contents_of_file(file)
    materials = stage_store.Materials(
        data.stores, data.tokenizer_folder, data.tokenizer_fingerprint, data.vocab_size, Folder(str(storage)), contents
    )
    chains = [stage_store.trial_chain(file, {"pretrain.tokens": length}, 0, materials) for length in lengths]
    jobs = [chain.stages[0] if shared else replace(chain.stages[0], trunk=None) for chain in chains]
    started_at, of_cpu = time.monotonic(), time.process_time()
    records = [_train(job) for job in jobs]
    return {
        "seconds": time.monotonic() - started_at,
        "cpu": time.process_time() - of_cpu,
        "tokens": sum(record.num_tokens - record.trunk_tokens for record in records),
        "taken": [record.trunk_steps for record in records],
        "weights": [
            hashlib.sha256(Path(job.folder, "model/model.safetensors").read_bytes()).hexdigest() for job in jobs
        ],
        "losses": [record.final_loss for record in records],
    }


def _train(job: StageJob) -> StageRecord:
    record = train_stage(job, World(), on_progress=lambda progress: None, should_stop=lambda: False)
    assert record is not None, "nothing stops the stage"
    return record


def _table(sides: dict[str, list[dict[str, Any]]], options: Any, lengths: list[int]) -> str:
    text = _common.header(
        "What a trunk saves",
        *("raycodellm", "torch", "deepspeed"),
        notes=[
            f"{options.preset}; stages of {', '.join(f'{length:,}' for length in lengths)} tokens, of which the last "
            f"{options.decay:.0%} decay; {options.rounds} rounds of both sides in turns, in one process; seconds are "
            "the median of the rounds, with the least and the most",
        ],
    )
    rows, figures = [], {}
    for side, name in (("shared", "on one trunk"), ("alone", "each length alone")):
        seconds = sorted(figures_of_round["seconds"] for figures_of_round in sides[side])
        figures[side] = (
            sides[side][0]["tokens"],
            median(seconds),
            median(figures_of_round["cpu"] for figures_of_round in sides[side]),
        )
        rows.append([name, *figures[side], f"{seconds[0]:.1f} to {seconds[-1]:.1f}"])
    rows.append(
        ["alone / on one trunk", *(b / a for a, b in zip(figures["shared"], figures["alone"], strict=True)), ""]
    )
    text += "\n" + _common.table(
        [f"{len(lengths)} lengths", "tokens trained", "wall seconds", "CPU seconds", "wall seconds of the rounds"], rows
    )
    first, *others = [*sides["alone"], *sides["shared"]]
    equal = all(
        (figures_of_round["weights"], figures_of_round["losses"]) == (first["weights"], first["losses"])
        for figures_of_round in others
    )
    taken_steps = ", ".join(map(str, sides["shared"][0]["taken"]))
    text += f"\nSteps taken over by each length: {taken_steps}. "
    text += f"Weights and losses equal bit for bit in all rounds and on both sides: {'yes' if equal else 'NO'}.\n"
    return text


if __name__ == "__main__":
    main()
