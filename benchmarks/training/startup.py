"""From the command to the first optimiser step, and what each further small trial costs beside its training.

Runs `raycodellm run sweeps/quickstart.yaml` with little training, in a new storage, and reads when things happened from
the run's `timeline.json`, Optuna's journal and the results. Then the usual way, `_honest_tune.py`: the same number of
trials, two at once, of the same model with as many steps of the same size on the same token stores, and lm-eval on the
same items. Its trials have one stage, and no tokenizer, token store, ledger, checkpoint or exported model to make.

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
    "imports": "process start and imports, until Ray is asked for",
    "ray": "Ray is up",
    "tokens": "token stores are there",
    "suggested": "first trial suggested",
    "taken": "first worker group has a job",
    "step": "first optimiser step done",
    "cpu": "CPU seconds of all processes until then, about",
}
WARM = {
    "to_step": "from the suggestion to the first step",
    "between": "between the two stages of a trial: last step to first step",
    "to_evaluation": "from the last step to the beginning of the evaluation",
    "evaluation": "evaluation",
    "to_result": "from its end until the study knows the result",
    "overhead": "all but training and evaluation",
}
Found = dict[str, Any]


def main() -> None:
    options = _options()
    found: dict[str, list[Found]] = {side: [] for side in options.sides}
    for number in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="raycodellm-startup-") as temporary:
            folder = Path(options.folder or temporary) / str(number)
            found_here = {"ours": _ours(folder, options.trials)} if "ours" in options.sides else {}
            if "usual" in options.sides:
                found_here["usual"] = _usual(folder, options)
            for side, one in found_here.items():
                found[side].append(one)
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
        body = [(label, *(_median(found[side], key) for side in options.sides)) for key, label in rows.items()]
        text += "\n" + _common.table([title, *columns], body)
    whole = [
        (label, *(_median(found[side], key) for side in options.sides))
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


def _median(found: list[Found], key: str) -> Any:
    """Of all runs and, where there are several, all trials; a dash where there is nothing."""
    values = [value for one in found for value in (one[key] if isinstance(one.get(key), list) else [one.get(key)])]
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else "–"


# ------------------------------------------------------------------------------------------------- a watched process


def _watched(command: list[str]) -> tuple[float, Found, list[tuple[float, float]]]:
    """Runs a command: when it began (Unix seconds), wall and CPU seconds of all its processes, and the latter twice a
    second: (Unix seconds, CPU seconds so far)."""
    import psutil

    began, cpu, history = time.time(), {}, []
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, text=True)
        root = psutil.Process(process.pid)
        while process.poll() is None:
            for one in _family(root):
                try:
                    times = one.cpu_times()
                    cpu[one.pid] = times.user + times.system
                except psutil.Error:  # it has just ended
                    continue
            history.append((time.time(), sum(cpu.values())))
            time.sleep(0.5)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{said.read()[-3000:]}")
    return began, {"wall": time.time() - began, "all_cpu": sum(cpu.values())}, history


def _cpu_until(history: list[tuple[float, float]], when: float) -> float:
    return max((cpu for at, cpu in history if at <= when), default=0.0)


def _family(root: Any) -> list[Any]:
    import psutil

    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


# ------------------------------------------------------------------------------------------------- the two sides


def _ours(storage: Path, trials: int) -> Found:
    command = [sys.executable, "-m", "raycodellm.cli", "run", str(_common.ROOT / "sweeps" / "quickstart.yaml")]
    for setting in (
        "search.sampler=random",
        "search.replicates=1",
        f"search.trials={trials}",
        "pretrain.code_ratio={search: {uniform: [0.0, 0.75]}}",
        f"stages.pretrain.tokens={PRETRAIN}",
        f"stages.instruct.tokens={INSTRUCT}",
    ):
        command += ["--set", setting]
    run = storage / "quickstart"
    began, found, history = _watched([*command, "--storage", str(storage)])
    told = json.loads((run / "timeline.json").read_text())
    parts, jobs = told["parts"], told["jobs"]
    first = min((job for job in jobs.values() if "first_step" in job), key=lambda job: job["first_step"])
    study = _study(run / "optuna.log")
    found |= {
        "imports": parts["ray start"][0] - began,
        "ray": parts["ray start"][1] - began,
        "tokens": parts["tokens"][1] - began,
        "suggested": min(trial["suggested"] for trial in study) - began,
        "taken": min(job["taken"] for job in jobs.values() if "taken" in job) - began,
        "step": first["first_step"] - began,
        "cpu": _cpu_until(history, first["first_step"]),
    }
    rows = []
    for number, trial in enumerate(study):
        keys = json.loads((run / "trials" / f"{number:04d}" / "result.json").read_text())["stages"]
        stages = [jobs[key] for key in keys]
        evaluations = [job for key, job in jobs.items() if key.startswith("evaluation-")]
        # The jobs of a trial are asked for together.
        evaluation = min(evaluations, key=lambda job, last=stages[-1]: abs(job["asked"] - last["asked"]))
        rows.append({**trial, "stages": stages, "evaluated": (evaluation["taken"], evaluation["ended"])})
    return found | _warm(rows)


def _usual(folder: Path, options: Any) -> Found:
    storage = Path(options.storage) if options.storage else folder
    stores = {path.name.rpartition("-")[0]: str(path) for path in (storage / "tokens").iterdir()}
    made = folder / "usual"
    made.mkdir(parents=True, exist_ok=True)
    events = made / "events.jsonl"
    settings = {
        "folder": str(made / "runs"),
        "events": str(events),
        "journal": str(made / "optuna.log"),
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

    began, found, history = _watched([sys.executable, str(HERE / "_honest_tune.py"), json.dumps(settings)])
    said: dict[str, dict[str, float]] = {}
    for line in events.read_text().splitlines():
        trial, what, when = json.loads(line)
        said.setdefault(trial, {}).setdefault(what, when)
    study = _study(made / "optuna.log")
    rows = []
    for trial in study:
        at = said[repr(trial["params"]["code_ratio"])]
        stage = {"first_step": at["first_step"], "last_step": at["last_step"]}
        rows.append({**trial, "stages": [stage], "evaluated": (at["last_step"], at["evaluated"])})
    found |= {
        "imports": said[""]["imported"] - began,
        "ray": said[""]["ray is up"] - began,
        "suggested": min(trial["suggested"] for trial in study) - began,
        "step": min(row["stages"][0]["first_step"] for row in rows) - began,
    }
    found["cpu"] = _cpu_until(history, found["step"] + began)
    return found | _warm(rows)


def _study(journal: Path) -> list[Found]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name=None, storage=storage)

    def seconds(when: datetime | None) -> float:
        return when.timestamp() if when else 0.0

    return [
        {"params": t.params, "suggested": seconds(t.datetime_start), "recorded": seconds(t.datetime_complete)}
        for t in study.trials
    ]


def _warm(rows: list[Found]) -> Found:
    """Seconds of each part, of the trials that were not the first in their worker group."""
    found: Found = {key: [] for key in WARM}
    for row in rows[2:]:
        stages, (evaluation, evaluated) = row["stages"], row["evaluated"]
        training = sum(stage["last_step"] - stage["first_step"] for stage in stages)
        found["to_step"].append(stages[0]["first_step"] - row["suggested"])
        found["between"] += [b["first_step"] - a["last_step"] for a, b in itertools.pairwise(stages)]
        found["to_evaluation"].append(evaluation - stages[-1]["last_step"])
        found["evaluation"].append(evaluated - evaluation)
        found["to_result"].append(row["recorded"] - evaluated)
        found["overhead"].append(row["recorded"] - row["suggested"] - training - (evaluated - evaluation))
    ends = sorted(row["recorded"] for row in rows)
    if len(ends) > 2:
        found["trials"] = (len(ends) - 2) / max(1e-9, ends[-1] - ends[1]) * 3600
    return found


if __name__ == "__main__":
    main()
