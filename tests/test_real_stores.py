"""Google's and Azure's storage as their emulators play them: asked only where a variable names a running one.

`RAYCODELLM_TEST_AZURITE`: the address of Azurite (`npm install azurite`; `azurite-blob --skipApiVersionCheck`), such as
`http://127.0.0.1:10000`. `RAYCODELLM_TEST_GOOGLE`: that of an emulator of Google's storage, such as `storage-testbench`
whose XML answers were given the headers ETag and Last-Modified, which Google's have. The container and the bucket are
made here.
"""

from __future__ import annotations

import os
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycodellm import azure, file_systems
from raycodellm.corpora.listing.files import list_remote
from raycodellm.files import Folder
from raycodellm.sweep.ownership import Owner

AZURITE, GOOGLE = (os.environ.get(f"RAYCODELLM_TEST_{name}", "") for name in ("AZURITE", "GOOGLE"))
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, the same everywhere."""
pytestmark = pytest.mark.exhaustive


def on_azurite(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", AZURITE)
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    system = azure.Container("tests", ACCOUNT, "core.windows.net").opened()
    if not system.get_file_info("tests").type:
        system.create_dir("tests")
    return f"abfss://tests@{ACCOUNT}.dfs.core.windows.net"


def on_google(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", GOOGLE)
    told = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{GOOGLE}/storage/v1/b?project=p", b'{"name": "tests"}', told)
    try:
        urllib.request.urlopen(asked).close()
    except urllib.error.HTTPError as error:
        assert error.code == 409, "the bucket is there"
    return "gs://tests"


@pytest.fixture(
    params=[
        pytest.param(on_azurite, marks=pytest.mark.skipif(not AZURITE, reason="RAYCODELLM_TEST_AZURITE is not set")),
        pytest.param(on_google, marks=pytest.mark.skipif(not GOOGLE, reason="RAYCODELLM_TEST_GOOGLE is not set")),
    ]
)
def folder(request, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    file_systems.forget_buckets()
    made = Folder(f"{request.param(monkeypatch)}/{uuid.uuid4().hex}")
    yield made
    made.delete()
    file_systems.forget_buckets()


def test_a_folder_behaves_as_one_on_disk(folder: Folder, tmp_path: Path) -> None:
    folder.prove_writable("--storage")
    for one, name in ((folder, "far"), (Folder(str(tmp_path / "one")), "near")):
        assert one.list() == [] and not one.exists("a.json")
        one.write_json("a.json", {"a": 1})
        one.write_json("a.json", {"a": 2})
        (one / "d e%+ü" / "in").write_bytes("b", b"")
        (one / "made").make()
        assert one.list() == ["a.json", "d e%+ü", "made"] and one.exists() and one.exists("a.json")
        assert one.read_json("a.json") == {"a": 2} and (one / "d e%+ü" / "in").read_bytes("b") == b""
        one.download(tmp_path / name)
        assert (tmp_path / name / "d e%+ü" / "in" / "b").read_bytes() == b""
        (one / "up").upload(tmp_path / name)
        assert (one / "up" / "d e%+ü" / "in").list() == ["b"]
        stamp = one.stamp("a.json")
        assert stamp is not None and stamp[0] == len(one.read_bytes("a.json"))
        for gone in ("d e%+ü", "a.json", "nothing"):
            one.delete(gone)
        assert one.list() == ["made", "up"] and one.stamp("a.json") is None
        with pytest.raises(FileNotFoundError):
            one.read_bytes("a.json")
    assert sorted(file.name for file in list_remote(f"{folder.uri}/up/**/*")) == ["a.json", "d e%+ü/in/b"]


def test_of_drivers_that_take_a_run_folder_in_the_same_instant_exactly_one_has_it(folder: Folder) -> None:
    for number in range(10):
        drivers = [Owner(folder / str(number), machine=str(one), sleep=lambda seconds: None) for one in range(4)]
        barrier, taken, refused = threading.Barrier(len(drivers)), [], []

        def take(driver: Owner, barrier=barrier, taken=taken, refused=refused) -> None:
            barrier.wait()
            (taken if driver.take() is None else refused).append(driver)

        threads = [threading.Thread(target=take, args=(driver,)) for driver in drivers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1 and len(refused) == 3
        refused[0].look()
        assert refused[0].usurper is not None
        taken[0].beat()
        taken[0].give_back()
        assert not (folder / str(number)).exists("OWNER")
