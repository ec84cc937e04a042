"""Which errors of a storage pass by themselves, and how long they are waited for."""

from __future__ import annotations

import errno
import socket

import pyarrow as pa
import pytest

from raycodellm import retrying
from raycodellm.engine import checkpoint_files
from raycodellm.files import DamagedFile, Folder


def test_an_object_store_that_cannot_be_reached_passes_and_one_that_refuses_does_not() -> None:
    from pyarrow import fs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        store = fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{free.getsockname()[1]}",
            scheme="http",
            access_key="a",
            secret_key="b",
            region="us-east-1",
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        )
        with pytest.raises(OSError) as caught:
            store.get_file_info("bucket/name")
    assert caught.value.errno is None
    assert "NETWORK_CONNECTION" in retrying.passing_cause(caught.value)
    assert retrying.is_passing(caught.value.with_traceback(None)) is False  # by its text alone nobody can tell
    wrapped = RuntimeError("could not be written")
    wrapped.__cause__ = TimeoutError()
    assert retrying.is_passing(wrapped)


TASK = """ray::MapBatches(read)() (pid=14693, ip=192.0.2.2)
  File "{file}", line 92, in {where}
{error}

The above exception was the direct cause of the following exception:
ray.exceptions.UserCodeException: UDF failed to process a data block.
"""


@pytest.mark.parametrize(
    ("file", "error", "passes"),
    [
        ("pyarrow/error.pxi", "OSError: When reading 'a': AWS Error NETWORK_CONNECTION during HeadObject", True),
        ("pyarrow/error.pxi", "OSError: When reading 'a': AWS Error ACCESS_DENIED during HeadObject", False),
        ("reader.py", "OSError: [Errno 5] Input/output error", True),
        ("reader.py", "ConnectionResetError: [Errno 104] Connection reset by peer", True),
        ("reader.py", "OSError: [Errno 28] No space left on device", False),
        ("reader.py", "FileNotFoundError: [Errno 2] No such file or directory: 'a'", False),
        ("reader.py", "ValueError: bad data", False),
    ],
)
def test_an_error_of_a_ray_task_is_known_by_its_text(file: str, error: str, passes: bool) -> None:
    class RayTaskError(Exception):
        """As Ray makes them: what caused it has lost its traceback."""

    found = retrying.passing_cause(RayTaskError(TASK.format(file=file, where="read", error=error)))
    assert (found is not None) == passes
    assert found is None or (len(found) < 300 and "UserCodeException" not in found)


def test_what_is_refused_is_told_at_once_and_what_passes_is_tried_until_it_works() -> None:
    waits: list[float] = []
    answers = [ConnectionResetError(), OSError(errno.EIO, "input/output error"), "done"]

    def work() -> str:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    assert retrying.patiently(work, "a file", waits.append) == "done"
    assert waits == [2.0, 5.0]
    answers = [PermissionError(errno.EACCES, "no")]
    with pytest.raises(PermissionError):
        retrying.patiently(work, "a file", waits.append)
    assert len(waits) == 2


def test_damage_and_what_is_missing_is_not_waited_for_whatever_lies_underneath(tmp_path) -> None:
    folder = Folder(str(tmp_path))
    folder.write_table("a.parquet", pa.table({"a": list(range(1000))}))
    whole = bytearray(folder.read_bytes("a.parquet"))
    whole[4:80] = bytes([0xFF]) * 76  # a page, not the footer: pyarrow's error has no number, as of an object store
    folder.write_bytes("a.parquet", bytes(whole))
    with pytest.raises(DamagedFile) as damaged:
        folder.read_table("a.parquet")
    assert isinstance(damaged.value.__cause__, Exception) and not retrying.is_passing(damaged.value)
    missing = FileNotFoundError(errno.ENOENT, "no such object")
    missing.__cause__ = ConnectionResetError(errno.ECONNRESET, "reset")
    assert not retrying.is_passing(missing) and retrying.is_passing(missing.__cause__)


def test_a_storage_that_stays_away_is_waited_for_over_four_minutes_and_no_longer() -> None:
    waits: list[float] = []

    def work() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        retrying.patiently(work, "a file", waits.append)
    assert 240 < sum(waits) < 360


def test_a_checkpoint_on_a_storage_that_does_not_answer_is_not_damaged(tmp_path, monkeypatch) -> None:
    folder = Folder(str(tmp_path))
    folder.write_bytes("shard", b"abc")
    folder.write_json(checkpoint_files.COMPLETE, {"files": {"shard": checkpoint_files.size_and_checksum([b"abc"])}})
    read, away = Folder.read_json, [TimeoutError(), TimeoutError()]

    def read_json(there: Folder, name: str) -> object:
        if away:
            raise away.pop()
        return read(there, name)

    monkeypatch.setattr(retrying, "WAITS_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(Folder, "read_json", read_json)
    assert checkpoint_files.find_damage(folder) is None
    folder.write_bytes("shard", b"abd")
    assert "its marker says" in checkpoint_files.find_damage(folder)
