"""One driver at a time on a run folder, on any storage; one that was killed is known to be gone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from raycodellm import config, search, sweep
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.slots.threads import THREAD_PREFIX
from raycodellm.sweep import ownership
from raycodellm.sweep.journal_copy import read_journal
from raycodellm.sweep.ownership import LOCAL, OWNER, REMOTE, Owner


class Time:
    """Passes only when somebody sleeps; what others do meanwhile is called each time."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.now, self.meanwhile = 0.0, meanwhile

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


def owner(folder: Path, time: Time, machine: str = "elsewhere") -> Owner:
    return Owner(Folder(str(folder)), time, time.sleep, machine)


@pytest.fixture
def remote(monkeypatch) -> None:
    """Storages are object stores, where no file can be locked; a driver looks twice for another one, and soon."""
    monkeypatch.setattr(ownership, "REMOTE", replace(REMOTE, settle=0.05))
    monkeypatch.setattr(Folder, "local", property(lambda folder: None))
    monkeypatch.setattr(Folder, "write_bytes", lambda folder, name, data: write(Path(folder.uri) / name, data))


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_a_driver_that_runs_on_this_machine_keeps_a_second_one_out_at_once(tmp_path) -> None:
    time = Time()
    owner(tmp_path, time, "here").claim(print)
    before = time.now
    with pytest.raises(UserError, match=r"is being run by process \d+ on .*; wait for it or stop it"):
        owner(tmp_path, time, "here").claim(print)
    assert time.now == before


def test_a_driver_of_this_machine_that_was_killed_is_followed_at_once(tmp_path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    time = Time()
    killed = owner(tmp_path, time, "here")
    killed.claim(print)
    for changed in ({"pid": ended.pid}, {"created": killed.created - 1000}):  # another has its number by now
        Folder(str(tmp_path)).write_json(OWNER, {**killed.own_content(), **changed, "beats": 7})
        before = time.now
        owner(tmp_path, time, "here").claim(print)
        assert time.now - before < 1


def test_a_driver_elsewhere_that_shows_that_it_lives_keeps_a_second_one_out(tmp_path) -> None:
    first = owner(tmp_path, Time(), "here")
    first.claim(print)
    time = Time()
    time.meanwhile = lambda: first.beat() if time.now >= LOCAL.beat else None
    said: list[str] = []
    with pytest.raises(UserError, match="is being run by"):
        owner(tmp_path, time).claim(said.append)
    assert time.now < LOCAL.stale
    assert len(said) == 1 and "looking for up to 30 s whether it still runs" in said[0]


def test_a_driver_elsewhere_that_is_silent_is_followed_after_half_a_minute(tmp_path) -> None:
    owner(tmp_path, Time(), "here").claim(print)
    time = Time()
    owner(tmp_path, time).claim(lambda line: None)
    assert LOCAL.stale <= time.now < LOCAL.stale + 5


def test_of_two_drivers_in_the_same_instant_one_is_refused(tmp_path) -> None:
    other = owner(tmp_path, Time(), "here")
    time = Time(lambda: other._write())
    with pytest.raises(UserError, match="is being run by"):
        owner(tmp_path, time).claim(lambda line: None)
    assert other.read()["token"] == other.token


def test_an_owner_file_that_is_gone_is_written_again_and_half_of_one_is_none(tmp_path) -> None:
    time = Time()
    first = owner(tmp_path, time, "here")
    first.claim(print)
    (tmp_path / OWNER).unlink()
    first.beat()
    assert first.read()["token"] == first.token
    (tmp_path / OWNER).write_text('{"hol')
    owner(tmp_path, time).claim(print)


def opened(text: str, folder: Path) -> sweep.Run:
    return sweep.open_run(config.parse(text), Folder(str(folder)))


def test_a_driver_on_an_object_store_begins_with_the_journal_that_the_last_one_left(
    sweep_text: str, tmp_path, monkeypatch, remote
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = opened(sweep_text, tmp_path)
    write(run.journal, b"an old copy")
    run.folder.write_bytes("optuna.log", b"asked and told\n")
    before = {thread.name for thread in threading.enumerate()}  # another test may have left some
    with sweep.lock(run) as owned:
        assert owned.journal.read_bytes() == b"asked and told\n"
        began = {thread.name for thread in threading.enumerate()} - before
        assert not any(name.startswith(THREAD_PREFIX) for name in began)  # such would keep Ray from being shut down
        with pytest.raises(UserError, match="is being run by"), sweep.lock(run):
            raise AssertionError("two drivers hold one run folder")
        with open(owned.journal, "ab") as file:
            file.write(b"more\n")
        owned.hold.keep_journal()
        assert read_journal(run.folder) == b"asked and told\nmore\n"
    assert run.folder.read_bytes("optuna.log") == b"asked and told\nmore\n"
    assert run.folder.list() == ["optuna.log", "sweep.yaml"]


def test_a_driver_does_not_wait_for_the_lock_that_a_killed_one_left_on_the_journal(sweep_text: str, tmp_path) -> None:
    run = opened(sweep_text, tmp_path)
    left = run.journal.with_name("optuna.log.lock")
    left.symlink_to(run.journal)  # as Optuna locks
    with sweep.lock(run) as owned:
        assert not left.is_symlink()
        search.SweepStudy(owned.journal, owned.file)


def test_a_driver_that_lost_its_run_folder_writes_no_journal_and_ends(
    sweep_text: str, tmp_path, monkeypatch, remote
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = opened(sweep_text, tmp_path)
    with sweep.lock(run) as owned:
        run.folder.write_json(OWNER, {"holder": "process 1 on spare", "token": "another", "beats": 1})
        run.folder.write_bytes("optuna.log", b"the other's")
        write(owned.journal, b"mine\n")
        owned.hold.owner.beat()
        owned.hold.keep_journal()
        assert run.folder.read_bytes("optuna.log") == b"the other's"
        results = sweep.Results(owned)
        results.begin(0, 0, 0, {})
        results.write_table()
        assert not run.folder.exists("trials.parquet")
        watcher = sweep.Watchdog(None, owned, results, None, SimpleNamespace(), "127.0.0.1:1")
        asked: list[str] = []
        monkeypatch.setattr(watcher, "_ask", lambda method, *arguments, timeout=0.0: asked.append(method))
        with pytest.raises(sweep.SweepLost, match="process 1 on spare has taken the sweep over"):
            watcher._check_owner()
        assert asked == ["stop", "drained"]
    assert run.folder.read_json(OWNER)["token"] == "another"
    assert run.folder.read_bytes("optuna.log") == b"the other's"


def test_a_driver_that_was_silent_for_two_beats_looks_again_before_it_writes(tmp_path) -> None:
    time = Time()
    first = owner(tmp_path, time)
    first.claim(print)
    Folder(str(tmp_path)).write_json(OWNER, {"holder": "process 1 on spare", "token": "another", "beats": 1})
    time.now += LOCAL.beat
    assert first.owns(), "it looked less than two beats ago"
    time.now += 2 * LOCAL.beat
    assert not first.owns() and first.usurper == "process 1 on spare"


def test_a_driver_on_an_object_store_asks_little_and_a_new_one_waits_as_long_as_the_old_one_may_be_silent(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(Folder, "write_bytes", lambda folder, name, data: write(Path(folder.uri) / name, data))
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "local", property(lambda folder: None))
        first = owner(tmp_path, Time(), "here")
    first.claim(print)
    assert 3 * 60 / first.beat_seconds <= 6, "requests in a minute: two to look, one to write"
    time = Time()
    second = owner(tmp_path, time)
    second.claim(lambda line: None)
    assert REMOTE.stale <= time.now < REMOTE.stale + 10
    assert (first.generation, second.generation) == (1, 2)
