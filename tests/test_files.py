"""A folder is written whole or not at all, on local disks and on any pyarrow file system."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest
from pyarrow.fs import LocalFileSystem

from raycodellm import parquet
from raycodellm.config import UserError
from raycodellm.files import DamagedFile, Folder, fingerprint


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
    with folder.as_local() as path:
        assert path == folder.local
    folder.delete()
    assert not folder.exists()
    folder.delete()


def test_a_remote_folder_has_a_local_copy_for_as_long_as_it_is_used(tmp_path, monkeypatch) -> None:
    (tmp_path / "x").write_text("1")
    monkeypatch.setattr(Folder, "local", None)  # as one on an object store
    monkeypatch.setattr(Folder, "filesystem", LocalFileSystem())
    monkeypatch.setattr(Folder, "path", str(tmp_path))
    with Folder("s3://bucket/folder").as_local() as path:
        assert (path / "x").read_text() == "1" and path != tmp_path
    assert not path.exists() and (tmp_path / "x").exists()


def test_the_folders_of_a_bucket_share_their_connections() -> None:
    one, other = (Folder(f"s3://bucket/{path}?region=us-east-1") for path in ("a b%20c/d", "e/"))
    assert one.filesystem is other.filesystem
    assert (one.path, other.path) == ("bucket/a b c/d", "bucket/e")
    assert Folder("s3://bucket/a?region=eu-west-1").filesystem is not one.filesystem
    assert Folder("s3://else/a?region=us-east-1").filesystem is not one.filesystem
    assert Folder("s3://bucket?region=us-east-1").path == "bucket"


def test_equal_values_have_equal_fingerprints_whatever_their_order() -> None:
    assert fingerprint({"a": 1, "b": [2.5]}) == fingerprint({"b": [2.5], "a": 1}) != fingerprint({"a": 1, "b": [2.6]})
    assert len(fingerprint(None)) == 16


# ------------------------------------------------------------------------------------------------- addresses


def test_what_follows_a_question_mark_stays_behind_the_path() -> None:
    folder = Folder("s3://bucket/x?endpoint_override=localhost:9000&scheme=http") / "stages"
    assert folder.uri == "s3://bucket/x/stages?endpoint_override=localhost:9000&scheme=http"
    assert folder.name == "stages"
    assert folder.parent.uri == "s3://bucket/x?endpoint_override=localhost:9000&scheme=http"
    assert (Folder("/a/b?c") / "d").parent == Folder("/a/b?c")
    assert Folder("/a").parent == Folder("/")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3://", "names no bucket; for example s3://bucket/folder"),
        ("gs:///x", "names no bucket"),
        ("s3:/bucket/x", "no folder and no address; for example s3://bucket"),
        ("s3://KEY:SECRET@bucket/x", "AWS_SECRET_ACCESS_KEY"),
        ("xyz://a/b", "no storage that can be opened .*Unrecognized filesystem"),
    ],
)
def test_an_address_that_can_be_no_storage_is_refused_in_a_line(uri: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        Folder(uri).check_writable("--storage")
    assert "SECRET@" not in str(refused.value) and len(str(refused.value)) < 300


def test_without_a_home_a_path_under_it_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("pathlib.Path.expanduser", lambda path: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(UserError, match="~/raycodellm: there is no home folder here"):
        Folder("~/raycodellm")


# ------------------------------------------------------------------------------------------------- faults of disks


def test_a_place_that_takes_no_folder_is_refused_before_anything_is_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for place, words in (("file", "file|File"), ("file/in/it", "a part of this path is a file")):
        folder = Folder(str(tmp_path / place))
        for prove in (folder.prove_writable, folder.check_writable):
            with pytest.raises(UserError, match=rf"--storage {folder}: cannot be written .*({words})"):
                prove("--storage")
    new = Folder(str(tmp_path / "new" / "er"))
    new.check_writable("--storage")
    assert not new.exists()
    new.prove_writable("--storage")
    assert new.list() == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device.*make space"),
        (errno.EDQUOT, "quota exceeded.*make space"),
        (errno.EROFS, "Read-only file system.*not read-only"),
        (errno.EACCES, "Permission denied.*that you may write"),
        (errno.EIO, "Input/output error.*reachable"),
    ],
)
def test_a_storage_that_takes_no_file_says_why_and_what_to_do(tmp_path, monkeypatch, number: int, words: str) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    folder = Folder(str(tmp_path))
    monkeypatch.setattr("raycodellm.files.tempfile.mkstemp", fails)
    with pytest.raises(UserError, match=words):
        folder.prove_writable("--storage")
    with pytest.raises(OSError) as failed:
        folder.write_bytes("x", b"1")
    assert failed.value.errno == number and failed.value.filename == f"{tmp_path}/x"


def test_an_object_stores_error_keeps_its_words_and_gets_no_number(tmp_path, monkeypatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("When reading object: AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 7")

    folder = Folder(str(tmp_path))
    monkeypatch.setattr(Folder, "filesystem", property(fails))
    with pytest.raises(OSError, match=f"{tmp_path}/x: When reading object: AWS Error NETWORK") as failed:
        folder.read_bytes("x")
    assert failed.value.errno is None and isinstance(failed.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"f_flag": os.ST_RDONLY}, errno.EROFS),
        ({"f_bavail": 0}, errno.ENOSPC),
        ({"f_favail": 0, "f_files": 9}, errno.ENOSPC),
    ],
)
def test_a_disk_that_is_read_only_or_full_is_told_without_writing(tmp_path, monkeypatch, changes, number) -> None:
    names = ("f_flag", "f_bavail", "f_files", "f_favail")
    disk = os.statvfs(tmp_path)
    values = {name: getattr(disk, name) for name in names} | changes
    monkeypatch.setattr("os.statvfs", lambda path: type("Disk", (), values))
    with pytest.raises(UserError, match=os.strerror(number)):
        Folder(str(tmp_path)).check_writable("--storage")


def test_a_file_larger_than_may_be_written_leaves_the_old_one(tmp_path, monkeypatch) -> None:
    folder = Folder(str(tmp_path))
    folder.write_bytes("x", b"old")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python would keep the beginning of it
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(OSError, match=f"too large: '{tmp_path}/x'"):
            folder.write_bytes("x", b"new" * 1_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folder.read_bytes("x") == b"old" and folder.list() == ["x"]


@pytest.mark.parametrize(
    ("data", "fault"),
    [(b"", "is empty"), (b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"[1]", "holds a list, not")],
)
def test_json_that_is_none_is_named(tmp_path, data: bytes, fault: str) -> None:
    folder = Folder(str(tmp_path))
    folder.write_bytes("x.json", data)
    with pytest.raises(DamagedFile, match=f"{tmp_path}/x.json: {fault}"):
        folder.read_json("x.json")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/y.json"):
        folder.read_json("y.json")


@pytest.mark.parametrize("columns", [None, {"n", "word"}])
def test_no_thread_of_arrows_holds_the_content_of_a_table(columns) -> None:
    """A thread that holds an object of Python's when Python ends aborts the process."""
    released_by = set()

    class Content(np.ndarray):
        def __del__(self) -> None:
            released_by.add(threading.current_thread())

    data = parquet.to_bytes(pa.table({"n": [1, 2], "word": ["a", "b"]}))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(500):
            assert parquet.from_bytes(np.frombuffer(data, np.uint8).view(Content), columns).num_rows == 2
    finally:
        sys.setswitchinterval(interval)
    assert released_by == {threading.current_thread()}


def test_a_table_without_a_column_or_of_another_type_is_named(tmp_path) -> None:
    folder = Folder(str(tmp_path))
    folder.write_table("t.parquet", pa.table({"n": [1], "word": ["a"]}))
    assert folder.read_table("t.parquet", {"n": "double"}).column("n").to_pylist() == [1.0]
    for types in ({"word": "int64"}, {"more": "int64"}):
        with pytest.raises(DamagedFile, match=r"t\.parquet: is no table that can be read"):
            folder.read_table("t.parquet", types)
