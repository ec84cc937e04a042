"""Folders on any storage: local disks by plain files, object stores through pyarrow's file systems."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem


def fingerprint(value: Any) -> str:
    """16 hex digits of BLAKE2b over the value's canonical JSON: equal values, equal fingerprints, on any machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Folder:
    """A folder by its URI: a local path, `file://`, `s3://` or `gs://`. Made when something is first written to it."""

    uri: str

    def __post_init__(self) -> None:
        if "://" not in self.uri:
            object.__setattr__(self, "uri", str(Path(self.uri).expanduser().absolute()))
        elif self.uri.startswith("file://"):
            object.__setattr__(self, "uri", self.uri.removeprefix("file://"))

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.uri.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.uri

    @property
    def local(self) -> Path | None:
        return None if "://" in self.uri else Path(self.uri)

    @property
    def name(self) -> str:
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    @cached_property
    def _opened(self) -> tuple[FileSystem, str]:
        from pyarrow.fs import FileSystem

        uri = self.uri if "://" in self.uri else Path(self.uri).as_uri()
        # Without it a store that cannot be reached is tried for 15 minutes before there is an error.
        return FileSystem.from_uri(f"{uri}?retry_limit_seconds=60" if uri.startswith("gs://") else uri)

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri}  # an opened file system does not travel between processes

    @property
    def filesystem(self) -> FileSystem:
        return self._opened[0]

    @property
    def path(self) -> str:
        """The folder's path inside `filesystem`."""
        return self._opened[1]

    def _inside(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    def exists(self, name: str = "") -> bool:
        if self.local is not None:
            return (self.local / name).exists()
        from pyarrow.fs import FileType

        return self.filesystem.get_file_info(self._inside(name)).type != FileType.NotFound

    def list(self) -> list[str]:
        """Names of what is in the folder, sorted; empty when there is no such folder."""
        if self.local is not None:
            return sorted(os.listdir(self.local)) if self.local.is_dir() else []
        from pyarrow.fs import FileSelector

        found = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def make(self) -> Folder:
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)
        else:
            self.filesystem.create_dir(self.path, recursive=True)
        return self

    def delete(self, name: str = "") -> None:
        """Removes a file or a folder with all that is in it; nothing happens when it is not there."""
        from pyarrow.fs import FileType

        kind = self.filesystem.get_file_info(self._inside(name)).type
        if kind == FileType.Directory:
            self.filesystem.delete_dir(self._inside(name))
        elif kind != FileType.NotFound:
            self.filesystem.delete_file(self._inside(name))

    def read_bytes(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(self._inside(name)) as stream:
            return stream.read()

    def write_bytes(self, name: str, data: bytes) -> None:
        """Whole or not at all: a local file is renamed into place, an object store shows only complete objects."""
        if self.local is None:
            with self.filesystem.open_output_stream(self._inside(name)) as stream:
                stream.write(data)
            return
        self.make()
        handle, temporary = tempfile.mkstemp(dir=self.local, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.local / name)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def read_json(self, name: str) -> Any:
        return json.loads(self.read_bytes(name))

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, (json.dumps(value, indent=1) + "\n").encode())

    def read_table(self, name: str) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pq.read_table(pa.BufferReader(self.read_bytes(name)))

    def write_table(self, name: str, table: pa.Table) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def upload(self, source: Path) -> None:
        """Copies what is in the local folder `source` into this folder."""
        from pyarrow.fs import LocalFileSystem, copy_files

        self.make()
        copy_files(str(source), self.path, source_filesystem=LocalFileSystem(), destination_filesystem=self.filesystem)

    def download(self, target: Path) -> None:
        """Copies what is in this folder into the local folder `target`."""
        from pyarrow.fs import LocalFileSystem, copy_files

        target.mkdir(parents=True, exist_ok=True)
        copy_files(self.path, str(target), source_filesystem=self.filesystem, destination_filesystem=LocalFileSystem())
