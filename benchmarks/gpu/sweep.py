"""Sweeps through Ray on one GPU, by the command line that users have: speed, a killed worker, full memory, shared GPUs.

    python benchmarks/gpu/sweep.py --folder DIR --out FILE --parts plain killed shared arms
    python benchmarks/gpu/sweep.py --folder DIR --device cpu --preset tiny --precision fp32 --tokens 400000 \
        --batch-tokens 8192

Each part is one `raycodellm run` and appends one JSON line. plain: one trial; first step, tokens/s, wait for data.
killed: the same with the training process killed in the middle; is the ledger the same? shared: two slots at half a GPU
each, and an arm whose batch cannot fit; does it fail with its cause while the others go on? compiled: plain with
`compile: true`. arms: code ratios x seeds in slots that share the GPU, with the verdict; compiled with `--compile`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _lines import leave

ROOT = Path(__file__).resolve().parents[2]
SWEEP = """
name: {name}
model: {{preset: {preset}}}
tokenizer: {{train: {{vocab_size: 4096, sample_bytes: 4_000_000}}}}
sources:
  prose: {{kind: text, path: "builtin:python-prose"}}
  python: {{kind: code, path: "builtin:python-code"}}
stages:
  - name: pretrain
    tokens: {tokens}
    sequence_length: {sequence_length}
    batch_tokens: {batch_tokens}
    numerics: {{precision: {precision}}}
    learning_rate: {{peak: 1.0e-3, schedule: cosine, warmup: 0.05, final: 0.1}}
    code_ratio: {code_ratio}
    schedule: constant
evaluation: {{{tasks}, limit: {limit}}}
search: {{sampler: grid, objective: {{metric: mean/bpb, mode: min}}, replicates: {replicates}{search}}}
scaling:
  workers: 1
  gpus_per_worker: {gpus}
  slots: {slots}
  checkpoint_tokens: {checkpoint_tokens}
  deepspeed: {{zero: 1, micro_batch: {micro_batch}, compile: {compile}}}
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="of the storages; what is there is kept")
    parser.add_argument("--out", help="append the lines to this file as well")
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS), default=["plain", "killed", "shared"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--tokens", type=int, default=24_000_000, help="of a trial")
    parser.add_argument("--batch-tokens", type=int, default=131_072)
    parser.add_argument("--sequence-length", type=int, default=512, help="tokens")
    parser.add_argument("--limit", type=int, default=200, help="items per task")
    parser.add_argument("--seeds", type=int, default=3, help="of each arm, of the part arms")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.0, 0.25, 0.5, 0.75], help="of the part arms")
    parser.add_argument("--slots", type=int, default=3, help="of the part arms")
    parser.add_argument("--compile", action="store_true", help="in the part arms")
    parser.add_argument("--seconds", type=float, default=200, help="after which a part is stopped")
    return parser.parse_args()


# ----------------------------------------------------------------------------------------------------- the parts


def plain(options: argparse.Namespace) -> dict[str, Any]:
    return measured(options, "plain")


def compiled(options: argparse.Namespace) -> dict[str, Any]:
    return measured(options, "compiled", compile="true")


def killed(options: argparse.Namespace) -> dict[str, Any]:
    """Compares with `plain`, which must have run in the same folder."""
    storage = Path(options.folder) / "killed"
    for name in ("tokens", "tokenizers"):
        shutil.copytree(Path(options.folder) / "plain" / name, storage / name, dirs_exist_ok=True)
    found = measured(options, "killed", kill_at=0.4)
    one, other = (stage_of(Path(options.folder) / name)["record"] for name in ("plain", "killed"))
    return found | {
        "same_order": one["order_checksum"] == other["order_checksum"],
        "same_ledger": one["ledger"] == other["ledger"],
        "resumed_at": other["resumed_at"],
        "final_loss": [one["final_loss"], other["final_loss"]],
    }


def shared(options: argparse.Namespace) -> dict[str, Any]:
    """Two slots on one GPU. On a GPU one arm of three asks for a forward pass of 2^24 tokens, which no memory holds."""
    sizes = [options.batch_tokens, *([2**24] if options.device == "cuda" else []), options.batch_tokens // 2]
    settings = {"batch_tokens": choice(sizes), "slots": 2, "gpus": 0.5}
    found = measured(options, "shared", micro_batch="null", **settings)
    jobs = [job for job in found["jobs"].values() if "first_step" in job]
    starts, ends = [job["first_step"] for job in jobs], [job["last_step"] for job in jobs]
    return found | {"seconds_together": round(max(0.0, min(ends) - max(starts)), 1)}


def arms(options: argparse.Namespace) -> dict[str, Any]:
    share = 1 / options.slots if options.slots > 1 else 1
    settings = {"code_ratio": choice(options.ratios), "replicates": options.seeds, "slots": options.slots}
    settings |= {"tasks": "suites: [offline]", "search": f", reference: {{pretrain.code_ratio: {options.ratios[0]}}}"}
    found = measured(options, "arms", gpus=round(share, 3), compile=str(options.compile).lower(), **settings)
    jobs = [job for job in found.get("jobs", {}).values() if "last_step" in job]
    if jobs:
        seconds = max(job["last_step"] for job in jobs) - min(job["first_step"] for job in jobs)
        found["tokens_per_second_together"] = round(options.tokens * len(jobs) / seconds)
    folder = Path(options.folder) / "arms" / "arms"
    status = subprocess.run(command("status", str(folder)), capture_output=True, text=True, cwd=ROOT)
    report = folder / "report" / "report.md"
    return found | {"status": status.stdout, "report": report.read_text() if report.is_file() else None}


PARTS = {"plain": plain, "compiled": compiled, "killed": killed, "shared": shared, "arms": arms}


def choice(values: list[Any]) -> str:
    return f"{{search: {{choice: {json.dumps(values)}}}}}"


# ----------------------------------------------------------------------------------------------------- one run


def measured(options: argparse.Namespace, name: str, kill_at: float | None = None, **changed: Any) -> dict[str, Any]:
    """One `raycodellm run`; `kill_at`: share of the stage after which its training process is killed once."""
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    cuda = options.device == "cuda"
    settings = {
        **{key: getattr(options, key) for key in ("preset", "precision", "tokens", "batch_tokens", "sequence_length")},
        **{"limit": options.limit, "code_ratio": 0.4, "replicates": 1, "gpus": 1, "slots": 1, "micro_batch": "auto"},
        **{"compile": "false", "tasks": "tasks: [boxes, logical_deduction]", "search": ""},
        **changed,
    }
    settings["gpus"] = settings["gpus"] if cuda else 0
    settings["checkpoint_tokens"] = options.tokens // 10
    sweep = folder / f"{name}.yaml"
    sweep.write_text(SWEEP.format(name=name, **settings))
    storage, log = folder / name, folder / f"{name}.log"
    began = time.time()
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command("run", str(sweep), "--storage", str(storage)), stdout=file, stderr=subprocess.STDOUT, cwd=ROOT
        )
        try:
            was_killed = watch(process, storage, began + options.seconds, kill_at)
        except KeyboardInterrupt:  # the step's time is over, and the next one needs the device
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(7)
            process.kill()
            raise
    found = {"part": name, "exit_code": process.returncode, "wall_seconds": round(time.time() - began, 1)}
    if kill_at is not None:
        found["killed"] = was_killed
    return found | outcome(storage, name, began) | {"said": log.read_text()[-1500:]}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "raycodellm.cli", *arguments]


def watch(process: subprocess.Popen, storage: Path, until: float, kill_at: float | None) -> int | None:
    """Waits for the run to end, stops it cleanly when its time is over; the process that was killed on the way."""
    was_killed = None
    while process.poll() is None:
        time.sleep(0.2)
        if kill_at is not None and was_killed is None and newest_checkpoint(storage) >= kill_at:
            was_killed = training_process(process.pid)
            if was_killed is not None:
                os.kill(was_killed, signal.SIGKILL)
        if time.time() > until:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
    return was_killed


def newest_checkpoint(storage: Path) -> float:
    """Share of its stage that the newest complete checkpoint holds."""
    for stage in (storage / "stages").glob("pretrain-*"):
        steps = [int(path.parent.name.removeprefix("step-")) for path in stage.glob("checkpoint/step-*/COMPLETE")]
        if steps:
            settings = json.loads((stage / "stage.json").read_text())["job"]["stage"]
            return max(steps) / -(-settings["tokens"] // settings["batch_tokens"])
    return 0.0


def training_process(driver: int) -> int | None:
    """The Ray Train worker below this driver."""
    import psutil

    for process in psutil.Process(driver).children(recursive=True):
        try:
            if "TrainWorker" in " ".join(process.cmdline()):
                return process.pid
        except psutil.Error:  # it has just ended
            continue
    return None


def stage_of(storage: Path) -> dict[str, Any]:
    (folder,) = (storage / "stages").glob("pretrain-*")
    return json.loads((folder / "stage.json").read_text())


def outcome(storage: Path, name: str, began: float) -> dict[str, Any]:
    """Reads the run's own files."""
    import pyarrow.parquet as pq

    run = storage / name
    found: dict[str, Any] = {}
    if kept := sorted((run / "runs").glob("*.json")):
        told = json.loads(kept[-1].read_text())
        first = [job["first_step"] for job in told["jobs"].values() if "first_step" in job]
        found["parts_seconds"] = {part: round(end - start, 1) for part, (start, end) in told["parts"].items()}
        found["first_step_seconds"] = round(min(first) - began, 1) if first else None
        found["jobs"] = {
            key: {what: round(when - began, 1) for what, when in job.items()} for key, job in told["jobs"].items()
        }
    stages = []
    for folder in sorted((storage / "stages").glob("pretrain-*")):
        if (folder / "DONE").exists():
            rows = pq.read_table(folder / "metrics.parquet").to_pylist()[2:]  # the first rows hold the warm-up
            rates = sorted(row["tokens_per_second"] for row in rows)
            told = json.loads((folder / "stage.json").read_text())
            stages.append(
                {
                    "micro_batch": told.get("micro_batch", {}).get("sequences"),
                    "batch_tokens": told["job"]["stage"]["batch_tokens"],
                    "seed": told["job"]["seed"],
                    "tokens_per_second": round(rates[len(rates) // 2]) if rates else None,
                    "mfu": round(sorted(row["mfu"] for row in rows)[len(rows) // 2], 4) if rows else None,
                    "data_wait_share": round(sum(row["data_wait_share"] for row in rows) / len(rows), 4)
                    if rows
                    else None,
                    "memory_gb": round(max(row["memory_bytes"] for row in rows) / 1e9, 2) if rows else None,
                    "wall_seconds": round(told["record"]["wall_seconds"], 1),
                    "final_loss": told["record"]["final_loss"],
                }
            )
    trials = [json.loads(path.read_text()) for path in sorted(run.glob("trials/*/result.json"))]
    found["trials"] = [
        {key: trial.get(key) for key in ("number", "arm", "seed", "state", "error", "params", "deaths")}
        | {"bpb": (trial.get("metrics") or {}).get("mean/bpb")}
        for trial in trials
    ]
    return found | {"stages": stages}


def main() -> None:
    options = arguments()
    has_failed = False
    for part in options.parts:
        try:
            found = PARTS[part](options)
        except Exception as error:  # the other parts are worth having without this one
            has_failed = True
            found = {"part": part, "error": f"{type(error).__name__}: {error}"}
        leave(found, options.out)
    sys.exit(has_failed)


if __name__ == "__main__":
    main()
