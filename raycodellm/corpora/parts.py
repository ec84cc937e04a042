"""Parts of files: a byte range, how its file is opened, and how a packed file is unpacked up to damage."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from raycodellm.files import Folder

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

MIB = 1 << 20
LONGEST_LINE = 64 * MIB
"""Bytes of the longest record, and so of what is unpacked in memory at once. A task holds some ten times its longest
record while it tokenises."""
TOO_LONG = b"\xff line too long"
"""Stands for a line or value over `LONGEST_LINE`. Compare by identity."""
LARGEST_BATCH = 4 << 30
"""Bytes of the largest Arrow batch or Parquet page. A file that asks for more memory is damaged, or made to fill it."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
HUB = "hf://"
"""Scheme of the data sets of the Hugging Face hub."""


class Part(NamedTuple):
    """A byte range of a file. Every record that begins in the range belongs to the part."""

    uri: str
    name: str
    """Path of the file inside its source."""
    num_bytes: int
    """Size of the whole file."""
    start: int
    stop: int


def compression(name: str) -> str | None:
    """Name of the compression that the file name's extension says."""
    return COMPRESSIONS.get(os.path.splitext(name.lower())[1])


def extension(name: str) -> str:
    """The extension in lower case, without that of a compression: `.jsonl` for `a.jsonl.gz`."""
    stem, last = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if last in COMPRESSIONS else last


# ------------------------------------------------------------------------------------------------------------- opening


def open_bucket(uri: str) -> tuple[FileSystem, str]:
    """(pyarrow file system, path in it). Each bucket is opened once per process."""
    if uri.startswith(HUB):
        return _hub(), uri.removeprefix(HUB)
    scheme, _, rest = uri.partition("://")
    bucket, _, path = rest.partition("/")
    opened = _bucket(f"{scheme}://{bucket}")
    return opened.filesystem, f"{opened.path.rstrip('/')}/{path}".rstrip("/")


@lru_cache(maxsize=64)
def _bucket(uri: str) -> Folder:
    return Folder(uri)


@lru_cache(maxsize=1)
def _hub() -> FileSystem:
    from huggingface_hub import HfFileSystem
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(HfFileSystem()))


def open_part(part: Part, memory_map: bool = False) -> pa.NativeFile:
    """Opens the part's whole file, still packed. Raises RuntimeError when its size has changed since it was listed."""
    import pyarrow as pa

    if "://" in part.uri:
        filesystem, path = open_bucket(part.uri)
        file = filesystem.open_input_file(path)
    else:
        open_file = pa.memory_map if memory_map and part.num_bytes else pa.OSFile
        file = open_file(os.fsencode(part.uri))
    if file.size() != part.num_bytes:
        raise RuntimeError(f"{part.uri}: has {file.size()} bytes, had {part.num_bytes} when listed: changed while read")
    return file


@contextmanager
def open_content(part: Part) -> Iterator[Any]:
    """Opens the part's whole file, unpacked. `read(n)` gives up to n bytes, and b"" at the end."""
    packed = compression(part.uri)
    with open_part(part) if packed is None else Unpacked(part, packed) as content:
        yield content


def read_content(part: Part, most: int) -> bytes | None:
    """The content of the part's whole file; None if it has over `most` bytes. No more than these are unpacked."""
    pieces, left = [], most
    with open_content(part) as content:
        while piece := content.read(min(MIB, left + 1)):
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                return None
    return b"".join(pieces)


# ----------------------------------------------------------------------------------------------------------- unpacking


class Unpacked:
    """The content of a packed file: every byte before damage, and then the error.

    The library gives no byte of a chunk in which it meets damage. The file is then unpacked again in smaller steps, and
    from shortly before the damage on the packed bytes are given to the library one by one.
    """

    _STEPS = (MIB, 1 << 10, 1)
    """Bytes of content asked for at once: before the first error, before the second, before the third."""
    _HELD = (1 << 16, 1 << 10)
    """Packed bytes before the place of the first error, and of the second, in which the damage lies: the library reads
    64 KiB at once, and later what it is given."""

    def __init__(self, part: Part, packed: str) -> None:
        self._part, self._packed = part, packed
        self._given = self._attempt = 0
        self._file, self._stream = self._open(None)

    def __enter__(self) -> Unpacked:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()
        self._file.close()

    def read(self, size: int) -> bytes:
        while True:
            try:
                chunk = self._stream.read(min(size, self._STEPS[self._attempt]))
            except OSError as error:
                self._attempt += 1
                if is_failure(error, self._part) or self._attempt == len(self._STEPS):
                    raise
                self._begin_again()
            else:
                self._given += len(chunk)
                return chunk

    def _open(self, slow_from: int | None) -> tuple[Any, Any]:
        import pyarrow as pa

        file = open_part(self._part)
        raw = file if slow_from is None else pa.PythonFile(_SlowFile(file, slow_from), mode="r")
        return file, pa.CompressedInputStream(raw, self._packed)

    def _begin_again(self) -> None:
        """Opens the file again and skips what `read` has given already."""
        reached = self._file.tell()
        self.__exit__()
        self._file, self._stream = self._open(max(0, reached - self._HELD[self._attempt - 1]))
        left = self._given
        while left:
            left -= len(self._stream.read(min(left, MIB)))


class _SlowFile:
    """A file that gives one byte at a time from `slow_from` on."""

    closed = False

    def __init__(self, file: pa.NativeFile, slow_from: int) -> None:
        self._file, self._slow_from = file, slow_from

    def read(self, size: int) -> bytes:
        ahead = self._slow_from - self._file.tell()
        return self._file.read(min(size, ahead) if ahead > 0 else 1)

    def close(self) -> None:
        """`Unpacked` closes the file."""


# ----------------------------------------------------------------------------------------------- damage or a failure


def is_memory_short(error: Exception) -> bool:
    """True if memory is really short. Damage makes Arrow ask for more than any batch or page takes."""
    asked = re.search(r"size (\d+) failed", str(error)) if isinstance(error, MemoryError) else None
    return isinstance(error, MemoryError) and (asked is None or int(asked[1]) < LARGEST_BATCH)


def is_failure(error: Exception, part: Part) -> bool:
    """True if memory, a disk or the network failed, which must stop the run; False if the file is damaged.

    An error about damage has no error number. One about a failing disk has; one about a remote file is a failure unless
    its message is known to be about damage.
    """
    if is_memory_short(error):
        return True
    if not isinstance(error, OSError) or isinstance(error, PermissionError):
        return False
    return error.errno is not None or ("://" in part.uri and not _DAMAGE.search(str(error)))


_DAMAGE = re.compile(
    r"(zlib|ZSTD|bz2) .*failed|Truncated compressed stream|[Ii]nvalid (flatbuffers|IPC)|Expected to read"
)
"""How pyarrow words damaged data in errors of the class that also means storage."""
