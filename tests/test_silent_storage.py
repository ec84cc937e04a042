"""A storage that does not answer for a minute fails no trial, and nothing is done twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from driver_without_ray import Cluster
from test_killed_drivers import CONFIRMED, GRID, drive, told

from raycodellm import config, retrying, tokens
from raycodellm.config import Scaling
from raycodellm.files import Folder
from raycodellm.slots import pool
from raycodellm.sweep import journal_copy, ownership
from raycodellm.sweep.ownership import Owner

SILENCE_SECONDS = 60.0


class Storage:
    """Local folders as an object store that does not answer for a minute from its operation number `falls_silent_at`
    on. The minute passes while somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_operations, self.falls_silent_at, self.now, self.silent_until = 0, -1, 0.0, -1.0
        self.num_refused, self.is_asked_by_workers = 0, False
        reads = {name: getattr(Folder, name) for name in ("read_bytes", "list", "exists", "delete", "make")}
        for name, method in reads.items():
            monkeypatch.setattr(Folder, name, self._answering(method))
        monkeypatch.setattr(Folder, "write_bytes", self._answering(_write))
        monkeypatch.setattr(Folder, "local", property(lambda folder: None))
        monkeypatch.setattr(Owner, "runs_here", lambda owner, found: False)
        monkeypatch.setattr(journal_copy, "MERGE_BYTES", 4_000)
        monkeypatch.setattr(ownership, "REMOTE", replace(ownership.REMOTE, settle=0.0))
        monkeypatch.setattr("raycodellm.retrying.time", self)

    def _answering(self, method: Any) -> Any:
        def asked(folder: Folder, *arguments: Any, **named: Any) -> Any:
            if self.is_asked_by_workers:
                return method(folder, *arguments, **named)
            if self.num_operations == self.falls_silent_at:
                self.silent_until = self.now + SILENCE_SECONDS
            self.num_operations += 1
            if self.now < self.silent_until:
                self.num_refused += 1
                raise ConnectionError(f"{folder}: 503 SlowDown")
            return method(folder, *arguments, **named)

        return asked

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Workers(Cluster):
    """Slots whose own waits for the storage are left out: `test_slots.py` is about these."""

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self._storage = storage

    def _run(self, *arguments: Any) -> Any:
        self._storage.is_asked_by_workers = True
        try:
            return super()._run(*arguments)
        finally:
            self._storage.is_asked_by_workers = False


def _write(folder: Folder, name: str, data: bytes) -> None:
    (path := Path(folder.uri) / name).parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "points"),
    [
        (GRID, slice(0, None, 37)),
        pytest.param(GRID, slice(None), marks=pytest.mark.exhaustive),
        pytest.param(CONFIRMED, slice(None), marks=pytest.mark.exhaustive),
    ],
)
def test_a_driver_whose_storage_is_silent_for_a_minute_ends_its_sweep_as_if_nothing_was(
    sweep_text: str, tmp_path, monkeypatch, points: slice, overrides: tuple[str, ...]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage, file = Storage(monkeypatch), config.parse(sweep_text, overrides=overrides)
    began: list[int] = []
    begin = Owner.claim

    def claim(owner: Owner, say: Any) -> None:
        begin(owner, say)
        began.append(storage.num_operations)

    monkeypatch.setattr(Owner, "claim", claim)
    drive(file, Folder(str(tmp_path / "whole")), undisturbed := Workers(storage), monkeypatch)
    last = storage.num_operations
    expected = told(file, Folder(str(tmp_path / "whole")))
    # A storage that is silent while the command still opens the run folder is refused, before anything has begun.
    for point in range(began[0], last)[points]:
        folder, cluster = Folder(str(tmp_path / str(point))), Workers(storage)
        storage.num_operations, storage.falls_silent_at, storage.num_refused = 0, point, 0
        drive(file, folder, cluster, monkeypatch)
        assert storage.num_refused > 0, point
        storage.falls_silent_at = storage.silent_until = -1
        assert told(file, folder) == expected, point
        assert cluster.num_trained == undisturbed.num_trained == Counter(undisturbed.num_trained.keys())


class Trainer:
    """A slot's run whose Ray Train cannot write its file into the storage."""

    def fit(self) -> None:
        raise ConnectionError("503 SlowDown")


def test_slots_that_cannot_start_since_the_storage_is_silent_fail_no_trial_and_start_again(monkeypatch) -> None:
    now, asked = [0.0], []

    class Dispatcher:
        def __getattr__(self, method: str) -> Any:
            return SimpleNamespace(remote=lambda *arguments: asked.append((method, *arguments)))

    monkeypatch.setattr(pool, "ray", SimpleNamespace(get=lambda answer: answer, exceptions=ray.exceptions))
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(pool, "slot_trainer", lambda *arguments: Trainer())
    made = pool.SlotPool(Dispatcher(), Scaling(max_failures=0), 2, None, lambda: None)
    for seconds in retrying.WAITS_SECONDS:
        assert made.is_short_of_slots(2, num_alive=0)
        made._run_slot("slot 1")
        made._run_slot("slot 2")  # both met the same silence
        assert not made.is_short_of_slots(2, num_alive=0)
        now[0] += seconds
    assert {method for method, *_ in asked} == {"slot_gone", "note"}, "no trial has failed"
    assert asked[1] == ("note", "slot 1 has not started: the storage does not answer (503 SlowDown); again in 2 s")
    made._run_slot("slot 3")
    assert asked[-1] == ("abandon", "the storage has not answered 9 times: 503 SlowDown"), "its trials stay open"
    asked.clear()
    now[0] += pool.ANSWERED_SECONDS + 1
    made._run_slot("slot 4")
    assert [method for method, *_ in asked] == ["slot_gone", "note"], "after an answer all waits are there again"


def test_a_token_store_that_a_silent_storage_interrupted_is_made_again(sweep_text, tmp_path, monkeypatch) -> None:
    from raycodellm.tokens import sweep_data

    monkeypatch.setattr(retrying, "WAITS_SECONDS", (0.0,))
    sweep = config.parse(sweep_text).example()
    made: Counter[str] = Counter()

    def prepare(name: str, *_: Any) -> str:
        made[name] += 1
        if name == "prose" and made[name] == 1:
            raise ConnectionError("503 SlowDown")
        return f"the store of {name}"

    monkeypatch.setattr(sweep_data, "prepare_store", prepare)
    monkeypatch.setattr(sweep_data, "look_into", list)
    tokenizer = SimpleNamespace(folder=Folder(str(tmp_path)), vocab_size=512)
    monkeypatch.setattr(sweep_data, "_prepare_tokenizer", lambda *_: tokenizer)
    prepared = tokens.prepare(sweep, Folder(str(tmp_path)))
    assert made == {"prose": 2} | {name: 1 for name in sweep.sources if name != "prose"}
    assert set(prepared.stores.values()) == {f"the store of {name}" for name in sweep.sources}
