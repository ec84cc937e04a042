"""`raycodellm stop DIR`: the driver of the run folder stops cleanly, wherever it runs."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raycodellm import cli
from raycodellm.files import Folder
from raycodellm.sweep import ownership, stop_request
from raycodellm.sweep.ownership import LOCAL, OWNER, STOP, Owner


class Time:
    """Passes only when somebody sleeps; what the driver does meanwhile is called each time."""

    def __init__(self, meanwhile: Callable[[float], None] = lambda now: None) -> None:
        self.now, self.meanwhile = 0.0, meanwhile

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile(self.now)


@pytest.fixture
def driver(tmp_path, monkeypatch) -> Owner:
    """A driver that runs on another machine; signals to itself are kept in `heard`."""
    monkeypatch.setattr(ownership.os, "kill", lambda pid, number: driver.heard.append(number))
    driver = Owner(Folder(str(tmp_path)), sleep=lambda seconds: None, machine="elsewhere")
    driver.heard = []
    driver.claim(pytest.fail)
    return driver


def test_a_driver_elsewhere_finds_the_request_at_its_next_beat_and_answers(driver, tmp_path):
    def drives(now: float) -> None:
        driver.beat()
        if now >= 25:
            driver.give_back()

    said: list[str] = []
    time = Time(drives)
    assert stop_request.stop(Folder(str(tmp_path)), said.append, time, time.sleep).startswith("process ")
    assert driver.heard == [signal.SIGINT]
    assert said[0].startswith("asking process") and "10 s so far: running stages save their checkpoints" in said[1]
    assert not (tmp_path / OWNER).exists()


@pytest.mark.slow
def test_a_running_driver_elsewhere_is_interrupted_as_by_ctrl_c(tmp_path):
    code = (
        "import time; from raycodellm.files import Folder; from raycodellm.sweep.ownership import Owner\n"
        f"owner = Owner(Folder({str(tmp_path)!r}), machine='elsewhere'); owner.beat_seconds = 0.2; owner.claim(print)\n"
        "with owner.held():\n    print('claimed', flush=True)\n    time.sleep(500)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"claimed\n"
        assert stop_request.stop(Folder(str(tmp_path)), print) == f"process {process.pid} on {platform.node()}"
        assert process.wait(120) == -signal.SIGINT
    assert not (tmp_path / OWNER).exists()


def test_a_request_that_crossed_the_drivers_beat_is_made_again(driver, tmp_path):
    told = driver.own_content()

    def drives(now: float) -> None:
        if now < 3:  # the driver had read its file before the request was written
            Folder(str(tmp_path)).write_json(OWNER, {**told, "beats": now})
        elif driver.heard:
            driver.give_back()
        else:
            driver.beat()

    time = Time(drives)
    stop_request.stop(Folder(str(tmp_path)), print, time, time.sleep)
    assert driver.heard == [signal.SIGINT]


def test_a_driver_elsewhere_that_is_silent_is_gone(driver, tmp_path):
    said: list[str] = []
    time = Time()
    stop_request.stop(Folder(str(tmp_path)), said.append, time, time.sleep)
    assert LOCAL.stale <= time.now < LOCAL.stale + 5 and "so it is gone" in said[-1]
    assert STOP in Folder(str(tmp_path)).read_json(OWNER)  # should it live after all, it stops


@pytest.mark.slow
def test_a_driver_of_this_machine_gets_a_signal_and_its_end_is_waited_for(tmp_path, capsys):
    (tmp_path / "sweep.yaml").write_text("name: x\n")
    code = (
        "import sys, time; from raycodellm.files import Folder; from raycodellm.sweep.ownership import Owner\n"
        f"Owner(Folder({str(tmp_path)!r})).claim(print); print('claimed', flush=True); time.sleep(500)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "claimed\n"
        assert cli.main(["stop", str(tmp_path)]) == 0
        assert process.wait(120) == -signal.SIGTERM
    assert f"stopped: process {process.pid}" in capsys.readouterr().out
    assert cli.main(["stop", str(tmp_path)]) == 0
    assert f"nothing runs {tmp_path.name}" in capsys.readouterr().out


def test_stop_refuses_what_is_no_run_folder(tmp_path: Path, capsys):
    (tmp_path / "a.yaml").write_text("name: x\n")
    for target, said in ((tmp_path, "<storage>/<sweep name>"), (tmp_path / "a.yaml", "give --address")):
        assert cli.main(["stop", str(target)]) == 2
        assert said in capsys.readouterr().err
