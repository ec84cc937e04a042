"""Parts of files: how they are opened, and unpacked up to the last byte before damage."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from raycodellm.corpora.finding import COMPRESSIONS
from raycodellm.corpora.listing import open_bucket

if TYPE_CHECKING:
    import pyarrow as pa

MIB = 1 << 20
LONGEST_LINE = 64 * MIB
"""Bytes of one record, and so of what unpacks from a packed file, in memory at once: a task holds some ten times its
longest record while it tokenises."""
TOO_LONG = b"\xff line too long"
"""Stands for a line or value over `LONGEST_LINE`: to be compared by identity."""


LARGEST_BATCH = 4 << 30
"""Bytes of an Arrow batch or a Parquet page that are unpacked at once: more is damage, or made to fill the memory."""


class Part(NamedTuple):
    """A byte range of a file: whatever begins in it belongs to it."""

    uri: str
    name: str
    num_bytes: int
    start: int
    stop: int


def compression(uri: str) -> str | None:
    return COMPRESSIONS.get(os.path.splitext(uri.lower())[1])


def open_part(part: Part, memory_map: bool = False) -> pa.NativeFile:
    """The part's whole file, packed as it is; RuntimeError when it is not the one that was listed."""
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
def open_content(part: Part) -> Iterator[pa.NativeFile | Unpacked]:
    """Opens the part's whole file, unpacked where it is packed. `read(n)` gives up to n bytes, b"" at the end."""
    packed = compression(part.uri)
    with open_part(part) if packed is None else Unpacked(part, packed) as content:
        yield content


def read_content(part: Part, most: int) -> bytes | None:
    """The content of the part's whole file; None where it is over `most` bytes, of which no more are unpacked."""
    pieces, left = [], most
    with open_content(part) as content:
        while piece := content.read(min(MIB, left + 1)):
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                return None
    return b"".join(pieces)


class Unpacked:
    """The content of a packed file, from its beginning to the last byte that stands before damage, and then the error.

    The library gives nothing of a chunk in which it meets damage. The file is then unpacked again in smaller steps: the
    bytes that it holds one by one from shortly before the damage on.
    """

    _STEPS = (MIB, 1 << 10, 1)
    """Most bytes of content that are asked for at once: before the first error, the second and the third."""
    _HELD = (1 << 16, 1 << 10)
    """Packed bytes before the place of the first error, and of the second, in which the damage lies: the library reads
    64 KiB at once, and then what it is given."""

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
                self._again()
            else:
                self._given += len(chunk)
                return chunk

    def _open(self, slow_from: int | None) -> tuple[Any, Any]:
        import pyarrow as pa

        file = open_part(self._part)
        raw = file if slow_from is None else pa.PythonFile(_Slow(file, slow_from), mode="r")
        return file, pa.CompressedInputStream(raw, self._packed)

    def _again(self) -> None:
        """From the beginning to where the last attempt ended."""
        reached = self._file.tell()
        self.__exit__()
        self._file, self._stream = self._open(max(0, reached - self._HELD[self._attempt - 1]))
        left = self._given
        while left:
            left -= len(self._stream.read(min(left, MIB)))


class _Slow:
    """A file that gives byte by byte from `slow_from` on."""

    closed = False

    def __init__(self, file: pa.NativeFile, slow_from: int) -> None:
        self._file, self._slow_from = file, slow_from

    def read(self, size: int) -> bytes:
        ahead = self._slow_from - self._file.tell()
        return self._file.read(min(size, ahead) if ahead > 0 else 1)

    def close(self) -> None:
        """`Unpacked` closes the file."""


def is_memory_short(error: Exception) -> bool:
    """Is memory really short? Damage makes Arrow ask for more than any file's batch or page takes."""
    asked = re.search(r"size (\d+) failed", str(error)) if isinstance(error, MemoryError) else None
    return isinstance(error, MemoryError) and (asked is None or int(asked[1]) < LARGEST_BATCH)


def is_failure(error: Exception, part: Part) -> bool:
    """Damage has no error number; a failing disk or network has one, or is remote, and must stop the run."""
    if is_memory_short(error):
        return True
    if not isinstance(error, OSError) or isinstance(error, PermissionError):
        return False
    return error.errno is not None or ("://" in part.uri and not _DAMAGE.search(str(error)))


_DAMAGE = re.compile(
    r"(zlib|ZSTD|bz2) .*failed|Truncated compressed stream|[Ii]nvalid (flatbuffers|IPC)|Expected to read"
)
"""pyarrow's words for damaged data in errors of the class that also means storage."""
