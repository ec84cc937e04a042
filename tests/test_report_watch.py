"""`raycodellm report --watch`: the report follows a sweep that somebody else runs, on a disk and on an object store."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from large_run import write_large_run
from s3_server import s3_server

from raycodellm import cli, config, retrying
from raycodellm.commands import report as command
from raycodellm.files import Folder
from raycodellm.report import watch
from raycodellm.storage_files import report_address
from raycodellm.sweep import Run

pytestmark = pytest.mark.slow

RELOADS = '<meta http-equiv="refresh"'


def open_again(run: Folder) -> tuple[Callable[[], None], Callable[[], None]]:
    """(takes the last trial's result away, ends that trial), as its driver does."""
    last = run / "trials" / (run / "trials").list()[-1]
    result = last.read_bytes("result.json")

    def take_away() -> None:
        last.write_bytes("trial.json", result.replace(b'"complete"', b'"running"'))
        last.delete("result.json")

    def end() -> None:
        last.write_bytes("result.json", result)
        run.write_bytes("optuna.log", b"one line more")

    return take_away, end


def when(condition: Callable[[], bool], then: Callable[[], None]) -> threading.Thread:
    """Does `then` in a thread as soon as `condition` holds."""

    def wait() -> None:
        until = time.monotonic() + 500
        while not condition() and time.monotonic() < until:
            time.sleep(0.02)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def run(tmp_path, monkeypatch) -> Folder:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.05)
    return write_large_run(Folder(str(tmp_path)), num_arms=3, num_seeds=1, num_items=20)


def page_of(run: Folder) -> str:
    path = Path(report_address(run))
    return path.read_text() if path.exists() else ""


def test_a_watched_report_outlives_a_storage_that_does_not_answer_for_a_while(run, capsys, monkeypatch):
    asked = []

    def stamp(run) -> int:
        asked.append(run)
        if len(asked) == 1:
            raise ConnectionError("the network is away")
        return len(asked)

    monkeypatch.setattr(command, "_stamp", stamp)
    monkeypatch.setattr(retrying, "WAITS_SECONDS", (0.01,))
    assert cli.main(["report", str(run), "--watch"]) == 0
    assert "all 3 trials have ended" in capsys.readouterr().out and len(asked) == 2


def test_a_watched_report_takes_in_a_result_as_it_comes_and_ends_with_the_sweep(run, capsys):
    take_away, end = open_again(run)
    take_away()
    when(lambda: RELOADS in page_of(run), end)
    assert cli.main(["report", str(run), "--watch"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == report_address(run) and "Ctrl-C ends that, and stops no training" in said[1]
    assert said[2:] == [
        "2 of 3 trials ended; report written",
        "3 of 3 trials ended; report written",
        "all 3 trials have ended",
    ]
    assert RELOADS not in page_of(run) and "3 of 3" in page_of(run), "the last page is at rest"


def test_ctrl_c_ends_the_watch_and_leaves_a_page_at_rest(run, capsys):
    open_again(run)[0]()
    when(lambda: RELOADS in page_of(run), _thread.interrupt_main)
    assert cli.main(["report", str(run), "--watch"]) == 130
    assert "2 of 3" in page_of(run) and RELOADS not in page_of(run)
    assert "Traceback" not in capsys.readouterr().err


def test_on_an_object_store_a_look_makes_few_requests_and_a_result_is_read_once():
    pytest.importorskip("moto.server")
    with s3_server() as requests:
        storage = Folder("s3://data/s")
        folder = write_large_run(storage, num_arms=12, num_seeds=1, num_items=20)
        take_away, end = open_again(folder)
        take_away()
        run = Run(config.parse(folder.read_text("sweep.yaml")), storage)
        pages = command._Pages(run, print)
        counted: dict[str, dict] = {name: {} for name in ("first", "look", "again")}
        with requests.of(counted["first"]):
            assert pages.read()[1] is False
            pages.write(15)
        before = command._stamp(run)
        with requests.of(counted["look"]):
            assert command._stamp(run) == before
        end()
        assert command._stamp(run) != before
        with requests.of(counted["again"]):
            assert pages.read()[1] is True
            pages.write(None)
    kinds = {name: one["kinds"] for name, one in counted.items()}
    assert sum(kinds["look"].values()) <= 5, kinds["look"]
    assert kinds["again"]["GET"] <= 10 < 60 < kinds["first"]["GET"], "of the new trial and its two stages alone"
