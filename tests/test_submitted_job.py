"""A sweep as a job of a real cluster with token authentication: submitted, followed, stopped, and continued."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dashboard
import pandas as pd
import psutil
import pytest
from ports import free_ports

from raycodellm.records import CONFIRM_SEEDS

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]

RAY = str(Path(sys.executable).parent / "ray")
LONGEST_SECONDS = 240


class Head:
    """A head that somebody started by `ray start`, and a user's terminal that knows its token."""

    def __init__(self, folder: Path) -> None:
        home = folder / "home"
        (home / ".ray").mkdir(parents=True)
        (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
        # As in a new terminal: a local cluster of this process has left settings that are right for itself alone.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        package = str(Path(__file__).parents[1])
        self.environment |= {"HOME": str(home), "PATH": path, "PYTHONPATH": package, "COLUMNS": "200"}
        port, dashboard, agent, agent_grpc, client = free_ports(5)
        self.address = f"http://127.0.0.1:{dashboard}"
        self.log = folder / "head.log"
        options = {"port": port, "dashboard-port": dashboard, "dashboard-agent-listen-port": agent}
        options |= {"dashboard-agent-grpc-port": agent_grpc, "ray-client-server-port": client, "num-cpus": 4}
        options |= {"temp-dir": folder / "ray", "object-store-memory": 200_000_000}
        command = [
            RAY,
            "start",
            "--head",
            "--block",
            "--disable-usage-stats",
            *(f"--{k}={v}" for k, v in options.items()),
        ]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**self.environment, "RAY_AUTH_MODE": "token"}
            )

    def await_start(self) -> None:
        self.wait_for(lambda: "Ray runtime started" in self.log.read_text(), self.log)

    def wait_for(self, what: Callable[[], bool], log: Path) -> None:
        until = time.monotonic() + LONGEST_SECONDS
        while not what():
            assert self.process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)

    def run(self, line: str) -> tuple[int, str]:
        """Runs a line as a user types it; gives its exit code and what it prints."""
        done = subprocess.run(
            line, shell=True, env=self.environment, capture_output=True, text=True, timeout=LONGEST_SECONDS
        )
        return done.returncode, done.stdout + done.stderr

    @contextlib.contextmanager
    def held_workers(self) -> Iterator[None]:
        """Has the training stand still, so that it is not done while commands start."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        workers = [
            one for one in below if "RayTrainWorker" in one.name() or "RayTrainWorker" in " ".join(one.cmdline())
        ]
        assert workers, [one.cmdline()[:1] for one in below]
        for worker in workers:
            worker.suspend()
        try:
            yield
        finally:
            for worker in workers:
                worker.resume()

    def end(self) -> None:
        below: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):  # the head has ended by itself
            below = psutil.Process(self.process.pid).children(recursive=True)
        for process in [*below, self.process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    @property
    def session(self) -> Path:
        """Folder of the Ray session."""
        return self.log.parent / "ray" / "session_latest"

    def jobs_output(self) -> str:
        """The lines that submitted jobs have printed."""
        return "".join(path.read_text() for path in (self.session / "logs").glob("job-driver-raysubmit_*.log"))


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="rc"))  # short: Ray puts sockets there, whose paths may have 107 bytes
    made = Head(folder)
    try:
        made.await_start()
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: data/sums.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""


def write_sweep(folder: Path, sweep_text: str) -> None:
    """A sweep that names a source, a task, and through the task its data, all by relative paths.

    Its first stage has two dozen steps, and a checkpoint every two: enough to be stopped in the middle.
    """
    sums = [{"question": f"{n} and {n} are", "choices": [f"{2 * n}.", f"{n}."], "gold": 0} for n in range(8)]
    texts = [{"text": f"Document {n} says that {n} and {n + 1} make {2 * n + 1}. " * 8} for n in range(400)]
    for name, rows in (("sums", sums), ("prose", texts)):
        write(folder / "data" / f"{name}.jsonl", "\n".join(map(json.dumps, rows)))
    write(folder / "tasks" / "sums.yaml", TASK)
    reference = "reference: {pretrain.code_ratio: 0.5, pretrain.schedule: increase}"
    for old, new in (
        ('"builtin:python-prose", limit_documents: 200', "data/prose.jsonl"),
        ("    tokens: 8_192\n", "    tokens: 24_576\n    held_out: {tokens: 2_000}\n"),
        ("tasks: [boxes]", "tasks: [boxes, tasks/sums.yaml]"),
        ("{trials: 2,", f"{{trials: 2, {reference}, confirm: {{best: 1, seeds: [2]}},"),
        ("checkpoint_seconds: 1", "checkpoint_tokens: 2_048"),
    ):
        assert old in sweep_text
        sweep_text = sweep_text.replace(old, new)
    write(folder / "small.yaml", f"{sweep_text}tracking: {{tensorboard: true}}\n")
    write(folder / "left at home.txt", "not named by the sweep file")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def printed_line(printed: str, name: str) -> str:
    return next(line.partition(":")[2].strip() for line in printed.splitlines() if line.startswith(f"{name}:"))


@dataclass(frozen=True)
class Stopped:
    """A submitted sweep that was followed, and stopped in its first stage."""

    folder: Path
    submit: str
    """The line that submitted the sweep."""
    printed: str
    """By that line."""
    heard: str
    """By the line that follows the sweep, until Ctrl-C."""
    said: list[str]
    """By the line that stops the sweep."""
    saved: int
    """Step of the newest checkpoint, in the end."""


@pytest.fixture(scope="module")
def stopped(head: Head, sweep_text: str, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder = tmp_path_factory.mktemp("submitted")
    write_sweep(folder, sweep_text)
    storage = folder / "storage"
    submit = f"raycodellm submit {folder / 'small.yaml'} --storage {storage} --address {head.address}"
    code, printed = head.run(f"{submit} --detach")
    assert code == 0, printed

    with open(folder / "heard", "w") as log:
        follower = subprocess.Popen(
            shlex.split(printed_line(printed, "follow")),
            env=head.environment,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
        )
    head.wait_for(lambda: any(storage.glob("stages/*/*/*/COMPLETE")), folder / "heard")
    with head.held_workers():
        follower.send_signal(signal.SIGINT)
        assert follower.wait(300) == 130
        stop = shlex.split(printed_line(printed, "stop"))
        stopping = subprocess.Popen(stop, env=head.environment, stdout=subprocess.PIPE, text=True)
        said = [stopping.stdout.readline()]
        head.wait_for(lambda: "stopping: running stages save" in head.jobs_output(), folder / "heard")
    said += stopping.stdout.readlines()
    assert stopping.wait(LONGEST_SECONDS) == 0, said
    saved = max(int(path.parent.name.removeprefix("step-")) for path in storage.glob("stages/*/*/*/COMPLETE"))
    return Stopped(folder, submit, printed, (folder / "heard").read_text(), said, saved)


def test_a_submitted_sweep_is_followed_stopped_and_continued_by_the_lines_that_it_prints(
    stopped: Stopped, seen: dashboard.Seen
) -> None:
    assert "and 3 files that it names" in stopped.printed and "auth_token" not in stopped.printed
    heard = stopped.heard
    assert heard.startswith("small runs already as raysubmit_") and "small goes on as raysubmit_" in heard, heard
    assert f"continue with: raycodellm submit {stopped.folder}" in heard, heard
    assert "has ended: stopped" in stopped.said[-1], stopped.said
    storage = stopped.folder / "storage"
    stages = [json.loads(path.read_text()) for path in storage.glob("stages/*/stage.json")]
    resumed = [stage["record"]["resumed_at"] for stage in stages if stage["record"]["resumed_at"]]
    assert resumed == [[stopped.saved]] and stopped.saved > 0
    assert "sums" in (storage / "small" / "report" / "report.md").read_text()


def test_a_wrong_token_is_said_in_one_line(head: Head, tmp_path) -> None:
    environment = {**head.environment, "RAY_AUTH_TOKEN": "f" * 64}
    line = f"raycodellm stop small --address {head.address}"
    done = subprocess.run(line, shell=True, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "its token is not the one in RAY_AUTH_TOKEN" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and "ffff" not in done.stderr


# ------------------------------------------------------------------------------------------------- seen by others


@pytest.fixture(scope="module")
def seen(head: Head, stopped: Stopped) -> dashboard.Seen:
    """The dashboard and Prometheus while the stopped sweep goes on to its end, with its confirmation."""
    token = head.environment.get("RAY_AUTH_TOKEN") or (head.log.parent / "home/.ray/auth_token").read_text().strip()
    view, run = dashboard.Dashboard(head.address, token), stopped.folder / "storage" / "small"
    followers: list[subprocess.Popen] = []

    def submit() -> None:
        before = view.job("small")["submission_id"]
        with open(stopped.folder / "followed", "w") as log:
            followers.append(
                subprocess.Popen(shlex.split(stopped.submit), env=head.environment, stdout=log, stderr=log)
            )
        dashboard.wait_until(lambda: view.job("small")["submission_id"] != before, LONGEST_SECONDS)

    found = dashboard.watch(view, head.session, "small", stopped.folder, submit)
    assert followers[0].wait(LONGEST_SECONDS) == 0, (stopped.folder / "followed").read_text()
    assert found.job["status"] == "SUCCEEDED", found.job
    assert len({path.parent for path in run.glob("tensorboard/000?/events.out.tfevents.*")}) == 6
    rows = pd.read_parquet(run / "trials.parquet").sort_values("number")
    found.trials = list(zip(rows["phase"], rows["state"], rows["arm"], rows["seed"], strict=True))
    found.verdict = json.loads((run / "report" / "verdict.json").read_text())
    return found


def test_after_the_search_its_best_arm_and_the_reference_get_the_same_fresh_seeds(seen: dashboard.Seen) -> None:
    searched, confirmed = seen.trials[:2], seen.trials[2:]
    assert searched == [("search", "complete", 0, 0), ("search", "complete", 1, 0)]
    assert {trial[:2] for trial in confirmed} == {("confirm", "complete")} and len(confirmed) == 4
    assert {trial[2:] for trial in confirmed} == {(arm, CONFIRM_SEEDS + place) for arm in (0, 1) for place in (0, 1)}
    assert seen.verdict["phase"] == "done" and seen.verdict["verdicts"]


def test_trials_and_stages_are_named_calls_in_the_jobs_table_and_polls_are_not_there(seen: dashboard.Seen) -> None:
    for number in (0, 1):
        pattern = rf"trial 000{number} · arm {number} · code_ratio 0\.\d+ \w+ · small"
        (states,) = (states for name, states in seen.tasks.items() if re.fullmatch(pattern, name))
        assert "FINISHED" in states
        jobs = [
            name for name in seen.tasks if re.fullmatch(rf"\w+-\w{{6}} · trial 000{number} · small · slot \d", name)
        ]
        assert {name.split("-")[0] for name in jobs} >= {"instruct", "pretrain"}, seen.tasks
    assert any(name.startswith("evaluation-") for name in seen.tasks)
    polls = ("snapshot", "next_job", "report", "demand", "see", "poll_status")
    assert [name for name in seen.tasks if name.rpartition(".")[2] in polls] == []


def test_the_jobs_message_metadata_actors_and_datasets_say_whose_they_are(seen: dashboard.Seen) -> None:
    assert any(re.fullmatch(r"1 of 6 trials; best mean/bpb \d\.\d{3}, arm 0", line) for line in seen.messages)
    metadata = seen.job["metadata"]
    assert metadata["job_name"] == metadata["sweep"] == "small" and metadata["trials"] == "6 of 6"
    assert metadata["report"].endswith("small/report/index.html") and "arm " in metadata["best mean/bpb"]
    assert {"small dispatcher", "small slot 1", "small trials"} <= seen.actors
    assert {name.split("-")[0] for name in seen.datasets} >= {"pretrain", "instruct"}


def test_the_logs_page_has_the_table_of_trials_and_a_log_of_each(seen: dashboard.Seen) -> None:
    table = seen.logs["raycodellm-small-trials.txt"]
    assert table.startswith("small: 6 of 6 trials; best mean/bpb") and table.count("complete") == 6
    for number in range(6):
        assert "complete: 26.6 k tokens" in seen.logs[f"raycodellm-small-trial-000{number}.log"]


def test_every_query_of_the_grafana_board_has_data_in_a_prometheus_with_rays_own_configuration(
    seen: dashboard.Seen,
) -> None:
    if seen.answers is None:
        pytest.skip("no prometheus here; on Debian: apt-get install prometheus")
    assert len(seen.answers) > 20 and [query for query, answer in seen.answers.items() if not answer] == []
