"""Folders on any storage: local disks through plain files, object stores through pyarrow's file systems.

Reading or writing raises an `OSError` that names the file, and a `DamagedFile` when the file's content is wrong.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm import azure, parquet
from raycodellm.config import UserError, refuse_credentials, without_credentials
from raycodellm.file_systems import delete_folder, entries, entries_below, open_file_system

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem


def fingerprint(value: Any) -> str:
    """16 hex digits of BLAKE2b over the value's canonical JSON: equal values, equal fingerprints, on any machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Damaged(Exception):
    """Something in the storage is damaged. The message names it and says how to go on."""


class DamagedFile(Damaged, ValueError):
    """A file of the storage has wrong content. The message is one line: the file, the fault, what the fault means."""

    def __init__(self, file: str, fault: str, meaning: str = "") -> None:
        super().__init__(file, fault, meaning)
        self.file, self.fault, self.meaning = file, fault, meaning

    def __str__(self) -> str:
        return f"{self.file}: {self.fault}" + (f"; {self.meaning}" if self.meaning else "")

    def with_meaning(self, meaning: str) -> DamagedFile:
        """A copy of this error whose message ends with `meaning`: what is lost, and how to go on."""
        return DamagedFile(self.file, self.fault, meaning)


def cause(error: BaseException) -> str:
    """One line for people: the error's file, if it names one, and the system's message; at most 240 characters."""
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
    """This user's cache folder on this machine: `$XDG_CACHE_HOME/raycodellm`, else `~/.cache/raycodellm`."""
    return _absolute(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "raycodellm"


@dataclass(frozen=True)
class Folder:
    """A folder by its URI: a local path, `file://`, `s3://`, `gs://` or `abfss://`. The first write creates it.

    Raises `UserError` for an address without a bucket or with an empty part, for one with a key in it, since addresses
    are written into records, and for a path that is no text, which Arrow does not open.
    """

    uri: str

    def __post_init__(self) -> None:
        refuse_credentials(self.uri)
        if not self.uri.isascii() and any("\ud800" <= character <= "\udfff" for character in self.uri):
            escaped_uri = self.uri.encode(errors="backslashreplace").decode()
            raise UserError(f"{escaped_uri}: is a path with bytes that are no UTF-8; rename its folder")
        if self.uri.startswith("file://"):
            object.__setattr__(self, "uri", self.uri.removeprefix("file://"))
        if "://" not in self.uri:
            if match := re.match(r"(s3|gs|gcs|hf|abfs|abfss|hdfs|https?):", self.uri):
                raise UserError(f"{self.uri}: is no folder and no address; for example {match[1]}://bucket/folder")
            object.__setattr__(self, "uri", str(_absolute(self.uri)))
        elif match := re.match(r"(s3|gs|gcs)://(?:$|[/?])", self.uri):
            raise UserError(f"{self.uri}: names no bucket; for example {match[1]}://bucket/folder")
        elif re.match(r"(s3|gs|gcs)://[^?]*/+/[^/?]", self.uri):
            collapsed = re.sub(r"(?<!:)//+", "/", self.uri)
            raise UserError(f"{self.uri}: has a part without a name, which object stores do not take; use {collapsed}")

    def __truediv__(self, name: str) -> Folder:
        address, options = self._split
        if self.local is None:  # in an address these characters mean something else
            name = name.replace("%", "%25").replace("?", "%3F").replace("#", "%23")
        return Folder(f"{address.rstrip('/')}/{name}{options}")

    @property
    def _split(self) -> tuple[str, str]:
        """The address up to its `?`, and the options from the `?` on: `s3://bucket/x`, `?endpoint_override=…`."""
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
        """The path of a local folder; None for an object store."""
        return None if "://" in self.uri else Path(self.uri)

    @property
    def name(self) -> str:
        return self._split[0].rstrip("/").rpartition("/")[2]

    @cached_property
    def _opened(self) -> tuple[FileSystem, str]:
        import pyarrow as pa

        try:
            return open_file_system(self.uri)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ImportError) as error:
            examples = f"a local folder, s3://bucket/folder, gs://bucket/folder or {azure.EXAMPLE}"
            raise UserError(f"{self.uri}: is no storage that can be opened ({cause(error)}); use {examples}") from error

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri}  # an opened file system cannot be pickled

    @property
    def filesystem(self) -> FileSystem:
        return self._opened[0]

    @property
    def path(self) -> str:
        """The folder's path within `filesystem`."""
        return self._opened[1]

    def _inside(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    def exists(self, name: str = "") -> bool:
        if self.local is not None:
            return (self.local / name).exists()
        from pyarrow.fs import FileType

        return self.filesystem.get_file_info(self._inside(name)).type != FileType.NotFound

    def stamp(self, name: str) -> tuple[int, int] | None:
        """Size in bytes and time of the last change of a file; None when it does not exist. Takes one request.

        While the stamp stays the same, nobody has written the file.
        """
        from pyarrow.fs import FileType

        info = self.filesystem.get_file_info(self._inside(name))
        return None if info.type == FileType.NotFound else (info.size or 0, info.mtime_ns or 0)

    def list(self) -> list[str]:
        """Sorted names of the folder's files and folders; empty when the folder does not exist."""
        if self.local is not None:
            return sorted(os.listdir(self.local)) if self.local.is_dir() else []
        return sorted(info.base_name for info in entries(self.filesystem, self.path))

    def make(self) -> Folder:
        """Creates the folder and its parents; returns the folder."""
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)
        else:
            self.filesystem.create_dir(self.path, recursive=True)
        return self

    def delete(self, name: str = "") -> None:
        """Removes a file, or a folder with its content; does nothing when `name` does not exist."""
        from pyarrow.fs import FileType

        kind = self.filesystem.get_file_info(self._inside(name)).type
        if kind == FileType.Directory:
            delete_folder(self.filesystem, self._inside(name))
        elif kind != FileType.NotFound and (container := azure.container_of(self.uri)) is not None:
            azure.delete_file(container, self._inside(name).partition("/")[2])
        elif kind != FileType.NotFound:
            self.filesystem.delete_file(self._inside(name))

    def read_bytes(self, name: str) -> bytes:
        with self._named(name):
            try:
                with self.filesystem.open_input_stream(self._inside(name)) as stream:
                    return stream.read()
            except OSError as error:  # some object stores report a missing object as another error
                if self.local is None and not isinstance(error, FileNotFoundError) and not self.exists(name):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
                raise

    def write_bytes(self, name: str, data: bytes | memoryview) -> None:
        """Writes the file whole or not at all: a local file is renamed into place, object stores show whole objects."""
        with self._named(name):
            if self.local is not None:
                self.make()
                _write_and_rename(self.local / name, data)
                return
            if (container := azure.container_of(self.uri)) is not None:
                azure.write(container, self._inside(name).partition("/")[2], data)
                return
            with self.filesystem.open_output_stream(self._inside(name)) as stream:
                stream.write(data)

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Makes each `OSError` name the file `name`: the system names a temporary file, or none."""
        try:
            yield
        except OSError as error:
            number = error.errno or (errno.ENOENT if isinstance(error, FileNotFoundError) else None)
            if number is None:  # an object store's errors have none
                raise OSError(f"{self}/{name}: {cause(error)}") from error
            raise OSError(number, os.strerror(number), f"{self}/{name}") from error

    def prove_writable(self, key: str) -> None:
        """Writes and deletes a small file. Raises `UserError`, naming the option or setting `key`, if writing fails."""
        if self.local is None:
            self.check_writable(key)  # fails in half the time of a write when the store does not answer
        name = f".raycodellm-{uuid.uuid4().hex}"
        try:
            self.write_bytes(name, b"raycodellm writes and deletes this file to test the storage.\n")
            self.delete(name)
        except OSError as error:
            raise self._not_writable(key, error) from error

    def check_writable(self, key: str) -> None:
        """Raises `UserError`, naming `key`, if the folder looks unwritable. Writes nothing: `prove_writable` does."""
        try:
            if self.local is None:
                from pyarrow.fs import FileType

                if self.filesystem.get_file_info(self.path).type == FileType.File:
                    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
                return
            existing = next(path for path in (self.local, *self.local.parents) if path.exists())
            disk = os.statvfs(existing)
            if not existing.is_dir():
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if disk.f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            if not os.access(existing, os.W_OK | os.X_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            if not disk.f_bavail or (disk.f_files and not disk.f_favail):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._not_writable(key, error) from error

    def _not_writable(self, key: str, error: OSError) -> UserError:
        hint = _HINTS.get(error.errno or errno.EIO, "give a folder that can be written")
        if isinstance(error, FileNotFoundError) and self.local is None:
            place = "bucket" if azure.container_of(self.uri) is None else "container"
            return UserError(f"{key} {self}: cannot be written; there is no such {place}: make it, or give another")
        if isinstance(error, PermissionError) and self.local is None:
            hint = "use credentials that may write there, or give another folder"
        reason = _without_request(error.strerror or cause(error))
        return UserError(f"{key} {self}: cannot be written ({reason[:160]}); {hint}")

    def read_text(self, name: str) -> str:
        data = self.read_bytes(name)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DamagedFile(f"{self}/{name}", f"is not UTF-8 text (byte {error.start})") from error

    def read_json(self, name: str) -> Any:
        """Reads a file that holds a JSON object."""
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

    def read_table(
        self, name: str, types: Mapping[str, str] | None = None, more: Sequence[str] | None = None
    ) -> pa.Table:
        """Reads a Parquet file. `types`: required columns, each cast to the Arrow type with this name. `more`: the
        columns that are read beside them where the file has them; all others where left out."""
        import pyarrow as pa

        data = self.read_bytes(name)
        try:
            table = parquet.from_bytes(data, None if more is None else {*(types or {}), *more})
            for column, type in (types or {}).items():
                cast = table.column(column).cast(pa.type_for_alias(type))
                table = table.set_column(table.column_names.index(column), column, cast)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise (self._no_table(name, error) if data else DamagedFile(f"{self}/{name}", "is empty")) from error
        return table

    def _no_table(self, name: str, error: Exception) -> DamagedFile:
        return DamagedFile(f"{self}/{name}", f"is no table that can be read ({cause(error)[:80]})")

    def write_table(self, name: str, table: pa.Table) -> None:
        self.write_bytes(name, parquet.to_bytes(table))

    def upload(self, source: Path) -> None:
        """Copies the content of the local folder `source` into this folder."""
        from pyarrow.fs import LocalFileSystem, copy_files

        self.make()
        copy_files(str(source), self.path, source_filesystem=LocalFileSystem(), destination_filesystem=self.filesystem)

    def download(self, target: Path) -> None:
        """Copies the content of this folder into the local folder `target`."""
        from pyarrow.fs import LocalFileSystem, copy_files

        for info in entries_below(self.filesystem, self.path):  # pyarrow makes those folders alone that are listed
            if info.is_file:
                (target / info.path[len(self.path) + 1 :]).parent.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        copy_files(self.path, str(target), source_filesystem=self.filesystem, destination_filesystem=LocalFileSystem())

    @contextlib.contextmanager
    def as_local(self) -> Iterator[Path]:
        """A local path with this folder's content: the folder itself, or a copy that exists until the `with` ends."""
        if self.local is not None:
            yield self.local
            return
        with tempfile.TemporaryDirectory(prefix="raycodellm-") as copy:
            self.download(Path(copy))
            yield Path(copy)


def _without_request(text: str) -> str:
    """An object store's message without what the client tells of its request before and after."""
    text = re.sub(r"^.*?(?=AWS Error|Azure Error|google::cloud)", "", text)
    google = re.fullmatch(
        r"google::cloud::Status\((\w+: )(?:.*?with a last message of )?(.*?)(?: error_info=.*)?", text
    )
    return google[1] + google[2] if google else text


def _write_and_rename(path: Path, data: bytes | memoryview) -> None:
    """Writes a file whole or not at all; on an error the old file stays and no temporary file is left."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


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
"""Maps a system's error number to what the user can do about a storage that cannot be written."""
