"""A sweep in Ray's dashboard, in Prometheus and on the Grafana board: names, gauges, log files, the job's page."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dashboard import wait_until
from ports import free_port
from ray import tune

from raycodellm import config, report, search
from raycodellm.config import Objective, UserError
from raycodellm.dispatch import Ending, JobEnd, JobTree, Snapshot, TrialFailed, job_call, trial_call
from raycodellm.files import Folder
from raycodellm.observability import metrics, observer, panels, reference, session_logs
from raycodellm.observability.board import board, queries
from raycodellm.observability.labels import trial_labels
from raycodellm.observability.readings import View, readings
from raycodellm.observability.session_logs import SessionLogs
from raycodellm.observability.summary import job_metadata, summary_line
from raycodellm.observability.trial_log import TrialLog
from raycodellm.records import LedgerRow, Progress, TrialResult
from raycodellm.slots.dispatcher import Dispatcher
from raycodellm.sweep import tracking

PAGE = Path(__file__).parents[1] / "docs" / "observability.md"
BPB = Objective(metric="mean/bpb", mode="min")
PARAMS = {"pretrain.code_ratio": 0.3961, "pretrain.schedule": "increase"}
STAGE = "pretrain-3e80a8ffffff"


@dataclass(frozen=True)
class FakeJob:
    key: str
    kind: str = "evaluation"


def best(results: list[TrialResult], objective: Objective) -> report.BestArm | None:
    return report.best_arm([result.row() for result in results], [objective])


@pytest.fixture
def sweep_file(tmp_path: Path, sweep_text: str) -> config.SweepFile:
    (tmp_path / "small.yaml").write_text(sweep_text)
    return config.load(tmp_path / "small.yaml")


def trial(number: int, score: float | None = None, state: str = "", arm: int | None = None) -> TrialResult:
    """A trial: complete with a score, else running."""
    result = TrialResult(
        number=number,
        state=state or ("running" if score is None else "complete"),
        arm=number if arm is None else arm,
        seed=0,
        params=PARAMS,
    )
    if score is None:
        return result
    rows = (LedgerRow("prose", "text", 60, 60, 60, 1, 1.0), LedgerRow("python", "code", 40, 40, 40, 1, 1.0))
    return replace(
        result, metrics={"mean/bpb": score, "boxes/acc": 0.5}, tokens={"total": 100}, ledger=rows, device_seconds=7.0
    )


def snapshot(*numbers: int, **parts: Any) -> Snapshot:
    """A snapshot in which these trials have jobs to do."""
    chains = {number: (STAGE, f"instruct-{number:012d}", f"evaluation-{number:012d}") for number in numbers}
    return Snapshot(**{"chains": chains, **parts})


def progress(step: int = 4, **changes: object) -> Progress:
    values = {"tokens": 4_096, "tokens_per_second": 800.0, "loss": 4.25, "code_ratio_planned": 0.3, "mfu": 0.25}
    values |= {"code_ratio_real": 0.31, "data_wait_share": 0.02, "held_out_bpb": {"prose": 2.5}}
    return Progress(STAGE, step, 8, **{**values, **changes})  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- names


def test_a_trial_is_called_by_its_number_its_arm_its_mixture_and_its_sweep(sweep_file) -> None:
    labels = trial_labels(sweep_file, 3, 2, PARAMS)
    assert trial_call(3, 2, labels.settings, labels.sweep) == "trial 0003 · arm 2 · code_ratio 0.396 increase · small"


def test_a_trials_other_searched_settings_are_in_its_name(sweep_file) -> None:
    labels = trial_labels(sweep_file, 3, 2, {**PARAMS, "pretrain.learning_rate.peak": 3e-3})
    assert labels.settings == "code_ratio 0.396 increase, pretrain.learning_rate.peak 0.003"


def test_a_job_is_called_by_its_key_its_trials_its_sweep_and_its_slot() -> None:
    job = FakeJob(STAGE)
    assert job_call(job, [7], "small", "slot 1") == "pretrain-3e80a8 · trial 0007 · small · slot 1"
    many = job_call(job, [0, 2, 3, 9, 11], "small", "slot 1")
    assert many == "pretrain-3e80a8 · trials 0000, 0002, 0003 and 2 more · small · slot 1"


def test_the_code_ratio_of_weights_and_phases_is_their_mean(tmp_path, sweep_text) -> None:
    mixtures = {
        "weights: {prose: 0.75, python: 0.25}": ("0.25", "weights"),
        "phases: [{share: 0.5, weights: {python: 1.0}}, {share: 0.5, weights: {prose: 1.0}}]": ("0.5", "phases"),
    }
    ratio, schedule = (line for line in sweep_text.splitlines() if "search: {" in line and "trials" not in line)
    for mixture, expected in mixtures.items():
        text = sweep_text.replace(f"{ratio}\n", f"    {mixture}\n").replace(f"{schedule}\n", "")
        (tmp_path / "small.yaml").write_text(text)
        labels = trial_labels(config.load(tmp_path / "small.yaml"), 0, 0, {})
        assert (labels.code_ratio, labels.schedule) == expected


def test_how_a_slots_work_on_a_job_ended_is_said() -> None:
    tree = JobTree(max_deaths=1)
    tree.add(0, SimpleNamespace(jobs=(FakeJob(STAGE), FakeJob("evaluation-0"))))
    tree.take("one#1")
    assert tree.ending(STAGE, "one#1") is None
    tree.lose("one#1", "killed")
    assert tree.ending(STAGE, "one#1") == Ending(
        False, "its workers are gone; others continue the job from its newest checkpoint"
    )
    tree.take("two#1")
    tree.release("two#1", STAGE)
    assert tree.ending(STAGE, "two#1") == Ending(True, "given back unfinished; its checkpoint is saved")
    tree.take("two#1")
    tree.finish("two#1", STAGE, {})
    assert tree.ending(STAGE, "two#1") == Ending(True, "done")
    tree.take("two#1")
    tree.fail("two#1", "evaluation-0", "no task")
    assert tree.ending("evaluation-0", "two#1") == Ending(False, "no task")


def test_the_call_of_a_failed_trial_fails_with_its_cause_and_brings_its_outcome() -> None:
    async def scene() -> TrialFailed:
        dispatcher = Dispatcher(max_deaths=1)
        await dispatcher.register("slot 1")
        call = asyncio.create_task(dispatcher.trial(0, SimpleNamespace(jobs=(FakeJob("evaluation-0"),)), {}))
        await dispatcher.next_job("slot 1", 1, 5.0)
        await dispatcher.ended("slot 1", 1, "evaluation-0", JobEnd.FAIL, "no such task")
        with pytest.raises(TrialFailed, match="no such task") as raised:
            await call
        return raised.value

    failed = pickle.loads(pickle.dumps(asyncio.run(scene())))
    assert failed.outcome.error == "evaluation: no such task" and failed.outcome.deaths == 0


# ------------------------------------------------------------------------------------------------- readings


def values(view: View) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for reading in readings(view):
        assert set(reading.labels) == set(reading.metric.labels), reading
        assert all(isinstance(value, str) for value in reading.labels.values())
        found.setdefault(reading.metric.name, []).append(reading.value)
    return found


def view(file: config.SweepFile, snapshot: Snapshot, *results: TrialResult) -> View:
    labels = {result.number: trial_labels(file, result.number, result.arm, result.params) for result in results}
    return View("small", 6, (BPB,), snapshot, results, labels)


def test_every_metric_of_the_table_is_read_from_a_sweep_that_runs(sweep_file) -> None:
    now = snapshot(1, 2, running={STAGE: progress()}, num_nodes=1, deaths=1, tokens_saved=8_192, tokens_stopped=1_024)
    found = values(view(sweep_file, now, trial(0, 1.75), trial(1), trial(2)))
    assert set(found) == {metric.name for metric in metrics.METRICS}
    assert found["objective"] == found["best_objective"] == [1.75]
    assert found["trial_code_ratio"] == [0.4] and found["trial_tokens"] == [100]
    assert found["stage_progress"] == [0.5] and found["held_out_bpb"] == [2.5] and found["deaths"] == [1]
    assert (found["tokens_saved"], found["tokens_stopped"]) == ([8_192], [1_024])


def test_what_is_not_known_yet_is_left_out(sweep_file) -> None:
    starting = snapshot(1, running={STAGE: Progress(STAGE, note="starting")})
    found = values(view(sweep_file, starting, trial(1)))
    assert not {"loss", "stage_progress", "objective", "best_objective", "held_out_bpb"} & set(found)
    found = values(view(sweep_file, snapshot(1, running={STAGE: progress(loss=math.nan)}), trial(1)))
    assert "loss" not in found and found["mfu"] == [0.25]


def test_the_last_progress_of_a_job_that_has_ended_is_read_too(sweep_file) -> None:
    found = values(view(sweep_file, snapshot(0, ended={STAGE: progress(step=8)}), trial(0, 1.75)))
    assert found["stage_progress"] == [1.0] and found["loss"] == [4.25]


class FakeGauge:
    made: dict[str, FakeGauge] = {}  # noqa: RUF012

    def __init__(self, name: str, description: str, labels: tuple[str, ...]) -> None:
        self.values: dict[frozenset, float] = {}
        FakeGauge.made[name] = self

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[frozenset(tags.items())] = value


def test_a_gauge_of_what_is_over_ends_at_zero_and_one_of_a_result_is_set_no_more(sweep_file, monkeypatch) -> None:
    from raycodellm.observability.gauges import Gauges

    monkeypatch.setattr("ray.util.metrics.Gauge", FakeGauge)
    gauges = Gauges()
    gauges.show(readings(view(sweep_file, snapshot(0, running={STAGE: progress()}), trial(0))))
    gauges.show(readings(view(sweep_file, Snapshot(), trial(0, 1.75))))
    made = {name.removeprefix("raycodellm_"): gauge.values for name, gauge in FakeGauge.made.items()}
    assert list(made["tokens_per_second"].values()) == [0.0] and list(made["loss"].values()) == [4.25]
    assert list(made["objective"].values()) == [1.75]
    states = {dict(labels)["state"]: value for labels, value in made["trial_state"].items()}
    assert states == {"running": 0.0, "complete": 1.0}


# ------------------------------------------------------------------------------------------------- in words


def test_the_jobs_message_says_how_many_trials_have_ended_and_which_is_best() -> None:
    results = [trial(0, 1.75), trial(1, 1.7284), trial(2), trial(3, state="failed")]
    assert summary_line(results, 6, [BPB], best) == "3 of 6 trials, 1 failed; best mean/bpb 1.728, arm 1"
    assert summary_line([], 6, [BPB], best) == "0 of 6 trials"
    told = job_metadata(results, 6, [BPB], best)
    assert told == {"trials": "3 of 6", "best mean/bpb": "1.728, arm 1"}


def test_the_jobs_message_names_the_best_arm_by_its_mean_over_seeds_as_the_terminal_does() -> None:
    lucky = [replace(trial(number, score, arm=0), seed=number) for number, score in ((0, 1.5), (1, 1.9))]
    steady = [replace(trial(number, score, arm=1), seed=number) for number, score in ((2, 1.6), (3, 1.64))]
    assert summary_line([*lucky, *steady], 4, [BPB], best) == "4 of 4 trials; best mean/bpb 1.620, arm 1"
    assert "mean/bpb 1.620" in str(best([*lucky, *steady], BPB))


def test_a_trials_log_tells_its_settings_its_jobs_its_progress_and_its_end_once_each() -> None:
    now = [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)]
    log = TrialLog(lambda: now[0])
    first = log.new_lines(snapshot(7, running={STAGE: progress()}), [trial(7)])[7]
    assert first[0] == "2026-01-02 03:04:05  trial 0007, arm 7, seed 0: pretrain.code_ratio 0.396, " + (
        "pretrain.schedule increase"
    )
    assert first[1].endswith("its jobs: pretrain-3e80a8, instruct-000000, evaluation-000000")
    assert first[2].endswith("pretrain-3e80a8: begins") and "50 %, 4,096 tokens, 800 tokens/s" in first[3]
    note = snapshot(7, running={STAGE: progress()}, notes=(f"workers of {STAGE} died (killed)",))
    now[0] += timedelta(seconds=3)
    assert [line.split("  ", 1)[1] for line in log.new_lines(note, [trial(7)])[7]] == [
        "workers of pretrain-3e80a8 died (killed)"
    ]
    assert log.new_lines(snapshot(7, running={STAGE: progress()}), [trial(7)]) == {}
    ended = log.new_lines(snapshot(7, ended={STAGE: progress(step=8)}), [trial(7, 1.75)])[7]
    assert "100 %" in ended[0] and ended[1].endswith("pretrain-3e80a8: runs no longer")
    assert "complete: 100 tokens" in ended[2] and ended[3].endswith("mean/bpb 1.75")
    assert log.new_lines(snapshot(7), [trial(7, 1.75)]) == {}


def test_a_part_of_the_dashboard_that_fails_ends_no_sweep_and_stops_no_other_part(
    tmp_path, sweep_file, monkeypatch, caplog
) -> None:
    class Logs(SessionLogs):
        def __init__(self, folder: str) -> None:
            self._folder, self._is_here = f"{folder}/logs", True

    def no_gauges() -> None:
        raise RuntimeError("no agent")

    monkeypatch.setattr(observer, "Gauges", no_gauges)
    monkeypatch.setattr(observer, "SessionLogs", Logs)
    (tmp_path / "logs").mkdir()
    watching = observer.Observer(sweep_file, 2, gcs_address="here:1", session_folder=str(tmp_path), find_best=best)
    watching.look(snapshot(0, running={STAGE: progress()}), [trial(0)])
    watching.look(snapshot(0, ended={STAGE: progress(step=8)}), [trial(0, 1.75)])
    watching.finish()
    table = (tmp_path / "logs" / "raycodellm-small-trials.txt").read_text()
    assert table.startswith("small: 1 of 2 trials; best mean/bpb 1.750, arm 0\n\ntrial")
    assert "  " not in table  # the Logs page shows several usual spaces as one
    told = (tmp_path / "logs" / "raycodellm-small-trial-0000.log").read_text().splitlines()
    assert "trial 0000" in told[0] and told[-1].endswith("boxes/acc 0.5") and "no agent" in caplog.text
    caplog.clear()
    monkeypatch.setattr(Logs, "write", lambda logs, files: no_gauges())
    for state in ("running", "complete", "running"):
        watching.look(snapshot(0), [replace(trial(0), state=state)])
    assert caplog.text.count("not kept current") == 1, "a failure that goes on is logged once"


def test_a_file_that_could_not_be_written_on_the_head_node_keeps_no_later_one_from_being_written(tmp_path, caplog):
    files = {"a.txt": session_logs.Text("told\n")}
    session_logs._write_after(None, str(tmp_path / "full"), files)  # what it raised would be raised by all after it
    session_logs._write_after(None, str(tmp_path), files)
    assert (tmp_path / "a.txt").read_text() == "told\n" and "full" in caplog.text


# ------------------------------------------------------------------------------------------------- other tools


class TuneTrial:
    """The part of Ray Tune's trial that its callbacks read."""

    def __init__(self, number: int, folder: Path) -> None:
        self.config = {"number": number, "arm": 3, "seed": 0, "params": PARAMS}
        self.trial_id, self.evaluated_params, self.local_path = f"id{number}", {}, str(folder)
        self.experiment_dir_name = self.local_experiment_path = str(folder)

    def __str__(self) -> str:
        return f"small-{self.config['number']:04d}"

    def init_local_path(self) -> None: ...


def tell(callback: Any, told: TuneTrial, *results: dict[str, Any]) -> None:
    """Calls the hooks that Ray Tune calls for one trial."""
    callback.setup()
    callback.on_trial_start(0, [told], told)
    for iteration, result in enumerate(results, 1):
        callback.on_trial_result(iteration, [told], told, {"training_iteration": iteration, **result})
    callback.on_trial_complete(len(results), [told], told)
    callback.on_experiment_end([told])


def tracked(file: config.SweepFile, **tools: Any) -> config.Sweep:
    return file.example().model_copy(update={"tracking": config.Tracking(**tools)})


def test_tensorboards_files_hold_each_trials_losses_and_scores(tmp_path, sweep_file) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  # the files are records of events

    (callback,) = tracking.callbacks(tracked(sweep_file, tensorboard=True), Folder(str(tmp_path)))
    tell(callback, TuneTrial(7, tmp_path), {"pretrain/loss": 4.5}, {"pretrain/loss": 4.25}, {"mean/bpb": 1.75})
    (file,) = (tmp_path / "tensorboard" / "0007").glob("events.out.tfevents.*")
    data, found = file.read_bytes(), {}
    while data:
        length = int.from_bytes(data[:8], "little")
        event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
        found |= {(value.tag, event.step): round(value.simple_value, 4) for value in event.summary.value}
    assert found["ray/tune/pretrain/loss", 1] == 4.5 and found["ray/tune/pretrain/loss", 2] == 4.25
    assert found["ray/tune/mean/bpb", 3] == 1.75


def test_a_tool_that_fails_ends_no_sweep(tmp_path, caplog) -> None:
    class Broken(tune.Callback):
        def on_trial_result(self, *arguments: Any, **named: Any) -> None:
            raise ConnectionError("no server")

    tell(tracking._harmless(Broken()), TuneTrial(0, tmp_path), {"mean/bpb": 1.0})
    assert "no server" in caplog.text


def test_a_tool_that_is_not_installed_is_refused_with_what_to_install(sweep_file, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tracking\.mlflow: needs the package mlflow; run: pip install mlflow"):
        tracking.require_packages(tracked(sweep_file, mlflow="http://localhost:5000"))
    tracking.require_packages(tracked(sweep_file))


@pytest.mark.exhaustive
def test_an_mlflow_server_has_a_run_per_trial_with_its_losses_and_scores(tmp_path, sweep_file) -> None:
    mlflow = pytest.importorskip("mlflow")
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{tmp_path}/mlflow.db", f"--artifacts-destination={tmp_path}/artifacts"]
    with open(tmp_path / "server.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: answers(f"{url}/health"), 120)
        (callback,) = tracking.callbacks(tracked(sweep_file, mlflow=url), Folder(str(tmp_path)))
        tell(callback, TuneTrial(7, tmp_path), {"pretrain/loss": 4.5}, {"pretrain/loss": 4.25}, {"mean/bpb": 1.75})
        client = mlflow.MlflowClient(url)
        (run,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
        assert run.info.run_name == "small-0007" and run.data.metrics["mean/bpb"] == 1.75
        assert run.data.params["params/pretrain.schedule"] == "increase"
        assert [point.value for point in client.get_metric_history(run.info.run_id, "pretrain/loss")] == [4.5, 4.25]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(120)


@pytest.mark.exhaustive
@pytest.mark.ray
def test_weights_and_biases_gets_a_run_per_trial_with_its_losses(
    tmp_path, sweep_file, monkeypatch, ray_cluster
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (callback,) = tracking.callbacks(tracked(sweep_file, wandb="mixtures"), Folder(str(tmp_path)))
    tell(callback, TuneTrial(7, tmp_path), {"pretrain/loss": 4.5}, {"mean/bpb": 1.75})
    (run,) = tmp_path.glob("**/offline-run-*/*.wandb")
    assert {b"pretrain/loss", b"mean/bpb", b"mixtures", b"small-0007"} <= {
        word for word in (b"pretrain/loss", b"mean/bpb", b"mixtures", b"small-0007") if word in run.read_bytes()
    }


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_optunas_dashboard_opens_the_study_of_a_sweep(tmp_path, sweep_file) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    from optuna_dashboard._storage_url import get_storage

    study = search.SweepStudy(tmp_path / "optuna.log", sweep_file)
    study.tell(study.suggest().number, [1.75])
    study.suggest()
    app = dashboard.wsgi(get_storage(str(tmp_path / "optuna.log")))  # as the command `optuna-dashboard` opens a path
    (listed,) = wsgi_answer(app, "/api/studies")["study_summaries"]
    assert listed["study_name"]
    trials = wsgi_answer(app, f"/api/studies/{listed['study_id']}")["trials"]
    assert [one["state"] for one in trials] == ["Complete", "Running"] and trials[0]["values"] == [1.75]
    assert {param["name"] for param in trials[0]["params"]} == set(PARAMS)


def wsgi_answer(app: Any, path: str) -> Any:
    environment = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "x",
        "SERVER_PORT": "1",
    }
    environment |= {"wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "wsgi.url_scheme": "http"}
    return json.loads(b"".join(app(environment, lambda status, headers, error=None: None)))


# ------------------------------------------------------------------------------------------------- the board


def test_the_board_is_what_grafanas_own_library_reads_and_writes() -> None:
    """Grafana's library has Grafana's schema: a key that the schema does not have is lost on the way."""
    sdk = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    made = board()
    again = json.loads(json.dumps(sdk.Dashboard.from_json(made), cls=JSONEncoder))
    assert_holds(again, made, "board")


def assert_holds(whole: object, part: object, place: str) -> None:
    """`whole` has all of `part`, and perhaps more keys."""
    if isinstance(part, dict):
        assert isinstance(whole, dict), place
        for key, value in part.items():
            assert key in whole, f"{place}.{key} is not in Grafana's schema"
            assert_holds(whole[key], value, f"{place}.{key}")
    elif isinstance(part, list):
        assert isinstance(whole, list) and len(whole) == len(part), place
        for number, value in enumerate(part):
            assert_holds(whole[number], value, f"{place}[{number}]")
    else:
        assert whole == part, place


def test_every_metric_stands_on_the_board_and_no_two_panels_overlap() -> None:
    made = board()
    text = " ".join(queries(made))
    for metric in metrics.METRICS:
        assert re.search(rf"\b{metric.prometheus_name}\b", text), f"{metric.name} stands in no panel"
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])


def test_a_query_by_a_label_that_the_metric_lacks_is_refused() -> None:
    with pytest.raises(AssertionError, match="has the labels"):
        panels.newest("trials_planned", ("trial",))


def test_the_board_goes_into_the_folder_that_is_given_or_is_refused(tmp_path, capsys, monkeypatch) -> None:
    from raycodellm.cli import main
    from raycodellm.commands.board import write_board

    assert main(["board", "--into", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "raycodellm.json").read_text()) == board()
    assert str(tmp_path / "raycodellm.json") in capsys.readouterr().out
    write_board(str(tmp_path / "made" / "boards"))
    assert json.loads((tmp_path / "made" / "boards" / "raycodellm.json").read_text()) == board()
    with pytest.raises(UserError, match=r"--into .*raycodellm.json: cannot be written .*; give the path of a folder"):
        write_board(str(tmp_path / "raycodellm.json"))
    monkeypatch.setenv("RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR", str(tmp_path / "missing"))
    with pytest.raises(UserError, match="--into FOLDER"):
        write_board(None)


def test_the_documentation_has_the_table_of_metrics() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert reference.tables() in written, "run: python -m raycodellm.observability.reference, and put it in the page"
