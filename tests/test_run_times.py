"""Where the time went: every run of a sweep is kept, also one that was stopped or killed, and the report sums them."""

from __future__ import annotations

import pytest
from test_report import write_run

from raycodellm import run_times
from raycodellm.files import DamagedFile, Folder
from raycodellm.report import times
from raycodellm.report.parts import Bars
from raycodellm.report.records import read_records
from raycodellm.run_times import DONE, RUNNING, STOPPED, RunTimes
from raycodellm.sweep.timing import Timing
from raycodellm.tables import Table

DAY = 1_764_547_200.0
"""2025-12-01 00:00 UTC."""


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = {"at": 100.0}
    monkeypatch.setattr("time.monotonic", lambda: now["at"])
    monkeypatch.setattr("time.time", lambda: DAY + now["at"])

    def move(seconds: float) -> None:
        now["at"] += seconds

    return move


def test_a_run_that_was_stopped_is_kept_beside_the_one_that_continues_it(tmp_path, clock):
    run = Folder(str(tmp_path / "sweep")).make()
    for state, seconds in ((STOPPED, 300.0), (DONE, 60.0)):
        timing = Timing(run, DAY + 100.0)
        with timing.part("trials"):
            clock(seconds)
        timing.keep(state)
        clock(1_000.0)
    first, second = run_times.read_run_times(run)
    assert (first.state, second.state) == (STOPPED, DONE)
    assert first.seconds == {"trials": 300.0} and second.seconds == {"trials": 60.0}
    assert run_times.summed([first, second])[0] == {"trials": 360.0}


def test_a_run_that_was_killed_is_known_to_within_a_minute(tmp_path, clock):
    run = Folder(str(tmp_path / "sweep")).make()
    timing = Timing(run, DAY + 100.0)
    timing.keep(RUNNING)
    with timing.part("tokens"):
        clock(10.0)
    with timing.part("trials"):
        for _ in range(100):  # looks of 3 s each; then the driver is killed
            clock(3.0)
            timing.write_if_due()
        (found,) = run_times.read_run_times(run)
    assert found.state == RUNNING and 250.0 <= found.wall_seconds <= 310.0
    assert found.seconds["trials"] == pytest.approx(found.wall_seconds - 10.0)


def test_a_part_inside_another_is_counted_once(tmp_path, clock):
    timing = Timing(Folder(str(tmp_path)), DAY)
    with timing.part("all"):
        clock(1.0)
        with timing.part("inner"):
            clock(2.0)
    assert timing.seconds == {"inner": 2.0, "all": 3.0}


def test_no_run_fails_where_its_times_cannot_be_kept(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    Timing(Folder(str(tmp_path))).keep(DONE)


def test_a_damaged_file_of_times_is_named(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "0000.json").write_text("{")
    with pytest.raises(DamagedFile, match=r"runs/0000\.json"):
        run_times.read_run_times(Folder(str(tmp_path)))


def kept(began: float, seconds: float, state: str, **more) -> RunTimes:
    return RunTimes(DAY + began, DAY + began + seconds, state, {"trials": seconds - 5.0}, **more)


def shown(storage: Folder, runs: list[RunTimes], now: float = 0.0) -> tuple[str, Bars, list[Table]]:
    """The report's rows for these runs."""
    run = write_run(storage)
    (run.local / "timing.json").unlink()
    for number, one in enumerate(runs):
        run_times.write_run_times(run, number, one)
    said, bars, *rest = times.parts(read_records(run, storage), now)
    return said, bars, rest


def test_the_report_shows_all_runs_of_a_sweep_and_how_long_nothing_ran_between(tmp_path):
    busy = {"training": 500.0}
    runs = [kept(0, 600, STOPPED, slot_seconds=busy, num_ended=7), kept(3_600, 1_200, DONE, slot_seconds=busy)]
    said, bars, (table,) = shown(Folder(str(tmp_path)), runs)
    assert said.startswith("The sweep ran for 30 min in 2 runs; between them nothing ran for 50 min.")
    assert [(name, seconds) for name, seconds, _ in bars.rows] == [
        ("trials", 1_790.0),
        ("between the parts", 10.0),
        ("training, worker groups added up", 1_000.0),
    ]
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [row["state"] for row in rows] == ["stopped", "done", ""]
    assert [row["nothing ran before"] for row in rows] == ["–", "50 min", "50 min"]
    assert [row["ran for"] for row in rows] == ["10 min", "20 min", "30 min"]
    assert [row["trials ended"] for row in rows] == ["7", "0", "7"]
    assert rows[0]["began"] == "2025-12-01 00:00 UTC"


def test_a_run_that_ended_without_a_word_is_called_killed(tmp_path):
    runs = [kept(0, 600, RUNNING), kept(3_600, 600, RUNNING)]
    states = [row[2] for row in shown(Folder(str(tmp_path / "a")), runs, DAY + 4_230)[2][0].rows]
    assert states == ["killed", "running", ""]
    states = [row[2] for row in shown(Folder(str(tmp_path / "b")), runs, DAY + 9_000)[2][0].rows]
    assert states == ["killed", "killed, or still running", ""]


def test_times_that_an_older_version_did_not_keep_are_said_to_be_missing(tmp_path):
    storage = Folder(str(tmp_path))
    run = write_run(storage)
    run.write_json("spent.json", {"tokens": 0, "device_seconds": 1.0, "wall_seconds": 221.4 + 3_000.0})
    said, bars = times.parts(read_records(run, storage))
    assert said.startswith("Drivers ran for 54 min in all. Of 50 min, in runs that were stopped,")
    assert ("training, worker groups added up", 391.0) in [(name, seconds) for name, seconds, _ in bars.rows]
