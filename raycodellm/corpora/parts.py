"""Parts of files: a byte range, how its file is opened, and how a packed file is unpacked up to damage."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from raycodellm.files import Folder

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

MIB = 1 << 20
LONGEST_LINE = 64 * MIB
"""Bytes of the longest record, and so of what is unpacked in memory at once. A task holds some ten times its longest
record while it tokenises."""
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
    if "://" in part.uri:
        filesystem, path = open_bucket(part.uri)
        file = filesystem.open_input_file(path)
    else:
        open_file = pa.memory_map if memory_map and part.num_bytes else pa.OSFile
        file = open_file(os.fsencode(part.uri))
    if file.size() != part.num_bytes:
        raise RuntimeError(f"{part.uri}: has {file.size()} bytes, had {part.num_bytes} when listed: changed while read")
    return file


def content(part: Part, start: int = 0, piece_bytes: int = MIB) -> Iterator[bytes]:
    """The unpacked content of the part's whole file from a byte on, in pieces; of a packed file from the first byte."""
    packed = compression(part.uri)
    if packed:
        yield from _unpacked(part, packed, piece_bytes)
        return
    with open_part(part) as file:
        file.seek(start)
        while piece := file.read(piece_bytes):
            yield piece


def whole_content(part: Part, most: int) -> bytes | None:
    """The content of the part's whole file; None if it has over `most` bytes."""
    pieces, size = [], 0
    for piece in content(part):
        size += len(piece)
        if size > most:
            return None
        pieces.append(piece)
    return b"".join(pieces)


def _unpacked(part: Part, packed: str, piece_bytes: int) -> Iterator[bytes]:
    """The content of a packed file: every byte before damage, and then the error.

    The library gives no byte of a piece in which it meets damage. The file is then unpacked again in smaller pieces,
    and from shortly before the damage on the packed bytes are given to the library one by one. It reads 64 KiB at once,
    and later what it is given.
    """
    given, slow_from = 0, None
    for most, read_ahead in ((piece_bytes, 1 << 16), (1 << 10, 1 << 10), (1, 0)):
        with open_part(part) as file:
            raw = file if slow_from is None else pa.PythonFile(_SlowFile(file, slow_from), mode="r")
            with pa.CompressedInputStream(raw, packed) as stream:
                try:
                    left = given
                    while left:
                        left -= len(stream.read(min(left, MIB)))
                    while piece := stream.read(most):
                        given += len(piece)
                        yield piece
                    return
                except OSError as error:
                    if is_failure(error, part) or most == 1:
                        raise
                    slow_from = max(0, file.tell() - read_ahead)


class _SlowFile:
    """A file that gives one byte at a time from `slow_from` on."""

    closed = False

    def __init__(self, file: pa.NativeFile, slow_from: int) -> None:
        self._file, self._slow_from = file, slow_from

    def read(self, size: int) -> bytes:
        ahead = self._slow_from - self._file.tell()
        return self._file.read(min(size, ahead) if ahead > 0 else 1)

    def close(self) -> None:
        """`_unpacked` closes the file."""


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
