"""A driver that is killed at any request leaves a journal on the object store with every suggestion that it made."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from raycodellm.files import Folder
from raycodellm.sweep import journal_copy
from raycodellm.sweep.journal_copy import JournalCopy, joined, read_journal

LINES = [f'{{"op_code": {n}, "worker_id": "{"x" * (n % 7)}"}}\n'.encode() for n in range(40)]


class KilledError(Exception):
    """The driver's end, at a request that changes the object store."""


class Store:
    """Makes local folders behave as on an object store, and counts the requests that change it and their bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_changes = self.num_bytes = 0
        self.dies_at: int | None = None
        delete = Folder.delete

        def write(folder: Folder, name: str, data: bytes) -> None:
            self.changes(len(data))
            (path := Path(folder.uri) / name).parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

        def counted_delete(folder: Folder, name: str = "") -> None:
            self.changes(0)
            delete(folder, name)

        monkeypatch.setattr(Folder, "local", property(lambda folder: None))
        monkeypatch.setattr(Folder, "write_bytes", write)
        monkeypatch.setattr(Folder, "delete", counted_delete)
        monkeypatch.setattr(journal_copy, "MERGE_BYTES", 200)

    def changes(self, num_bytes: int) -> None:
        if self.num_changes == self.dies_at:
            raise KilledError
        self.num_changes += 1
        self.num_bytes += num_bytes


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


def append(journal: Path, lines: list[bytes]) -> None:
    journal.parent.mkdir(parents=True, exist_ok=True)
    with open(journal, "ab") as file:
        file.write(b"".join(lines))


def test_a_driver_killed_at_any_request_has_kept_every_line_up_to_its_last_suggestion(store: Store, tmp_path) -> None:
    for dies_at in itertools.count():
        folder, own = Folder(str(tmp_path / f"s{dies_at}")), tmp_path / f"d{dies_at}"
        store.num_changes, store.dies_at, kept, generation = 0, dies_at, 0, 1
        copy = JournalCopy(folder, own / "1.log", generation)
        copy.fetch()
        place = 0
        while place < len(LINES):
            append(own / f"{generation}.log", LINES[place : place + 3])
            place += 3
            try:
                copy.keep()
                kept = place
            except KilledError:
                store.dies_at = None
                generation += 1
                copy = JournalCopy(folder, own / f"{generation}.log", generation)
                copy.fetch()
                found = (own / f"{generation}.log").read_bytes() if (own / f"{generation}.log").exists() else b""
                place = found.count(b"\n")
                assert found == b"".join(LINES[:place]), "the lines up to some line, and nothing else"
                assert place >= kept
        if store.dies_at is not None:  # it was not killed before its end
            break
        copy.merge()
        assert read_journal(folder) == b"".join(LINES) == folder.read_bytes("optuna.log")
        assert folder.list() == ["optuna.log"]
    assert dies_at > 20


def test_a_line_is_written_about_four_times_however_long_the_journal_gets(store: Store, tmp_path) -> None:
    folder, journal = Folder(str(tmp_path / "s")), tmp_path / "optuna.log"
    copy = JournalCopy(folder, journal, 1)
    for num_lines in (250, 1_000):
        store.num_bytes = store.num_changes = 0
        before = journal.stat().st_size if journal.exists() else 0
        for number in range(num_lines):
            append(journal, [LINES[number % 40]])
            copy.keep()
        assert store.num_bytes < 4.5 * journal.stat().st_size + 200
        assert store.num_changes < 1.2 * num_lines
        assert journal.stat().st_size > before
    assert read_journal(folder) == journal.read_bytes()


def test_a_driver_that_lost_its_run_folder_and_writes_once_more_changes_nothing(store: Store, tmp_path) -> None:
    folder = Folder(str(tmp_path / "s"))
    old, new = (JournalCopy(folder, tmp_path / f"{name}.log", place) for place, name in enumerate(("old", "new"), 1))
    append(tmp_path / "old.log", LINES[:2])
    old.keep()
    new.fetch()
    append(tmp_path / "new.log", [b"new\n"])
    new.keep()
    append(tmp_path / "old.log", [b"old\n"])
    old.keep()
    assert read_journal(folder) == b"".join(LINES[:2]) + b"new\n"
    append(tmp_path / "old.log", [b"older\n"])
    old.keep()
    assert read_journal(folder) == b"".join(LINES[:2]) + b"new\n"


def test_a_journal_that_was_made_anew_or_cut_replaces_the_one_on_the_object_store(store: Store, tmp_path) -> None:
    folder, journal = Folder(str(tmp_path / "s")), tmp_path / "optuna.log"
    folder.write_bytes("optuna.log", LINES[0] + LINES[1][:9])  # as an older version's driver may have left it
    copy = JournalCopy(folder, journal, 1)
    copy.fetch()
    assert journal.read_bytes() == LINES[0]
    append(journal, [LINES[1]])
    copy.keep()
    assert read_journal(folder) == LINES[0] + LINES[1]
    append(journal, [LINES[2]])
    copy.keep()
    journal.write_bytes(LINES[5])  # repaired
    copy.merge()
    assert read_journal(folder) == LINES[5]
    append(journal, [LINES[6]])
    copy.keep()
    assert read_journal(folder) == LINES[5] + LINES[6]


def test_a_part_that_fits_nowhere_is_left_out() -> None:
    assert joined(b"ab\n", {"000000000002-00000000-0001": b"x\n", "garbage": b"y\n"}) == b"ab\n"
    assert joined(b"", {"000000000000-00000000-0001": b""}) == b"", "an upload that was broken off"


def test_without_a_journal_an_old_copy_is_removed(store: Store, tmp_path) -> None:
    append(tmp_path / "optuna.log", LINES[:1])
    JournalCopy(Folder(str(tmp_path / "s")), tmp_path / "optuna.log", 1).fetch()
    assert not (tmp_path / "optuna.log").exists()
    assert read_journal(Folder(str(tmp_path / "s"))) is None
