"""Two drivers of one sweep at once on a local S3 server: one runs, and the other can take over when it is gone."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lease_process
import pytest
from s3_server import Requests, s3_server

from raycodellm import config, sweep
from raycodellm.conditional_writes import Changed, Unavailable, conditional_file
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.sweep import ownership
from raycodellm.sweep.ownership import OWNER, Owner
from raycodellm.sweep.stop_request import stop

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "lease_process.py"
SECONDS = 300.0
GRID = (
    "search.sampler=grid",
    "search.trials=null",
    "pretrain.code_ratio={search: {choice: [0.25, 0.5, 0.75]}}",
    "pretrain.schedule=constant",
)


@pytest.fixture(scope="module")
def store() -> Iterator[Requests]:
    pytest.importorskip("moto.server")
    with s3_server() as requests:
        yield requests


@pytest.fixture
def folder(store, request) -> Folder:
    return Folder(f"s3://data/{request.node.name}")


def owner(folder: Folder, machine: str, clock: Callable[[], float] = time.monotonic) -> Owner:
    made = Owner(folder, clock, machine=machine)
    made.heartbeat = ownership.Heartbeat(beat=0.05, stale=0.4, look=0.02, settle=0.0)
    made.beat_seconds, made.stale_seconds, made.settle_seconds = (
        made.heartbeat.beat,
        made.heartbeat.stale,
        made.heartbeat.settle,
    )
    return made


def test_of_drivers_that_take_a_run_folder_in_the_same_instant_exactly_one_has_it(folder) -> None:
    for before in (None, {"holder": "process 1 on a machine that is gone", "token": "old", "beats": 3}):
        if before is not None:
            folder.write_json(OWNER, before)
        now, waiting = [0.0], []  # a clock that stands still once the old driver is gone: no slow thread is taken so
        owners = [owner(folder, f"machine {number}", lambda now=now: now[0]) for number in range(6)]
        barrier, taken, refused = threading.Barrier(len(owners)), [], []

        def waits(line: str, now=now, waiting=waiting) -> None:
            waiting.append(line)
            if len(waiting) == 6:
                now[0] = 1.0

        def claim(one: Owner, waits=waits, barrier=barrier, taken=taken, refused=refused) -> None:
            barrier.wait()
            try:
                one.claim(waits)
            except UserError as error:
                refused.append(str(error))
                return
            taken.append(one)
            with one.held():
                while len(taken) + len(refused) < barrier.parties:
                    time.sleep(0.01)

        threads = [threading.Thread(target=claim, args=(one,)) for one in owners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert len(taken) == 1 and len(refused) == 5
        assert all("the sweep is being run by process" in line for line in refused)
        assert not folder.exists(OWNER)


def test_no_beat_and_no_request_to_stop_overwrites_another_drivers_file(folder) -> None:
    first, second = owner(folder, "a"), owner(folder, "b")
    first.claim(print)
    first.look()
    asked_by = Owner(folder, machine="c")
    seen = asked_by.read()
    third = {**second.own_content(), "holder": "process 7 on b", "beats": 1}
    folder.write_json(OWNER, third)  # between a look and a writing
    assert asked_by.ask_to_stop(seen) == seen
    with pytest.raises(Changed):
        first._write()
    first.beat()
    assert first.usurper == "process 7 on b" and first.read()["token"] == second.token
    first.give_back()
    assert folder.read_json(OWNER)["token"] == second.token


def test_a_driver_elsewhere_is_asked_to_stop_in_its_own_file(folder, monkeypatch) -> None:
    driver, signals = owner(folder, "a"), []
    driver.claim(print)
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append(number))

    def meanwhile(seconds: float) -> None:
        driver.beat()
        if signals:
            driver.give_back()

    assert stop(folder, lambda line: None, sleep=meanwhile) == f"process {os.getpid()} on {os.uname().nodename}"
    assert signals == [signal.SIGINT]


def test_a_storage_without_conditional_writes_is_used_without_them(folder, monkeypatch, caplog) -> None:
    first = owner(folder, "a")

    def refused(*_: object) -> None:
        raise Unavailable("PUT is answered by 501 Not Implemented")

    monkeypatch.setattr("raycodellm.conditional_writes.ConditionalFile.write", refused)
    first.claim(print)
    first.beat()
    assert folder.read_json(OWNER)["token"] == first.token and "written without conditions" in caplog.text
    assert conditional_file(Folder("/a/local/folder"), OWNER) is conditional_file(Folder("hdfs://a/b"), OWNER) is None


class Process:
    """A driver that runs as a process of its own."""

    def __init__(self, sweep_file: Path, storage: Folder, machine: str) -> None:
        command = [sys.executable, str(PROGRAM), str(sweep_file), storage.uri, machine]
        environment = {**os.environ, "XDG_CACHE_HOME": str(sweep_file.parent / machine)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, bufsize=1, env=environment, **pipes)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line.strip())

    def says(self, *beginnings: str) -> str:
        """The next line that begins like this."""
        while not (line := self._lines.get(timeout=SECONDS)).startswith(beginnings):
            pass
        return line

    def told(self, *beginnings: str) -> str:
        """The next line that begins like this, once the process may go on."""
        self.process.stdin.write("\n")
        return self.says(*beginnings)


def results(file: config.SweepFile, storage: Folder) -> list[tuple[object, ...]]:
    found = sweep.read_results(sweep.Run(file, storage))
    return [(one.number, one.state, one.arm, one.seed, one.params, one.metrics, one.stages) for one in found]


@pytest.mark.exhaustive
def test_of_two_drivers_at_once_one_runs_and_the_other_ends_the_sweep_after_a_kill(
    sweep_text, folder, tmp_path
) -> None:
    file, sweep_file = config.parse(sweep_text, overrides=GRID), tmp_path / "sweep.yaml"
    sweep_file.write_text(config.write_yaml(config.resolved_tree(file)))
    both = [Process(sweep_file, folder, name) for name in ("a", "b")]
    said = [one.says("owns", "refused") for one in both]
    assert sorted(line.split(":")[0] for line in said) == ["owns", "refused"], said
    first, second = sorted(both, key=lambda one: said[both.index(one)])
    assert "the sweep is being run by process" in said[both.index(second)]
    assert first.told("ended", "lost") == "ended 0"
    first.process.send_signal(signal.SIGSTOP)  # as on a machine that sleeps: its owner file falls silent
    assert second.told("owns", "refused") == "owns"
    assert second.told("ended", "lost") == "ended 1"
    first.process.send_signal(signal.SIGCONT)
    assert first.told("ended", "lost").startswith("lost to process"), "it looks before it does anything"
    second.process.kill()
    assert first.told("owns", "refused") == "owns"
    assert first.told("ended", "lost") == "ended 2" and first.says("done")
    for one in both:
        one.process.stdin.close()
        one.process.wait(SECONDS)
    lease_process.run_trials(file, folder / "whole", lambda: None)
    assert results(file, folder) == results(file, folder / "whole")
    assert not (folder / "small").exists(OWNER)
