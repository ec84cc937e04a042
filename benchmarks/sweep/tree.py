"""The stage tree's savings: 3 x 3 x 3 arms whose stages are 80, 15 and 5 % of a trial's tokens, with each shared stage
trained once and with every trial training all of its own; and with `--sweep trunk`, lengths of one stage on a trunk.

    python benchmarks/sweep/tree.py --folder /tmp/tree
    python benchmarks/sweep/tree.py --folder /tmp/tree --side shared --seconds 200    # again, until it says done
    python benchmarks/sweep/tree.py --folder /tmp/tree --side table

Both sides are the same sweep by the same command, and read the same token stores. The unshared one gives each trial's
stages folders and identities of their own, which decide nothing of what is trained. With `--seconds` a side is stopped
after so long; run again it goes on. Only seconds in which trials were open are counted, and among these those in which
they wait for the slots of a continued run. "Of steps" is the time that all slots spent on training steps.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import _common

from raycodellm import stage_store
from raycodellm.files import Folder, fingerprint
from raycodellm.records import EVALUATION, job_key
from raycodellm.stage_store import Chain
from raycodellm.sweep import TrialContext

SIDES = {"shared": "each stage once", "unshared": "each trial alone"}
COMMON = """
name: {name}
model: {{preset: tiny}}
tokenizer: {{train: {{vocab_size: 4096, sample_bytes: 4_000_000}}}}
sources:
  prose: {{kind: text, path: "builtin:python-prose"}}
  python: {{kind: code, path: "builtin:python-code"}}
evaluation: {{tasks: [boxes], limit: 20}}
search: {{sampler: grid, objective: {{metric: mean/bpb, mode: min}}}}
scaling: {{workers: 1, slots: {slots}, checkpoint_seconds: 30}}
stages:
"""
STAGES = """
  - name: pretrain
    tokens: {pretrain}
    sequence_length: 128
    batch_tokens: 2_048
    learning_rate: {{peak: 3.0e-3, schedule: constant}}
    code_ratio: {{search: {{choice: [0.0, 0.25, 0.5]}}}}
  - name: cooldown
    tokens: {cooldown}
    sequence_length: 128
    batch_tokens: 2_048
    learning_rate: {{peak: 3.0e-3, schedule: linear, boundary: continue}}
    code_ratio: {{search: {{choice: [0.0, 0.25, 0.5]}}}}
  - name: instruct
    tokens: {instruct}
    sequence_length: 128
    batch_tokens: 2_048
    learning_rate: {{peak: {{search: {{choice: [5.0e-4, 1.0e-3, 2.0e-3]}}}}, schedule: linear}}
    code_ratio: 0.25
"""
TRUNK = """
  - name: pretrain
    tokens: {{search: {{choice: [{quarter}, {half}, {tokens}]}}}}
    sequence_length: 128
    batch_tokens: 2_048
    learning_rate: {{peak: 3.0e-3, schedule: constant, warmup_steps: 5}}
    code_ratio: 0.25
  - name: cooldown
    tokens: {cooldown}
    sequence_length: 128
    batch_tokens: 2_048
    learning_rate: {{peak: 3.0e-3, schedule: linear, boundary: continue}}
    optimizer: {{state: keep}}
    code_ratio: {{search: {{choice: [0.0, 0.5]}}}}
"""
SWEEPS = {
    "stages": (STAGES, "3 × 3 × 3 arms, {:,} tokens a trial in stages of 80, 15 and 5 %", 27),
    "trunk": (TRUNK, "3 lengths of the first stage, up to {:,} tokens, × 2 cooldowns", 6),
}
"""Name to the stages, what is said of them, and the number of trials."""


class Unshared(TrialContext):
    """The context of trials of which each trains all of its stages itself."""

    def chain(self, params: Mapping[str, Any], seed: int) -> Chain:
        shared_chain = super().chain(params, seed)
        stages: list[Any] = []
        for job in shared_chain.stages:
            own_identity = fingerprint([job.identity, sorted(params.items())])
            folder = Folder(job.folder).parent / job_key(job.stage.name, own_identity)
            stages.append(
                replace(
                    job,
                    identity=own_identity,
                    folder=folder.uri,
                    parent=stages[-1].folder if stages else None,
                    trunk=None,
                )
            )
        last = stages[-1]
        evaluation_job = stage_store.evaluation_job(
            last.identity,
            Folder(last.folder) / "model",
            Folder(last.folder) / EVALUATION,
            shared_chain.evaluation.evaluation,
            self.materials.contents,
            shared_chain.evaluation.held_out,
        )
        return Chain(tuple(stages), replace(evaluation_job, parent=last.key))


def main() -> None:
    options = _options()
    folder = Path(options.folder or "/tmp/raycodellm-tree").resolve()
    if options.side in SIDES:
        sys.exit(_run(options.side, folder, options))
    if options.side == "both":
        for side in SIDES:
            arguments = [part for part in sys.argv[1:] if part != "both"]
            command = [sys.executable, __file__, *arguments, "--folder", str(folder), "--side", side]
            if (code := os.spawnv(os.P_WAIT, sys.executable, command)) != 0:
                sys.exit(f"{side} ended with {code}")
    _common.finish(_table(folder, options), options.out)


def _options() -> Any:
    parser = _common.parser(__doc__.splitlines()[0])
    parser.add_argument("--sweep", choices=list(SWEEPS), default="stages")
    parser.add_argument("--tokens", type=int, default=512_000, help="of one trial")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--side", choices=[*SIDES, "both", "table"], default="both")
    parser.add_argument("--seconds", type=float, help="stop the side after so long, to be continued")
    return parser.parse_args()


def _run(side: str, folder: Path, options: Any) -> int:
    """Runs one side in this process, with a cluster of its own; 130 where it was stopped before its end."""
    import raycodellm.sweep.run
    from raycodellm.cli import main as raycodellm_command

    sizes = {name: round(options.tokens * share) for name, share in _SHARES.items()}
    file = folder / f"{side}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    stages = SWEEPS[options.sweep][0]
    file.write_text((COMMON + stages).format(name=side, slots=options.slots, tokens=options.tokens, **sizes))
    storage = folder / side
    other_storage = next(folder / name for name in SIDES if name != side)
    for folder_name in ("tokens", "tokenizers"):
        if (other_storage / folder_name).exists() and not (storage / folder_name).exists():
            shutil.copytree(other_storage / folder_name, storage / folder_name)
    if side == "unshared":
        raycodellm.sweep.run.TrialContext = Unshared  # type: ignore[misc]
    if options.seconds:
        timer = threading.Timer(options.seconds, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True
        timer.start()
    _note(folder / f"{side}.loads", os.getloadavg()[0])
    tune_trials = raycodellm.sweep.run.tune_trials

    def timed(*arguments: Any) -> None:
        started_at = time.monotonic()
        try:
            tune_trials(*arguments)
        finally:
            _note(folder / f"{side}.seconds", time.monotonic() - started_at)

    raycodellm.sweep.run.tune_trials = timed
    code = raycodellm_command(["run", str(file), "--storage", str(storage)])
    print(f"{side}: {'done' if code == 0 else f'exit {code}'}", flush=True)
    return code


def _note(file: Path, value: float) -> None:
    """Adds a line to the file of a side, which has one for each part of its run."""
    with open(file, "a") as lines:
        lines.write(f"{value:.1f}\n")


_SHARES = {"pretrain": 0.80, "cooldown": 0.15, "instruct": 0.05, "quarter": 0.25, "half": 0.5}


# ------------------------------------------------------------------------------------------------------- the table


def _table(folder: Path, options: Any) -> str:
    sides = {side: _measured(folder / side / side, SWEEPS[options.sweep][2]) for side in SIDES}
    equal = sides["shared"]["scores"] == sides["unshared"]["scores"]
    models = sides["shared"]["models"] == sides["unshared"]["models"]
    loads = {side: (folder / f"{side}.loads").read_text().split() for side in SIDES}
    text = _common.header(
        "What the stage tree saves",
        *("raycodellm", "ray", "torch", "optuna"),
        notes=[
            f"{SWEEPS[options.sweep][1].format(options.tokens)}; tiny, "
            f"{options.slots} slots; seconds from the first suggestion to the last result",
            "load of the machine when each part began: "
            + "; ".join(f"{SIDES[side]} {', '.join(loads[side])}" for side in SIDES),
        ],
    )
    columns = ("tokens", "stages", "seconds", "training")
    rows = [[SIDES[side], *(sides[side][name] for name in columns)] for side in SIDES]
    ratios = [sides["unshared"][name] / max(1e-9, sides["shared"][name]) for name in columns]
    rows.append(["alone / once", *ratios])
    header = [f"{len(sides['shared']['scores'])} trials", "tokens trained", "stages trained", "seconds", "of steps"]
    text += "\n" + _common.table(header, rows)
    text += f"\nScores equal bit for bit: {'yes' if equal else 'NO'}; weights too: {'yes' if models else 'NO'}.\n"
    return text


def _measured(run: Path, num_trials: int) -> dict[str, Any]:
    """The tokens that a finished side has trained, the time that took, its scores and its models."""
    records = [json.loads(path.read_text())["record"] for path in run.parent.glob("stages/*/DONE")]
    scores, models = {}, {}
    for path in sorted(run.glob("trials/*/result.json")):
        result = json.loads(path.read_text())
        arm = json.dumps(result["params"], sort_keys=True)
        assert result["state"] == "complete", f"{path}: {result['state']}, {result.get('error')}"
        scores[arm] = result["metrics"]
        weights = run.parent / "stages" / result["stages"][-1] / "model" / "model.safetensors"
        models[arm] = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert len(scores) == num_trials, f"{run}: {len(scores)} of {num_trials} trials have ended; run this side again"
    return {
        "tokens": sum(record["num_tokens"] - record["trunk_tokens"] for record in records),
        "stages": len(records),
        "seconds": sum(map(float, (run.parents[1] / f"{run.name}.seconds").read_text().split())),
        "training": sum(record["device_seconds"] - record["trunk_seconds"] for record in records),
        "scores": scores,
        "models": models,
    }


if __name__ == "__main__":
    main()
