"""Folders on any storage: local disks by plain files, object stores through pyarrow's file systems.

A file that cannot be read or written is an `OSError` that names it; one that does not hold what it should is a
`DamagedFile`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm.config import UserError, refuse_credentials, without_credentials

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem


def fingerprint(value: Any) -> str:
    """16 hex digits of BLAKE2b over the value's canonical JSON: equal values, equal fingerprints, on any machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Damaged(Exception):
    """Something in the storage is not what it should be: what it is, and how to go on."""


class DamagedFile(Damaged, ValueError):
    """A file of the storage does not hold what it should. One line says which, what is wrong, what that means."""

    def __init__(self, file: str, fault: str, meaning: str = "") -> None:
        super().__init__(file, fault, meaning)
        self.file, self.fault, self.meaning = file, fault, meaning

    def __str__(self) -> str:
        return f"{self.file}: {self.fault}" + (f"; {self.meaning}" if self.meaning else "")

    def meaning_that(self, meaning: str) -> DamagedFile:
        """The same, with what is lost and how to go on, for whoever knows that and not yet the file."""
        return DamagedFile(self.file, self.fault, meaning)


def cause(error: BaseException) -> str:
    """Why something failed, in one line for people: the file where there is one, and what the system says of it."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    return without_credentials(text if len(text) <= 240 else f"{text[:237]}...")


def _absolute(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no home folder here (HOME is not set); give a whole path") from error


def cache_folder() -> Path:
    """The folder for this machine alone: `$XDG_CACHE_HOME/raycodellm`, else `~/.cache/raycodellm`."""
    return _absolute(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "raycodellm"


@dataclass(frozen=True)
class Folder:
    """A folder by its URI: a local path, `file://`, `s3://` or `gs://`. Made when something is first written to it.

    Raises `UserError` for an address that names no bucket, or that holds a key: that would be written into records.
    """

    uri: str

    def __post_init__(self) -> None:
        refuse_credentials(self.uri)
        if self.uri.startswith("file://"):
            object.__setattr__(self, "uri", self.uri.removeprefix("file://"))
        if "://" not in self.uri:
            if found := re.match(r"(s3|gs|gcs|hf|abfs|abfss|hdfs|https?):", self.uri):
                raise UserError(f"{self.uri}: is no folder and no address; for example {found[1]}://bucket/folder")
            object.__setattr__(self, "uri", str(_absolute(self.uri)))
        elif found := re.match(r"(s3|gs|gcs)://(?:$|[/?])", self.uri):
            raise UserError(f"{self.uri}: names no bucket; for example {found[1]}://bucket/folder")

    def __truediv__(self, name: str) -> Folder:
        address, options = self._split
        return Folder(f"{address.rstrip('/')}/{name}{options}")

    @property
    def _split(self) -> tuple[str, str]:
        """The address, and what follows it from the `?` on: `s3://bucket/x`, `?endpoint_override=…`."""
        if self.local is not None:
            return self.uri, ""
        address, mark, options = self.uri.partition("?")
        return address, mark + options

    @property
    def parent(self) -> Folder:
        address, options = self._split
        return Folder(f"{address.rstrip('/').rpartition('/')[0]}{options}" or "/")

    def __str__(self) -> str:
        return self.uri

    @property
    def local(self) -> Path | None:
        return None if "://" in self.uri else Path(self.uri)

    @property
    def name(self) -> str:
        return self._split[0].rstrip("/").rpartition("/")[2]

    @cached_property
    def _opened(self) -> tuple[FileSystem, str]:
        import pyarrow as pa
        from pyarrow.fs import FileSystem

        uri = self.uri if "://" in self.uri else Path(self.uri).as_uri()
        if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in uri:
            # Without it a store that cannot be reached is tried for 15 minutes before there is an error.
            uri += ("&" if "?" in uri else "?") + "retry_limit_seconds=60"
        try:
            return FileSystem.from_uri(uri)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ImportError) as error:
            known = "a local folder, s3://bucket/folder or gs://bucket/folder"
            raise UserError(f"{self.uri}: is no storage that can be opened ({cause(error)}); use {known}") from error

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
        with self._named(name):
            try:
                with self.filesystem.open_input_stream(self._inside(name)) as stream:
                    return stream.read()
            except OSError as error:  # not every object store's error says that there is no such object
                if self.local is None and not isinstance(error, FileNotFoundError) and not self.exists(name):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
                raise

    def write_bytes(self, name: str, data: bytes) -> None:
        """Whole or not at all: a local file is renamed into place, an object store shows only complete objects."""
        with self._named(name):
            if self.local is not None:
                self._write_local(name, data)
                return
            with self.filesystem.open_output_stream(self._inside(name)) as stream:
                stream.write(data)

    def _write_local(self, name: str, data: bytes) -> None:
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

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """An error of the system names the file that was asked for: a write knows but a temporary one, or none."""
        try:
            yield
        except OSError as error:
            number = error.errno or (errno.ENOENT if isinstance(error, FileNotFoundError) else None)
            if number is None:  # an object store's errors have none
                raise OSError(f"{self}/{name}: {cause(error)}") from error
            raise OSError(number, os.strerror(number), f"{self}/{name}") from error

    def prove_writable(self, key: str) -> None:
        """Raises `UserError`, in which `key` names the option or setting, where nothing can be written here."""
        if self.local is None:
            self.check_place(key)  # of a store that does not answer, a write would be tried for twice as long
        name = f".raycodellm-{uuid.uuid4().hex}"
        try:
            self.write_bytes(name, b"A file that is written to see whether the storage takes one.\n")
            self.delete(name)
        except OSError as error:
            raise self._not_writable(key, error) from error

    def check_place(self, key: str) -> None:
        """As `prove_writable`, as far as can be told without writing anything."""
        try:
            if self.local is None:
                from pyarrow.fs import FileType

                if self.filesystem.get_file_info(self.path).type == FileType.File:
                    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
                return
            there = next(path for path in (self.local, *self.local.parents) if path.exists())
            disk = os.statvfs(there)
            if not there.is_dir():
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if disk.f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            if not os.access(there, os.W_OK | os.X_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            if not disk.f_bavail or (disk.f_files and not disk.f_favail):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._not_writable(key, error) from error

    def _not_writable(self, key: str, error: OSError) -> UserError:
        hint = _HINTS.get(error.errno or errno.EIO, "give a folder that can be written")
        # What an object store says comes behind what was done there, at length.
        said = re.sub(r"^.*?(?=AWS Error|google::cloud)", "", error.strerror or cause(error))
        return UserError(f"{key} {self}: cannot be written ({said[:160]}); {hint}")

    def read_text(self, name: str) -> str:
        data = self.read_bytes(name)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DamagedFile(f"{self}/{name}", f"is not UTF-8 text (byte {error.start})") from error

    def read_json(self, name: str) -> Any:
        """A JSON object."""
        data = self.read_bytes(name)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            fault = f"is not JSON ({cause(error)[:80]})" if data.strip() else "is empty"
            raise DamagedFile(f"{self}/{name}", fault) from error
        if not isinstance(value, dict):
            raise DamagedFile(f"{self}/{name}", f"holds a {type(value).__name__}, not a JSON object")
        return value

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, (json.dumps(value, indent=1) + "\n").encode())

    def read_table(self, name: str, types: Mapping[str, str] | None = None) -> pa.Table:
        """A Parquet file. `types`: columns that it must have, and what Arrow calls their types; others stay as is."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        data = self.read_bytes(name)
        try:
            table = pq.read_table(pa.BufferReader(data))
            for column, type in (types or {}).items():
                cast = table.column(column).cast(pa.type_for_alias(type))
                table = table.set_column(table.column_names.index(column), column, cast)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            said = cause(error).removeprefix("Could not open Parquet input source '<Buffer>': ")
            fault = f"is no table that can be read ({said[:80]})" if data else "is empty"
            raise DamagedFile(f"{self}/{name}", fault) from error
        return table

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


_HINTS = {
    errno.ENOSPC: "make space (or inodes) there, or give another folder",
    errno.EDQUOT: "make space there, or give another folder",
    errno.EROFS: "give a folder on a disk that is not read-only",
    errno.EACCES: "give a folder that you may write",
    errno.EPERM: "give a folder that you may write",
    errno.ENOTDIR: "give a folder: a part of this path is a file",
    errno.EEXIST: "give a folder: this is a file",
    errno.EIO: "is it reachable, and are its credentials set?",
}
"""By the system's error number: what to do about a storage that takes no file."""
