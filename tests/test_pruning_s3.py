"""`raycodellm prune-storage` on an object store: the same rules, and few requests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from s3_server import Requests, s3_server

from raycodellm import config, pruning, sweep
from raycodellm.commands.prune import Pruning, prune
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.records import TrialResult, as_json
from raycodellm.sweep import ownership

pytestmark = pytest.mark.slow

STAGE_FILES = (
    "DONE",
    "stage.json",
    "model/config.json",
    "model/model.safetensors",
    "evaluation/boxes-c5e035a83d05d4ae.parquet",
)


@pytest.fixture(scope="module")
def store() -> Iterator[Requests]:
    pytest.importorskip("moto.server")
    with s3_server() as requests:
        yield requests


@pytest.fixture
def storage(store: Requests, sweep_text: str, request, monkeypatch) -> Folder:
    """A storage with two runs of three trials, each with its stages, and stages that none of them needs."""
    monkeypatch.setattr(ownership, "REMOTE", replace(ownership.REMOTE, settle=0.0))
    storage = Folder(f"s3://data/{request.node.name}")
    for name, first in (("a", 0), ("b", 10)):
        sweep.open_run(config.parse(sweep_text, overrides=(f"name={name}",)), storage)
        data = {
            "tokenizer": f"{first:016x}",
            **{f"sources.{one}": f"{first:016x}" for one in ("prose", "python", "asks")},
        }
        (storage / name).write_json("data.json", data)
        (storage / "tokens" / f"prose-{first:016x}").write_bytes("manifest.json", b"{}")
        for number in range(3):
            result = TrialResult(number, "failed", arm=number, seed=0, stages=(key(first + number),))
            (storage / name / "trials" / f"{number:04d}").write_json("result.json", as_json(result))
            write_stage(storage, first + number)
    for number in range(20, 25):
        write_stage(storage, number)
    return storage


def key(number: int) -> str:
    return f"pretrain-{number:016x}"


def write_stage(storage: Folder, number: int) -> None:
    for path in STAGE_FILES:
        folder, _, name = f"stages/{key(number)}/{path}".rpartition("/")
        (storage / folder).write_bytes(name, b"0123456789")


def next_month() -> float:
    return time.time() + 30 * 86_400.0


def stages(storage: Folder) -> set[str]:
    return {*(storage / "stages").list()}


def test_what_no_run_needs_is_deleted_from_a_bucket_and_nothing_else(storage: Folder, tmp_path: Path) -> None:
    (storage / "stages" / key(21)).write_bytes("notes.txt", b"mine")
    (storage / "papers").write_bytes("ma.pdf", b"mine")
    assert prune(storage.uri, Pruning(yes=True), print, clock=time.time) == 0
    assert len(stages(storage)) == 11, "all are young"
    (storage / "b").download(tmp_path)
    away = "old/100%25 of it? #2/b"
    (storage / away).upload(tmp_path)
    storage.delete("b")
    assert not {f"stages/{key(number)}" for number in range(10, 13)} & {
        item.path for item in pruning.look(storage, pruning.Asked(), next_month()).plan.items
    }
    assert prune(storage.uri, Pruning((away,), yes=True), print, clock=next_month) == 0
    assert stages(storage) == {*map(key, range(3)), key(21)}
    assert [name for name in storage.list() if name != "old"] == ["a", "papers", "stages", "tokens"]
    assert (storage / "tokens").list() == [f"prose-{0:016x}"]
    found = pruning.look(storage, pruning.Asked(), next_month())
    assert found.plan.items == () and found.plan.kept_bytes == 3 * 50 + 2


def test_a_sweep_that_a_driver_elsewhere_runs_is_not_forgotten_and_its_next_trials_stages_stay(
    storage: Folder, monkeypatch
) -> None:
    monkeypatch.setattr(ownership, "REMOTE", ownership.Heartbeat(beat=0.05, stale=0.5, look=0.02, settle=0.0))
    owner = ownership.Owner(storage / "b", machine="another")
    owner.claim(print)
    real = pruning.Look.again

    def again(look: pruning.Look) -> pruning.Look:
        begun = TrialResult(3, "running", arm=3, seed=0, stages=(key(20), key(21)))
        (storage / "b" / "trials" / "0003").write_json("trial.json", as_json(begun))
        return real(look)

    monkeypatch.setattr(pruning.Look, "again", again)
    with owner.held():
        with pytest.raises(UserError, match="is being run by process"):
            prune(storage.uri, Pruning(("b",), yes=True), print, clock=next_month)
        assert prune(storage.uri, Pruning(yes=True), print, clock=next_month) == 0
    assert stages(storage) == {*map(key, (0, 1, 2, 10, 11, 12, 20, 21))}
    assert (storage / "stages" / key(20)).read_bytes("DONE") == b"0123456789"


def test_a_look_at_a_bucket_takes_no_more_requests_with_more_stages(store: Requests, storage: Folder) -> None:
    def requests() -> dict[str, int]:
        event: dict = {}
        with store.of(event):
            pruning.look(storage, pruning.Asked(), next_month())
        return event["kinds"]

    few = requests()
    for number in range(100, 140):
        write_stage(storage, number)
    assert requests() == few and sum(few.values()) < 70
