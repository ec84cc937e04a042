"""Whole sweeps through the command line: to the end, killed and continued, stopped and continued, and failed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from raycodellm import config, mixture, records

pytestmark = pytest.mark.slow

LONG = ("--set", "pretrain.tokens=200_000", "--set", "scaling.slots=2")
"""Some ten seconds of training per trial: time to be killed in the middle."""


class Sweep:
    """The command on one sweep file and one storage."""

    def __init__(self, folder: Path, text: str, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "small.yaml").write_text(text)
        self.storage = folder / "storage"
        self.run_folder = self.storage / "small"
        self.log = folder / "output"
        command = [sys.executable, "-m", "raycodellm.cli", "run", str(folder / "small.yaml")]
        self.command = [*command, "--storage", str(self.storage), *options]

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(self.command, stdout=open(self.log, "w"), stderr=subprocess.STDOUT)

    def run(self) -> tuple[int, str]:
        process = self.start()
        try:
            process.wait(400)
        finally:
            process.kill()
        return process.returncode, self.log.read_text()

    def wait_for_checkpoints(self, process: subprocess.Popen, beyond: int = 0) -> int:
        """Waits until a stage has a complete checkpoint over `beyond` steps; returns its step."""
        until = time.monotonic() + 240
        while time.monotonic() < until:
            assert process.poll() is None, self.log.read_text()
            found = [int(path.parent.name.removeprefix("step-")) for path in self.storage.glob("stages/*/*/*/COMPLETE")]
            if max(found, default=0) > beyond:
                return max(found)
            time.sleep(0.1)
        raise AssertionError(f"no checkpoint over step {beyond}: {self.log.read_text()}")

    @property
    def trials(self) -> pd.DataFrame:
        return pd.read_parquet(self.run_folder / "trials.parquet")

    def weights(self) -> dict[str, str]:
        """Stage key to a hash of its exported weights."""
        return {
            path.parts[-3]: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.storage.glob("stages/*/model/model.safetensors"))
        }

    def stages(self) -> dict[str, dict]:
        return {path.parent.name: json.loads(path.read_text()) for path in self.storage.glob("stages/*/stage.json")}

    def check_ledgers(self) -> None:
        """Every stage's ledger holds what its plan says, to the token."""
        for key, stage in self.stages().items():
            ledger = pd.read_parquet(self.storage / "stages" / key / "ledger.parquet")
            assert ledger["tokens"].tolist() == ledger["planned_tokens"].tolist()
            length = stage["job"]["stage"]["sequence_length"]
            assert ledger["tokens"].tolist() == [n * length for n in planned_sequences(stage["job"])]


def planned_sequences(job: dict) -> list[int]:
    progress, weights = zip(*job["breakpoints"], strict=True)
    sources = tuple(records.SourceSlice(**source) for source in job["sources"])
    made = mixture.Schedule(tuple(progress), tuple(map(tuple, weights)), job["interpolation"])
    stage = config.Stage.model_validate(job["stage"])
    return mixture.Plan(made, sources, stage.num_sequences, job["seed"]).counts(stage.num_sequences).tolist()


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The training workers of a sweep's own local cluster."""
    return [child for child in psutil.Process(process.pid).children(recursive=True) if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return any("RayTrainWorker" in part for part in process.cmdline())
    except psutil.Error:  # ended meanwhile
        return False


@pytest.fixture(scope="module")
def whole(sweep_text: str, tmp_path_factory) -> Sweep:
    """A sweep that nothing disturbed."""
    sweep = Sweep(tmp_path_factory.mktemp("whole"), sweep_text, *LONG)
    code, printed = sweep.run()
    assert code == 0, printed
    sweep.printed = printed
    return sweep


def test_a_sweep_leaves_what_the_contract_says(whole: Sweep) -> None:
    assert "mean/bpb" in whole.printed
    assert "continue with: raycodellm run" in whole.printed
    assert "report/index.html" in whole.printed
    table = whole.trials
    assert table["state"].tolist() == ["complete", "complete"]
    for column in ("number", "arm", "seed", "wall_seconds", "device_seconds", "params.pretrain.code_ratio"):
        assert column in table
    for column in ("metrics.boxes/acc", "metrics.boxes/bpb", "metrics.boxes/chance", "metrics.mean/bpb"):
        assert table[column].notna().all()
    assert (table["tokens.total"] == table["tokens.prose"] + table["tokens.python"] + table["tokens.asks"]).all()
    items = pd.read_parquet(whole.run_folder / "trials" / "0000" / "items.parquet")
    assert {"prediction", "correct", "bits_per_byte"} <= set(items)
    assert len(items) == 8
    for stage in whole.storage.glob("stages/*"):
        names = {path.name for path in stage.iterdir()}
        assert {"stage.json", "model", "ledger.parquet", "metrics.parquet", "DONE"} <= names
    whole.check_ledgers()


def test_the_study_opens_with_optuna_and_holds_the_scores(whole: Sweep) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    backend = JournalFileBackend(str(whole.run_folder / "optuna.log"))
    study = optuna.load_study(study_name="small", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    assert [trial.value for trial in study.trials] == whole.trials["metrics.mean/bpb"].tolist()


def test_the_model_opens_with_transformers_and_lm_eval_gives_the_same_accuracy(whole: Sweep, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from raycodellm import tasks

    key = whole.trials["stages"][0][-1]
    model = whole.storage / "stages" / key / "model"
    loaded = AutoModelForCausalLM.from_pretrained(model)
    tokens = AutoTokenizer.from_pretrained(model)("Box 1 contains", return_tensors="pt")
    assert loaded(**tokens).logits.shape[-1] == 512
    command = [str(Path(sys.executable).parent / "lm_eval"), "--model", "hf", "--model_args", f"pretrained={model}"]
    options = ["--include_path", str(tasks.FOLDER), "--tasks", "boxes", "--device", "cpu", "--limit", "8"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [*command, *options, "--output_path", str(tmp_path)], check=True, capture_output=True, env=environment
    )
    (results,) = tmp_path.rglob("results_*.json")
    accuracy = json.loads(results.read_text())["results"]["boxes"]["acc,none"]
    assert accuracy == pytest.approx(whole.trials["metrics.boxes/acc"][0])


def test_a_finished_sweep_run_again_does_nothing_and_soon(whole: Sweep) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.storage.glob("stages/*/*")}
    began = time.monotonic()
    code, printed = whole.run()
    assert code == 0
    assert "nothing to run" in printed
    assert time.monotonic() - began < 20
    assert before == {path: path.stat().st_mtime_ns for path in whole.storage.glob("stages/*/*")}


def test_a_killed_worker_and_a_killed_driver_change_nothing_of_the_result(
    whole: Sweep, sweep_text: str, tmp_path
) -> None:
    sweep = Sweep(tmp_path, sweep_text, *LONG)
    process = sweep.start()
    step = sweep.wait_for_checkpoints(process)
    for worker in workers_of(process):
        worker.kill()
    sweep.wait_for_checkpoints(process, beyond=step)
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, printed = sweep.run()
    assert code == 0, printed
    assert any(stage["record"]["resumed_at"] for stage in sweep.stages().values())
    sweep.check_ledgers()
    assert sweep.weights() == whole.weights()
    checksums = [{k: s["record"]["order_checksum"] for k, s in one.stages().items()} for one in (sweep, whole)]
    assert checksums[0] == checksums[1]
    columns = ["number", "state", "arm", "seed", "params.pretrain.code_ratio", "metrics.mean/bpb"]
    assert sweep.trials[columns].equals(whole.trials[columns])


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(whole: Sweep, sweep_text: str, tmp_path) -> None:
    sweep = Sweep(tmp_path, sweep_text, *LONG)
    process = sweep.start()
    sweep.wait_for_checkpoints(process)
    process.send_signal(signal.SIGINT)
    process.wait(120)
    printed = sweep.log.read_text()
    assert process.returncode == 130, printed
    assert re.search(r"stopped; continue with: raycodellm run .*small\.yaml", printed)
    assert "Traceback" not in printed
    code, printed = sweep.run()
    assert code == 0, printed
    assert sweep.weights() == whole.weights()
    assert sweep.trials["metrics.mean/bpb"].tolist() == whole.trials["metrics.mean/bpb"].tolist()


def test_a_failed_trial_is_recorded_with_its_cause_and_never_scored(sweep_text: str, tmp_path) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    # A context of 64 tokens: training fits, and not one item of the task does.
    small = "{model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2"
    model = f"model={{config: {small}, max_position_embeddings: 64}}}}"
    sweep = Sweep(tmp_path, sweep_text, "--set", model, "--set", "search.trials=1")
    code, printed = sweep.run()
    assert code == 1, printed
    assert "failed" in printed
    assert "run.log" in printed
    (row,) = sweep.trials.to_dict("records")
    assert row["state"] == "failed"
    assert "64" in row["error"]
    assert not any(name.startswith("metrics.") for name in row)
    backend = JournalFileBackend(str(sweep.run_folder / "optuna.log"))
    study = optuna.load_study(study_name="small", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["FAIL"]
    code, printed = sweep.run()
    assert code == 1
    assert "nothing to run" in printed
