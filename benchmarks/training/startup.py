"""Measures the time from the command to the first optimiser step, and the cost of a further trial beside its training.

Runs `raycodellm run sweeps/quickstart.yaml` with little training, in a new storage. The times come from the run's
`runs/0000.json`, Optuna's journal and the results. Then runs the usual way, `_honest_tune.py`: as many trials, two at
once, of the same model, with as many steps of the same size on the same token stores, and lm-eval on the same items.
The usual trials have one stage, and make no tokenizer, token store, ledger, checkpoint or exported model.

    python benchmarks/training/startup.py               # both, some three minutes on two idle cores
    python benchmarks/training/startup.py --sides ours --runs 3
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import _common

HERE = Path(__file__).resolve().parent
PRETRAIN, INSTRUCT = 65_536, 16_384
"""Tokens of the two stages; 4,096 a step."""
START = {
    "imports": "process start and first imports, until Ray is started",
    "ray": "Ray is up",
    "tokens": "token stores are made",
    "suggested": "first trial suggested",
    "taken": "first worker group has a job",
    "step": "first optimiser step done",
    "cpu": "CPU seconds of all processes until that step, about",
}
WARM = {
    "to_step": "from the suggestion to the first step",
    "between": "between the two stages of a trial: last step to first step",
    "to_evaluation": "from the last step to the beginning of the evaluation",
    "evaluation": "evaluation",
    "to_result": "from the evaluation's end until the study knows the result",
    "overhead": "all but training and evaluation",
}
Measured = dict[str, Any]
"""Seconds by the keys of `START` and `WARM`, and of the whole run."""


def main() -> None:
    options = _options()
    runs: dict[str, list[Measured]] = {side: [] for side in options.sides}
    for number in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="raycodellm-startup-") as temporary:
            folder = Path(options.folder or temporary) / str(number)
            if "ours" in options.sides:
                runs["ours"].append(_ours(folder, options.trials))
            if "usual" in options.sides:
                runs["usual"].append(_usual(folder, options))
    names = {"ours": "raycodellm", "usual": "Tune + Train per trial"}
    columns = [names[side] for side in options.sides]
    text = _common.header(
        "From the command to the first step, and from trial to trial",
        *("raycodellm", "ray", "deepspeed", "optuna", "lm-eval", "transformers", "torch"),
        notes=[
            f"{options.trials} trials, two at once, of {(PRETRAIN + INSTRUCT) // 4096} steps of 4,096 tokens, tiny; "
            f"medians over {options.runs} run{'s' if options.runs > 1 else ''}",
            "further trials: all but the first of each worker group; with a worker group per trial there is no such "
            "difference, so all but the first two",
        ],
    )
    for title, rows in (("seconds after the command", START), ("seconds per further trial", WARM)):
        body = [(label, *(_median(runs[side], key) for side in options.sides)) for key, label in rows.items()]
        text += "\n" + _common.table([title, *columns], body)
    whole = [
        (label, *(_median(runs[side], key) for side in options.sides))
        for key, label in (
            ("wall", "wall"),
            ("all_cpu", "CPU of all processes"),
            ("trials", "trials per hour of the last ones"),
        )
    ]
    text += "\n" + _common.table(["whole run, seconds", *columns], whole)
    _common.finish(text, options.out)


def _options() -> Any:
    parser = _common.parser(__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--sides", nargs="+", choices=["ours", "usual"], default=["ours", "usual"])
    parser.add_argument("--storage", help="a storage with quickstart's token stores, where only the usual way is run")
    return parser.parse_args()


def _median(runs: list[Measured], key: str) -> Any:
    """The median over all runs, and over all trials where a run has a list; a dash where no run has a value."""
    values = [value for run in runs for value in (run[key] if isinstance(run.get(key), list) else [run.get(key)])]
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else "–"


# ------------------------------------------------------------------------------------------------- a watched process


def _watched(command: list[str]) -> tuple[float, Measured, list[tuple[float, float]]]:
    """Runs a command and returns (Unix seconds of its start, wall and CPU seconds of all its processes, samples).

    A sample, taken twice a second, is (Unix seconds, CPU seconds used so far).
    """
    import psutil

    started_at, cpu, samples = time.time(), {}, []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True)
        root = psutil.Process(process.pid)
        while process.poll() is None:
            for member in _family(root):
                try:
                    times = member.cpu_times()
                    cpu[member.pid] = times.user + times.system
                except psutil.Error:  # the process has just ended
                    continue
            samples.append((time.time(), sum(cpu.values())))
            time.sleep(0.5)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output.read()[-3000:]}")
    return started_at, {"wall": time.time() - started_at, "all_cpu": sum(cpu.values())}, samples


def _cpu_until(samples: list[tuple[float, float]], until: float) -> float:
    """CPU seconds used until `until`, Unix seconds."""
    return max((cpu for at, cpu in samples if at <= until), default=0.0)


def _family(root: Any) -> list[Any]:
    import psutil

    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


# ------------------------------------------------------------------------------------------------- the two sides


def _ours(storage: Path, trials: int) -> Measured:
    """The quickstart with little training."""
    command = [sys.executable, "-m", "raycodellm.cli", "run", str(_common.ROOT / "sweeps" / "quickstart.yaml")]
    for setting in (
        "search.sampler=random",
        "search.confirm=null",
        "search.reference=null",
        f"search.trials={trials}",
        "pretrain.code_ratio={search: {uniform: [0.0, 0.75]}}",
        f"stages.pretrain.tokens={PRETRAIN}",
        f"stages.instruct.tokens={INSTRUCT}",
    ):
        command += ["--set", setting]
    run = storage / "quickstart"
    started_at, figures, samples = _watched([*command, "--storage", str(storage)])
    timeline = json.loads((run / "runs" / "0000.json").read_text())
    parts, jobs = timeline["parts"], timeline["jobs"]
    first = min((job for job in jobs.values() if "first_step" in job), key=lambda job: job["first_step"])
    study = _study(run / "optuna.log")
    figures |= {
        "imports": parts["ray start"][0] - started_at,
        "ray": parts["ray start"][1] - started_at,
        "tokens": parts["tokens"][1] - started_at,
        "suggested": min(trial["suggested"] for trial in study) - started_at,
        "taken": min(job["taken"] for job in jobs.values() if "taken" in job) - started_at,
        "step": first["first_step"] - started_at,
        "cpu": _cpu_until(samples, first["first_step"]),
    }
    rows = []
    for number, trial in enumerate(study):
        result = json.loads((run / "trials" / f"{number:04d}" / "result.json").read_text())
        stages, evaluation = [jobs[key] for key in result["stages"]], jobs[result["evaluation"]]
        rows.append({**trial, "stages": stages, "evaluated": (evaluation["taken"], evaluation["ended"])})
    return figures | _warm(rows)


def _usual(folder: Path, options: Any) -> Measured:
    """The usual way, on the token stores that `_ours` made."""
    storage = Path(options.storage) if options.storage else folder
    stores = {path.name.rpartition("-")[0]: str(path) for path in (storage / "tokens").iterdir()}
    outputs = folder / "usual"
    outputs.mkdir(parents=True, exist_ok=True)
    events = outputs / "events.jsonl"
    settings = {
        "folder": str(outputs / "runs"),
        "events": str(events),
        "journal": str(outputs / "optuna.log"),
        "text": stores["prose"],
        "code": stores["python"],
        "tokenizer": str(next((storage / "tokenizers").iterdir())),
        "preset": "tiny",
        "rows": 32,
        "sequence_length": 128,
        "steps": (PRETRAIN + INSTRUCT) // 4096,
        "trials": options.trials,
        "tasks": ["boxes", "logical_deduction"],
        "limit": 200,
    }

    started_at, figures, samples = _watched([sys.executable, str(HERE / "_honest_tune.py"), json.dumps(settings)])
    times: dict[str, dict[str, float]] = {}
    for line in events.read_text().splitlines():
        trial, event, event_time = json.loads(line)
        times.setdefault(trial, {}).setdefault(event, event_time)
    study = _study(outputs / "optuna.log")
    rows = []
    for trial in study:
        at = times[repr(trial["params"]["code_ratio"])]
        stage = {"first_step": at["first_step"], "last_step": at["last_step"]}
        rows.append({**trial, "stages": [stage], "evaluated": (at["last_step"], at["evaluated"])})
    figures |= {
        "imports": times[""]["imported"] - started_at,
        "ray": times[""]["ray is up"] - started_at,
        "suggested": min(trial["suggested"] for trial in study) - started_at,
        "step": min(row["stages"][0]["first_step"] for row in rows) - started_at,
    }
    figures["cpu"] = _cpu_until(samples, figures["step"] + started_at)
    return figures | _warm(rows)


def _study(journal: Path) -> list[Measured]:
    """Each trial's parameters, and when it was suggested and recorded, in Unix seconds."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name=None, storage=storage)

    def seconds(moment: datetime | None) -> float:
        return moment.timestamp() if moment else 0.0

    return [
        {"params": t.params, "suggested": seconds(t.datetime_start), "recorded": seconds(t.datetime_complete)}
        for t in study.trials
    ]


def _warm(rows: list[Measured]) -> Measured:
    """Seconds of each part of the trials that were not the first in their worker group."""
    warm: Measured = {key: [] for key in WARM}
    for row in rows[2:]:
        stages, (evaluation, evaluated) = row["stages"], row["evaluated"]
        training = sum(stage["last_step"] - stage["first_step"] for stage in stages)
        warm["to_step"].append(stages[0]["first_step"] - row["suggested"])
        warm["between"] += [b["first_step"] - a["last_step"] for a, b in itertools.pairwise(stages)]
        warm["to_evaluation"].append(evaluation - stages[-1]["last_step"])
        warm["evaluation"].append(evaluated - evaluation)
        warm["to_result"].append(row["recorded"] - evaluated)
        warm["overhead"].append(row["recorded"] - row["suggested"] - training - (evaluated - evaluation))
    ends = sorted(row["recorded"] for row in rows)
    if len(ends) > 2:
        warm["trials"] = (len(ends) - 2) / max(1e-9, ends[-1] - ends[1]) * 3600
    return warm


if __name__ == "__main__":
    main()
