"""The content of files: bytes and lines, on any storage, packed or not, up to damage."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from raycodellm.corpora.documents import SkipError
from raycodellm.corpora.inputs import MIB, Part, compression
from raycodellm.files import Folder

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

LONGEST_LINE = 64 * MIB
"""Bytes of the longest record, and so of the text that is unpacked in memory at once. A task holds some ten times
its longest record while it tokenises."""
LARGEST_BATCH = 4 << 30
"""Bytes of the largest Arrow batch or Parquet page. A file that asks for more memory is damaged, or made to fill it."""
HUB = "hf://"
"""Scheme of the data sets of the Hugging Face hub."""


# ------------------------------------------------------------------------------------------------------------- opening


def open_bucket(uri: str) -> tuple[FileSystem, str]:
    """(pyarrow file system, path in it). Names of objects are taken as they are, with any `%`."""
    scheme, _, rest = uri.partition("://")
    bucket, _, path = rest.partition("/")
    folder = Folder(f"{scheme}://{bucket}")
    return folder.filesystem, f"{folder.path.rstrip('/')}/{path}".rstrip("/")


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


def pieces(part: Part, start: int = 0, piece_bytes: int = MIB) -> Iterator[bytes]:
    """The unpacked content of the part's whole file from a byte on, in pieces; of a packed file from the first byte."""
    codec = compression(part.uri)
    if codec:
        yield from _unpacked_pieces(part, codec, piece_bytes)
        return
    with open_part(part) as file:
        file.seek(start)
        while piece := file.read(piece_bytes):
            yield piece


def whole_content(part: Part, max_bytes: int) -> bytes | None:
    """The content of the part's whole file; None if it has over `max_bytes` bytes."""
    chunks, size = [], 0
    for piece in pieces(part):
        size += len(piece)
        if size > max_bytes:
            return None
        chunks.append(piece)
    return b"".join(chunks)


# --------------------------------------------------------------------------------------------------------------- lines


def lines(part: Part) -> Iterator[tuple[int, bytes | SkipError]]:
    """(place, line without its end) of the lines that begin in the part and after the part, until the caller stops.

    Places are bytes of the (unpacked) file. A line over `LONGEST_LINE` comes as a SkipError, in bounded memory.
    """
    place, is_ours = part.start, part.start == 0
    if not is_ours:  # reads from one byte earlier, and drops the rest of the line before
        place -= 1
    parts: list[bytes] = []  # of the line at `place`; joined once, since a line may span many pieces
    size = 0
    for piece in pieces(part, place, min(MIB, part.stop - part.start + 4096)):
        line_end, *following = piece.split(b"\n")
        parts.append(line_end)
        size += len(line_end)
        for line_start in following:
            if is_ours:
                yield place, _join_line(parts, size)
            place += size + 1
            parts, size, is_ours = [line_start], len(line_start), True
        if size > LONGEST_LINE or not is_ours:
            parts.clear()
        if not is_ours and place + size >= part.stop:
            return  # the part holds nothing but the middle of one line
    if size and is_ours:
        yield place, _join_line(parts, size)


def _join_line(parts: list[bytes], size: int) -> bytes | SkipError:
    return b"".join(parts) if size <= LONGEST_LINE else SkipError(f"line over {LONGEST_LINE // MIB} MiB")


def own_lines(part: Part) -> Iterator[tuple[int, bytes | SkipError]]:
    """The lines that begin in the part; all lines of a packed file, of which a part is the whole."""
    is_packed = compression(part.uri) is not None
    for place, line in lines(part):
        if place >= part.stop and not is_packed:
            return
        yield place, line


def first_line(part: Part) -> bytes:
    """The first line of the part's file, such as a row of column names; empty if the file is, or the line too long."""
    line = next((line for _, line in lines(part._replace(start=0, stop=1))), b"")
    return line if isinstance(line, bytes) else b""


# ----------------------------------------------------------------------------------------------------------- unpacking


def _unpacked_pieces(part: Part, codec: str, piece_bytes: int) -> Iterator[bytes]:
    """The content of a packed file: every byte before damage, and then the error.

    The library gives no byte of a piece in which it meets damage. The file is then unpacked again in smaller pieces,
    and from shortly before the damage on the packed bytes are given to the library one by one. The library reads 64 KiB
    at once, later only the bytes that it is given.
    """
    num_given, slow_from = 0, None
    for read_bytes, read_ahead in ((piece_bytes, 1 << 16), (1 << 10, 1 << 10), (1, 0)):
        with open_part(part) as file:
            raw = file if slow_from is None else pa.PythonFile(_SlowFile(file, slow_from), mode="r")
            with pa.CompressedInputStream(raw, codec) as stream:
                try:
                    bytes_to_skip = num_given
                    while bytes_to_skip:
                        bytes_to_skip -= len(stream.read(min(bytes_to_skip, MIB)))
                    while piece := stream.read(read_bytes):
                        num_given += len(piece)
                        yield piece
                    return
                except OSError as error:
                    if is_failure(error, part) or read_bytes == 1:
                        raise
                    slow_from = max(0, file.tell() - read_ahead)


class _SlowFile:
    """A file that gives one byte at a time from `slow_from` on."""

    closed = False

    def __init__(self, file: pa.NativeFile, slow_from: int) -> None:
        self._file, self._slow_from = file, slow_from

    def read(self, size: int) -> bytes:
        fast_bytes = self._slow_from - self._file.tell()
        return self._file.read(min(size, fast_bytes) if fast_bytes > 0 else 1)

    def close(self) -> None:
        """`_unpacked_pieces` closes the file."""


# ----------------------------------------------------------------------------------------------- damage or a failure


def is_failure(error: Exception, part: Part) -> bool:
    """True if memory, a disk or the network failed, which must stop the run; False if the file is damaged.

    An error about damage has no error number. One about a failing disk has; one about a remote file is a failure unless
    its message is known to be about damage.
    """
    if isinstance(error, MemoryError):  # damage makes Arrow ask for more than any batch or page takes
        match = re.search(r"size (\d+) failed", str(error))
        return match is None or int(match[1]) < LARGEST_BATCH
    if not isinstance(error, OSError) or isinstance(error, PermissionError):
        return False
    return error.errno is not None or ("://" in part.uri and not _DAMAGE.search(str(error)))


_DAMAGE = re.compile(
    r"(zlib|ZSTD|bz2) .*failed|Truncated compressed stream|[Ii]nvalid (flatbuffers|IPC)|Expected to read"
)
"""The words of pyarrow for damaged data, in errors of the class that also means storage."""
