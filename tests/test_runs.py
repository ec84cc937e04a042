"""Whole sweeps through the command line: to the end, killed and continued, stopped and continued, and failed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest

from raycodellm import config, mixture, records, schedule

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]

LONG = ("--set", "pretrain.tokens=80_000", "--set", "scaling.slots=2")
"""79 steps per trial, and a checkpoint every eight: enough to be killed many times in the middle."""
OFTEN = ("--set", "scaling.checkpoint_tokens=8_192", "--set", "scaling.max_failures=2")

STARTED: list[subprocess.Popen] = []


@contextlib.contextmanager
def none_left_running() -> Iterator[None]:
    """Also where a test fails in the middle: a second cluster would take the machine from the next test."""
    try:
        yield
    finally:
        while STARTED:
            STARTED.pop().kill()


@pytest.fixture(autouse=True)
def no_sweep_left_running() -> Iterator[None]:
    with none_left_running():
        yield


class Sweep:
    """The command on one sweep file and one storage."""

    def __init__(
        self,
        folder: Path,
        text: str,
        *options: str,
        prepared: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """`prepared`: a storage whose token stores are taken over."""
        self.environment = environment
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "small.yaml").write_text(text)
        self.storage = folder / "storage"
        self.run_folder = self.storage / "small"
        self.log = folder / "output"
        for made in ("tokens", "tokenizers") if prepared else ():
            shutil.copytree(prepared / made, self.storage / made)
        command = [sys.executable, "-m", "raycodellm.cli", "run", str(folder / "small.yaml")]
        self.command = [*command, "--storage", str(self.storage), *options]
        self.printed = ""
        """By the run that came to its end."""
        self.suggested: dict[int, dict] = {}
        """The parameters of each trial that had begun when the driver was killed, by its number."""

    def start(self) -> subprocess.Popen:
        with open(self.log, "w") as log:
            STARTED.append(subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, env=self.environment))
        return STARTED[-1]

    def run(self, seconds: float = 400) -> tuple[int, str]:
        process = self.start()
        process.wait(seconds)
        return process.returncode, self.log.read_text()

    def wait_for_checkpoints(self, process: subprocess.Popen, beyond: int = 0) -> int:
        """Waits until a stage has a complete checkpoint over `beyond` steps; returns its step."""
        until = time.monotonic() + 400
        while time.monotonic() < until:
            assert process.poll() is None, self.log.read_text()
            if self.newest_checkpoint() > beyond:
                return self.newest_checkpoint()
            time.sleep(0.02)
        raise AssertionError(f"no checkpoint over step {beyond}: {self.log.read_text()}")

    def newest_checkpoint(self) -> int:
        """Step of the farthest stage in training that has a complete checkpoint; 0 without one."""
        found = [path.parent for path in self.storage.glob("stages/*/*/*/COMPLETE")]
        found = [path for path in found if not (path.parents[1] / "DONE").exists()]
        return max((int(path.name.removeprefix("step-")) for path in found), default=0)

    @property
    def trials(self) -> pd.DataFrame:
        return pd.read_parquet(self.run_folder / "trials.parquet")

    def weights(self) -> dict[str, str]:
        """Stage key to a hash of its exported weights."""
        return {path.parts[-3]: hash_of(path) for path in sorted(self.storage.glob("stages/*/model/model.safetensors"))}

    def wait_for(self, process: subprocess.Popen, what: Callable[[], bool], seconds: float = 400) -> None:
        until = time.monotonic() + seconds
        while not what():
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)

    def check_equals(self, whole: Sweep) -> None:
        """The same trials with the same scores, from the same data in the same order and the same weights."""
        self.check_ledgers()
        assert self.weights() == whole.weights()
        checksums = [{k: s["record"]["order_checksum"] for k, s in one.stages().items()} for one in (self, whole)]
        assert checksums[0] == checksums[1]
        columns = ["number", "state", "arm", "seed", "params.pretrain.code_ratio", "metrics.mean/bpb"]
        assert self.trials[columns].equals(whole.trials[columns])

    def stages(self) -> dict[str, dict]:
        return {path.parent.name: json.loads(path.read_text()) for path in self.storage.glob("stages/*/stage.json")}

    def check_ledgers(self) -> None:
        """Every stage's ledger holds what its plan says, to the token."""
        for key, stage in self.stages().items():
            ledger = pd.read_parquet(self.storage / "stages" / key / "ledger.parquet")
            assert ledger["tokens"].tolist() == ledger["planned_tokens"].tolist()
            length = stage["job"]["stage"]["sequence_length"]
            assert ledger["tokens"].tolist() == [n * length for n in planned_sequences(stage["job"])]


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def planned_sequences(job: dict) -> list[int]:
    progress, weights = zip(*job["breakpoints"], strict=True)
    sources = tuple(records.SourceSlice(**source) for source in job["sources"])
    made = schedule.Schedule(tuple(progress), tuple(map(tuple, weights)), job["interpolation"])
    stage = config.Stage.model_validate(job["stage"])
    return mixture.Plan(made, sources, stage.num_sequences, job["seed"]).counts(stage.num_sequences).tolist()


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The training workers under a process: a sweep with its own local cluster, or a node."""
    return [child for child in psutil.Process(process.pid).children(recursive=True) if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    return is_named(process, "RayTrainWorker")


def is_named(process: psutil.Process, *names: str) -> bool:
    try:
        return any(name in part for part in process.cmdline() for name in names)
    except psutil.Error:  # ended meanwhile
        return False


def all_named(process: subprocess.Popen, *names: str) -> list[psutil.Process]:
    """Processes under one by a part of their command line."""
    return [child for child in psutil.Process(process.pid).children(recursive=True) if is_named(child, *names)]


def processes_of(process: subprocess.Popen, *names: str) -> list[psutil.Process]:
    found = all_named(process, *names)
    assert found, f"no process named {names}"
    return found


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        process.kill()


@contextlib.contextmanager
def held(processes: list[psutil.Process]) -> Iterator[None]:
    """Stands the processes still: what is prepared meanwhile may take as long as the machine needs for it."""
    assert processes
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def run_disturbed(folder: Path, text: str) -> Sweep:
    """A sweep whose workers, trials' processes and driver are killed, and that the same command brings to its end."""
    sweep = Sweep(folder, text, *LONG, *OFTEN)
    process = sweep.start()
    step = sweep.wait_for_checkpoints(process)
    with held(workers_of(process)):
        for _ in range(2):  # Tune's own process of each trial, which only waits: another asks again
            before = {p.pid for p in processes_of(process, "ImplicitFunc")}
            kill(processes_of(process, "ImplicitFunc"))
            sweep.wait_for(process, lambda old=before: {p.pid for p in all_named(process, "ImplicitFunc")} - old)
    kill(workers_of(process))
    sweep.wait_for_checkpoints(process, beyond=step)
    workers_of(process)[0].terminate()  # as a node does that is about to be taken away
    sweep.wait_for(process, lambda: "leave (SIGTERM)" in sweep.log.read_text())
    orphans = workers_of(process)
    process.kill()
    process.wait()
    psutil.wait_procs(orphans, timeout=120)  # until then they train and save
    assert not list(sweep.run_folder.glob("trials/*/result.json"))

    begun = [json.loads(path.read_text()) for path in sweep.run_folder.glob("trials/*/trial.json")]
    sweep.suggested = {trial["number"]: trial["params"] for trial in begun}
    code, sweep.printed = sweep.run()
    assert code == 0, sweep.printed
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


def test_the_model_opens_with_transformers(whole: Sweep) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = whole.storage / "stages" / whole.trials["stages"][0][-1] / "model"
    loaded = AutoModelForCausalLM.from_pretrained(model)
    tokens = AutoTokenizer.from_pretrained(model)("Box 1 contains", return_tensors="pt")
    assert loaded(**tokens).logits.shape[-1] == 512


def test_a_finished_sweep_run_again_does_nothing_and_soon(whole: Sweep) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.storage.glob("stages/*/*")}
    began = os.times()
    code, printed = whole.run()
    ended = os.times()
    assert code == 0
    assert "nothing to run" in printed
    assert ended.children_user + ended.children_system - began.children_user - began.children_system < 20
    assert before == {path: path.stat().st_mtime_ns for path in whole.storage.glob("stages/*/*")}


def test_whatever_is_killed_the_same_command_goes_on_and_the_result_is_the_same(whole: Sweep, tmp_path) -> None:
    from raycodellm.evaluation import evaluate

    stages, again = whole.stages(), train_undisturbed(whole.stages(), tmp_path)
    assert any(stage["record"]["resumed_at"] for stage in stages.values())
    whole.check_ledgers()
    assert {key: stage["record"]["order_checksum"] for key, stage in stages.items()} == {
        key: record.order_checksum for key, record in again.items()
    }
    assert whole.weights() == {key: hash_of(tmp_path / key / "model" / "model.safetensors") for key in again}
    assert whole.trials["number"].tolist() == whole.trials["arm"].tolist() == [0, 1]
    for row in whole.trials.to_dict("records"):
        suggested = whole.suggested[row["number"]]
        assert suggested == {name: row[f"params.{name}"] for name in suggested}
        scored = evaluate(tmp_path / row["stages"][-1] / "model", config.Evaluation(tasks=("boxes",), limit=8))
        assert row["metrics.boxes/bpb"] == scored.metrics["boxes/bpb"]


def train_undisturbed(stages: dict[str, dict], folder: Path) -> dict[str, records.StageRecord]:
    """Trains the stages in this process, one after the other and without Ray, each into the folder of its key."""
    from raycodellm.engine import World
    from raycodellm.stage import train_stage

    jobs = [records.from_json(records.StageJob, stage["job"], key) for key, stage in stages.items()]
    trained = {}
    for job in sorted(jobs, key=lambda job: job.parent is not None):
        parent = job.parent and str(folder / Path(job.parent).name)
        alone = replace(job, folder=str(folder / job.key), parent=parent, trunk=None)
        trained[job.key] = train_stage(alone, World(), on_progress=lambda _: None, should_stop=lambda: False)
    return trained


@pytest.mark.exhaustive  # `test_submitted_job.py` always stops a sweep and goes on; here the weights are compared too
def test_a_stopped_sweep_is_continued_by_the_line_that_it_prints_and_the_result_is_the_same(
    whole: Sweep, sweep_text: str, tmp_path
) -> None:
    sweep = Sweep(tmp_path, sweep_text, *LONG, *OFTEN, prepared=whole.storage)
    process = sweep.start()
    sweep.wait_for_checkpoints(process)
    # Ctrl-C and SIGHUP have the same handler (`test_sweep.py`); below it Ray has one of its own for SIGTERM alone.
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    printed = sweep.log.read_text()
    assert process.returncode == 130, printed
    assert re.search(r"stopped; continue with: raycodellm run .*small\.yaml", printed)
    assert "Traceback" not in printed
    code, printed = sweep.run()
    assert code == 0, printed
    sweep.check_equals(whole)


@pytest.mark.exhaustive  # `test_sweep.py` and `test_slots.py` hold what the driver and the workers do then
def test_a_killed_dispatcher_and_a_killed_head_end_the_run_with_the_cause_and_the_same_command_goes_on(
    whole: Sweep, sweep_text: str, tmp_path
) -> None:
    sweep = Sweep(tmp_path, sweep_text, *LONG, *OFTEN, prepared=whole.storage)
    for name, cause in (("ray::Dispatcher", "the dispatcher, .*, has died"), ("gcs_server", "head node at .* has not")):
        process = sweep.start()
        sweep.wait_for_checkpoints(process, beyond=sweep.newest_checkpoint())
        kill(processes_of(process, name))
        process.wait(120)
        printed = sweep.log.read_text()
        assert process.returncode == 1, printed
        assert re.search(rf"{cause}.*the same command continues", printed)
        assert "Traceback" not in printed
    code, printed = sweep.run()
    assert code == 0, printed
    sweep.check_equals(whole)


# Without Ray, `test_dispatch.py` holds how often workers may die, `test_evaluation.py` that a task without an item that
# fits fails, `test_sweep.py` and `test_failures.py` what is recorded then; with Ray, `whole` loses workers and goes on.
@pytest.mark.exhaustive
def test_failed_trials_are_recorded_with_their_causes_never_scored_and_not_tried_for_ever(
    whole: Sweep, sweep_text: str, tmp_path
) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    text = re.sub(r"  - name: instruct\n(    .*\n)+", "", sweep_text)  # its source stays: the tokenizer is made of all
    # With forty examples before each, not one item of the task fits into the model's 512 tokens.
    options = ("--set", "evaluation.few_shot=40", "--set", "pretrain.tokens=24_576")
    limits = ("--set", "scaling.checkpoint_tokens=4_096", "--set", "scaling.max_failures=1")
    sweep = Sweep(tmp_path, text, *limits, *options, prepared=whole.storage)
    process = sweep.start()
    sweep.wait_for(process, lambda: any(sweep.storage.glob("stages/*/DONE")))  # that trial's evaluation fails
    step = 0
    for _ in range(2):
        step = sweep.wait_for_checkpoints(process, beyond=step)
        kill(workers_of(process))
    process.wait(300)
    printed = sweep.log.read_text()
    assert process.returncode == 1, printed
    assert "failed" in printed and "run.log" in printed
    rows = sorted(sweep.trials.to_dict("records"), key=lambda row: -row["deaths"])
    assert [(row["state"], row["deaths"]) for row in rows] == [("failed", 2), ("failed", 0)]
    assert "stage pretrain: its workers died 2 times; the last time: worker 0: " in rows[0]["error"]
    assert "512" in rows[1]["error"]
    assert not any(name.startswith("metrics.") for row in rows for name in row)
    backend = JournalFileBackend(str(sweep.run_folder / "optuna.log"))
    study = optuna.load_study(study_name="small", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"]
    code, printed = sweep.run()
    assert code == 1
    assert "nothing to run" in printed


class Cluster:
    """A head that no worker fits on, and nodes that come and go, all of them processes of this machine."""

    def __init__(self, folder: Path) -> None:
        # As in a new terminal: a local cluster of this process has left settings that are right for itself alone.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
        self.environment = {**inherited, "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": ""}
        self.folder, self.log = folder, folder / "ray.log"
        # Not `ray start --head`, which brings a server for Ray clients, on a port that others may have.
        head = (
            "import ray, sys\n"
            f"made = ray.init(address='local', num_cpus=0, include_dashboard=True, _temp_dir={str(folder)!r},"
            " log_to_driver=False, configure_logging=False)\n"
            "print(made.address_info['gcs_address'], flush=True)\n"
            "sys.stdin.read()"
        )
        with open(self.log, "a") as log:
            self.head = subprocess.Popen(
                [sys.executable, "-c", head],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
                text=True,
            )
        self.address = self.head.stdout.readline().strip()
        assert self.address, self.log.read_text()
        self.started: list[subprocess.Popen] = []

    def add_node(self) -> subprocess.Popen:
        before = set(self.alive())  # it may be a while until one that was removed is no longer among them
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats"]
        options = [f"--address={self.address}", "--num-cpus=3", "--object-store-memory=200000000"]
        with open(self.log, "a") as log:
            self.started.append(subprocess.Popen([*command, *options], stdout=log, stderr=log, env=self.environment))
        until = time.monotonic() + 240
        while not set(self.alive()) - before:
            assert self.started[-1].poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
        return self.started[-1]

    def ray(self, code: str) -> str:
        """Runs the code in a process that has joined the cluster; gives what it prints."""
        text = f"import ray; ray.init(address={self.address!r}, log_to_driver=False, configure_logging=False)\n{code}"
        command = [sys.executable, "-c", text]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout.strip()

    def alive(self) -> list[str]:
        """Ids of the nodes, without the head."""
        return self.ray(
            "print(*[n['NodeID'] for n in ray.nodes() if n['Alive'] and n['Resources'].get('CPU')])"
        ).split()

    def announce_removal(self, node_id: str, seconds: int) -> None:
        """As a cloud does before it takes a spot node away."""
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        words = ["--node-id", node_id, *reason, "--deadline-remaining-seconds", str(seconds)]
        command = [str(Path(sys.executable).parent / "ray"), "drain-node", "--address", self.address, *words]
        subprocess.run(command, check=True, env=self.environment, capture_output=True)

    @staticmethod
    def remove(node: subprocess.Popen) -> None:
        """At once, with everything on it: workers outlive their node's own process by some seconds."""
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()

    def end(self) -> None:
        for node in reversed(self.started):
            if node.poll() is None:
                self.remove(node)
        self.head.communicate()  # its input ends, and with it the cluster


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="rc"))  # short: Ray puts sockets there, whose paths may have 107 bytes
    made = Cluster(folder)
    yield made
    made.end()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.exhaustive  # `test_autoscaling.py` always loses and drains nodes; here the weights are compared too
def test_a_node_taken_away_with_notice_and_one_without_change_nothing_of_the_result(
    whole: Sweep, nodes: Cluster, sweep_text: str, tmp_path
) -> None:
    first = nodes.add_node()
    options = ("--address", nodes.address, "--set", "scaling.slots=1")
    sweep = Sweep(tmp_path, sweep_text, *LONG, *OFTEN, *options, prepared=whole.storage, environment=nodes.environment)
    process = sweep.start()
    sweep.wait_for_checkpoints(process)
    with held(workers_of(first)):
        (leaving,) = nodes.alive()
        second = nodes.add_node()
        nodes.announce_removal(leaving, seconds=60)
        time.sleep(2.5)  # Ray Train asks for such nodes every two seconds: the workers hear of it as soon as they go on
    sweep.wait_for(process, lambda: "taking node" in sweep.log.read_text())
    nodes.remove(first)
    sweep.wait_for_checkpoints(process, beyond=sweep.newest_checkpoint())
    nodes.remove(second)
    nodes.add_node()
    process.wait(400)
    printed = sweep.log.read_text()
    assert process.returncode == 0, printed
    assert sweep.trials["preemptions"].sum() >= 1
    assert sweep.trials["deaths"].sum() >= 1
    sweep.check_equals(whole)
    # What Ray Train was told of the metrics is in its controllers' logs, which the dashboard shows.
    controllers = nodes.folder.glob("session_2*/logs/train/ray-train-app-controller-*.log")
    assert re.search(r"pretrain-\w+: step \d+, tokens \d+, loss ", "".join(path.read_text() for path in controllers))
