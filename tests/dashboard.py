"""The dashboard of a head node that asks for a token, and a Prometheus that reads its metrics."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ports import free_port

from raycodellm.observability.board import board, queries

PROMETHEUS = shutil.which("prometheus")
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Dashboard:
    """The dashboard's answers, as a browser gets them."""

    def __init__(self, address: str, token: str) -> None:
        self.address, self.token = address, token

    def ask(self, path: str) -> Any:
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def job(self, name: str) -> dict[str, Any]:
        """The newest submitted job of this name; empty before there is one."""
        named_jobs = [job for job in self.ask("/api/jobs/") if (job["metadata"] or {}).get("job_name") == name]
        jobs = [job for job in named_jobs if job["type"] == "SUBMISSION"]
        return max(jobs, key=lambda job: job["start_time"] or 0, default={})

    def tasks(self, job_id: str) -> list[tuple[str, str]]:
        """Name and state of each call in the job's table of tasks."""
        answer = self.ask(f"/api/v0/tasks?limit=10000&filter_keys=job_id&filter_predicates=%3D&filter_values={job_id}")
        return [(task["name"], task["state"]) for task in answer["data"]["result"]["result"]]

    def actors(self) -> set[str]:
        """The name of each in the table of actors: its name, or else its repr."""
        return {actor["name"] or actor["reprName"] for actor in self.ask("/logical/actors")["data"]["actors"].values()}

    def datasets(self, job_id: str) -> set[str]:
        return {dataset["dataset"] for dataset in self.ask(f"/api/data/datasets/{job_id}")["datasets"]}


@dataclass
class Seen:
    """The views of a submitted sweep while it ran, and shortly after."""

    tasks: dict[str, set[str]] = field(default_factory=dict)
    """Name to the states that were seen."""
    messages: set[str] = field(default_factory=set)
    job: dict[str, Any] = field(default_factory=dict)
    actors: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    logs: dict[str, str] = field(default_factory=dict)
    trials: list[tuple[str, str, int, int]] = field(default_factory=list)
    """Phase, state, arm and seed of each trial, by its number, in the end."""
    verdict: dict[str, Any] = field(default_factory=dict)
    """The content of `verdict.json` in the end."""
    answers: dict[str, list[Any]] | None = None
    """Each query of the board to its series; None without a Prometheus."""

    def look(self, dashboard: Dashboard, name: str) -> bool:
        """Looks at the job; True when it has ended."""
        self.job = dashboard.job(name)
        self.messages.add(self.job.get("message") or "")
        if self.job.get("job_id"):
            for task, state in dashboard.tasks(self.job["job_id"]):
                self.tasks.setdefault(task, set()).add(state)
        return self.job.get("status") in ENDED


def watch(dashboard: Dashboard, session: Path, name: str, folder: Path, submit: Callable[[], None]) -> Seen:
    """Submits the sweep of this name and looks at the dashboard until its job has ended.

    `session`: folder of the head's Ray session; `folder`: for Prometheus' files.
    """
    seen, began = Seen(), time.time()
    with prometheus(session, folder) as ask:
        submit()
        wait_until(lambda: seen.look(dashboard, name), 300)
        seen.actors, seen.datasets = dashboard.actors(), dashboard.datasets(seen.job["job_id"])
        seen.logs = {path.name: path.read_text() for path in (session / "logs").glob("raycodellm-*")}

        def all_answered() -> bool:
            texts = {query: query.replace("$sweep", name) for query in queries(board())}
            seen.answers = {query: ask(text, began) for query, text in texts.items()} if ask else None
            return seen.answers is None or all(seen.answers.values())

        with contextlib.suppress(AssertionError):  # the test says which query has no data
            wait_until(all_answered, 120)
    return seen


@contextlib.contextmanager
def prometheus(session: Path, folder: Path) -> Iterator[Callable[[str, float], list[Any]] | None]:
    """A Prometheus with the configuration that Ray wrote for it. Yields a function that gives the series which a query
    has had since a time (Unix seconds); None where no Prometheus is installed."""
    if PROMETHEUS is None:
        yield None
        return
    url = f"http://127.0.0.1:{free_port()}"
    command = [PROMETHEUS, f"--config.file={session}/metrics/prometheus/prometheus.yml"]
    command += [f"--storage.tsdb.path={folder}/prometheus", f"--web.listen-address={url.removeprefix('http://')}"]

    def ask(query: str, since: float) -> list[Any]:
        form = urllib.parse.urlencode({"query": query, "start": since, "end": time.time(), "step": 5})
        with urllib.request.urlopen(f"{url}/api/v1/query_range?{form}", timeout=20) as answer:
            return json.load(answer)["data"]["result"]

    with open(folder / "prometheus.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield ask
    finally:
        process.kill()
        process.wait(120)


def wait_until(condition: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, condition
        time.sleep(0.5)
    return value
