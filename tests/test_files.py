"""A folder is written whole or not at all, on local disks and on any pyarrow file system."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest

from raycodellm.files import Folder, fingerprint


def test_what_is_written_reads_back(tmp_path) -> None:
    folder = Folder(str(tmp_path)) / "a" / "b"
    folder.write_json("x.json", {"n": 1})
    folder.write_table("t.parquet", pa.table({"c": [1, 2]}))
    assert folder.read_json("x.json") == {"n": 1}
    assert folder.read_table("t.parquet").column("c").to_pylist() == [1, 2]
    assert folder.list() == ["t.parquet", "x.json"]
    assert pickle.loads(pickle.dumps(folder)) == folder
    assert not (folder / "nothing").exists()
    assert (folder / "nothing").list() == []


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch) -> None:
    folder = Folder(str(tmp_path))
    folder.write_bytes("x", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raycodellm.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write_bytes("x", b"new")
    assert folder.read_bytes("x") == b"old"
    assert folder.list() == ["x"]


def test_folders_are_copied_and_deleted_whole(tmp_path) -> None:
    (tmp_path / "from" / "deep").mkdir(parents=True)
    (tmp_path / "from" / "deep" / "x").write_text("1")
    folder = Folder(f"file://{tmp_path}/to")
    folder.upload(tmp_path / "from")
    assert (folder / "deep").read_bytes("x") == b"1"
    folder.download(tmp_path / "back")
    assert (tmp_path / "back" / "deep" / "x").read_text() == "1"
    folder.delete()
    assert not folder.exists()
    folder.delete()


def test_equal_values_have_equal_fingerprints_whatever_their_order() -> None:
    assert fingerprint({"a": 1, "b": [2.5]}) == fingerprint({"b": [2.5], "a": 1}) != fingerprint({"a": 1, "b": [2.6]})
    assert len(fingerprint(None)) == 16
