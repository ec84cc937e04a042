"""Reads many stretches of a token file at once: from a memory map in one copy, from object storage by joined ranges.

A stage draws a source's sequences in shuffled order, so a block of sequences lies all over the store. Fetching the
record batch around each sequence would move a thousand times the bytes needed. The footer of an Arrow file says where
its record batches lie, which gives the byte range of every sequence; ranges that nearly touch are fetched as one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

JOIN_GAP_BYTES = 64 * 2**10
"""Ranges this close are fetched as one: object storage answers after tens of milliseconds, then gives about 50 MB/s."""
LARGEST_RANGE_BYTES = 8 * 2**20
CONCURRENT_RANGES = 16
_MAGIC = b"ARROW1"


@dataclass(frozen=True)
class Layout:
    """Places of the values of a file's only column. Without nulls, each record batch is one run of bytes."""

    starts: np.ndarray
    """int64[batches]: byte at which each record batch's values begin."""
    batch_values: int
    """Values per record batch; the last may hold fewer."""

    def offsets(self, places: np.ndarray, itemsize: int) -> np.ndarray:
        """Byte at which the value at each place begins."""
        batch, inside = np.divmod(places, self.batch_values)
        return self.starts[batch] + inside * itemsize


def read_layout(file: Any) -> Layout:
    """The layout of an Arrow IPC file (`pyarrow.NativeFile`) of one integer column; raises ValueError for other files.

    The format: Apache Arrow columnar format, "IPC File Format" and Footer in File.fbs, RecordBatch in Message.fbs.
    """
    size = file.size()
    tail = file.read_at(min(size, 64 * 2**10), max(0, size - 64 * 2**10))
    if len(tail) < 18 or tail[-6:] != _MAGIC:
        raise ValueError("it does not end like one")
    length = struct.unpack_from("<i", tail, len(tail) - 10)[0]
    if not 0 < length <= size - 18:
        raise ValueError(f"its footer says to be {length} bytes long")
    footer = tail[-10 - length : -10] if length + 10 <= len(tail) else file.read_at(length, size - 10 - length)
    try:
        blocks = _blocks(footer)
        offset, metadata, _ = blocks[0]
        # An encapsulated message: a mark of four bytes, its length, then the flatbuffer.
        values, inside = _first_batch(file.read_at(metadata, offset)[8:])
    except (struct.error, IndexError) as error:
        raise ValueError(f"its footer cannot be read ({error})") from error
    starts = np.array([offset + metadata + inside for offset, metadata, _ in blocks], np.int64)
    return Layout(starts, values)


def _field(data: bytes, table: int, number: int) -> int | None:
    """Place of a flatbuffer table's field; None for a field that is left out."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    entry = 4 + 2 * number
    if entry >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    inside = struct.unpack_from("<H", data, vtable + entry)[0]
    return table + inside if inside else None


def _follow(data: bytes, place: int | None) -> int:
    """The place that the offset at `place` points to."""
    if place is None:
        raise IndexError("a part is missing")
    return place + struct.unpack_from("<I", data, place)[0]


def _blocks(footer: bytes) -> list[tuple[int, int, int]]:
    """(offset, bytes of metadata, bytes of values) of each record batch."""
    vector = _follow(footer, _field(footer, _follow(footer, 0), 3))
    count = struct.unpack_from("<I", footer, vector)[0]
    return [struct.unpack_from("<qi4xq", footer, vector + 4 + 24 * number) for number in range(count)]


def _first_batch(message: bytes) -> tuple[int, int]:
    """(number of values, place of the first value in the body) of a record batch."""
    batch = _follow(message, _field(message, _follow(message, 0), 2))
    length = struct.unpack_from("<q", message, _field(message, batch, 0) or -1)[0]
    buffers = _follow(message, _field(message, batch, 2))
    _, (place, _) = (struct.unpack_from("<qq", message, buffers + 4 + 16 * number) for number in range(2))
    return length, place


# ------------------------------------------------------------------------------------------------------- reading


def cut_at(bounds: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(starts, sizes) of the pieces of stretches that are cut at the rising `bounds`, in order."""
    ends = starts + sizes
    first_piece = np.searchsorted(bounds, starts, side="right") - 1
    counts = np.searchsorted(bounds, ends, side="left") - first_piece
    if (counts == 1).all():
        return starts, sizes  # most stretches cross no bound
    stretch = np.repeat(np.arange(len(starts)), counts)
    bound_place = np.arange(len(stretch)) - np.repeat(np.cumsum(counts) - counts - first_piece, counts)
    piece_starts = np.maximum(starts[stretch], bounds[bound_place])
    return piece_starts, np.minimum(ends[stretch], bounds[bound_place + 1]) - piece_starts


class MappedValues:
    """The values of a local file, through a memory map."""

    def __init__(self, path: Path, layout: Layout, dtype: np.dtype) -> None:
        num_values = path.stat().st_size // dtype.itemsize
        # Arrow pads buffers to 8 bytes, so that every record batch begins at a whole item of the file.
        self._values = np.asarray(np.memmap(path, dtype, mode="r", shape=(num_values,)))
        self._layout, self._dtype = layout, dtype

    def gather(self, places: np.ndarray, length: int) -> np.ndarray:
        """[n, length]: `length` values from each place; no stretch may leave its record batch."""
        starts = self._layout.offsets(places, self._dtype.itemsize) // self._dtype.itemsize
        return np.lib.stride_tricks.sliding_window_view(self._values, length)[starts]

    def stretches(self, places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """The stretches of `sizes` values from each place, end to end; no stretch may leave its record batch."""
        starts = self._layout.offsets(places, self._dtype.itemsize) // self._dtype.itemsize
        return self._values[np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())]


class RemoteValues:
    """The values of a file on object storage, by concurrent range reads."""

    def __init__(self, file: Any, layout: Layout, dtype: np.dtype) -> None:
        self._file, self._layout, self._dtype = file, layout, dtype

    def gather(self, places: np.ndarray, length: int) -> np.ndarray:
        """[n, length]: `length` values from each place; no stretch may leave its record batch."""
        return self.stretches(places, np.full(len(places), length)).reshape(-1, length)

    def stretches(self, places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """The stretches of `sizes` values from each place, end to end; no stretch may leave its record batch."""
        result = np.empty(sizes.sum(), self._dtype)
        targets = np.cumsum(sizes) - sizes
        starts = self._layout.offsets(places, self._dtype.itemsize)
        num_bytes = sizes * self._dtype.itemsize
        order = np.argsort(starts, kind="stable")

        def fetch(part: tuple[int, int]) -> None:
            rows = order[part[0] : part[1]]
            first_byte = int(starts[rows[0]])
            size = int((starts[rows] + num_bytes[rows]).max()) - first_byte
            data = self._file.read_at(size, first_byte)
            if len(data) != size:
                raise OSError(f"{size} bytes were asked for from byte {first_byte} on, {len(data)} came")
            values = np.frombuffer(data, self._dtype)
            inside = ((starts[rows] - first_byte) // self._dtype.itemsize).tolist()
            for target, place, length in zip(targets[rows].tolist(), inside, sizes[rows].tolist(), strict=True):
                result[target : target + length] = values[place : place + length]

        _fetch_all(fetch, list(join_ranges(starts[order].tolist(), num_bytes[order].tolist())))
        return result


def join_ranges(starts: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Groups ranges, given by rising starts and their bytes, into runs [first, last) that are fetched as one each."""
    first, end = 0, starts[0] + sizes[0] if starts else 0
    for place in range(1, len(starts)):
        new_end = max(end, starts[place] + sizes[place])
        if starts[place] - end > JOIN_GAP_BYTES or new_end - starts[first] > LARGEST_RANGE_BYTES:
            yield first, place
            first, new_end = place, starts[place] + sizes[place]
        end = new_end
    if starts:
        yield first, len(starts)


def _fetch_all(fetch: Callable[[tuple[int, int]], None], parts: Sequence[tuple[int, int]]) -> None:
    """Fetches the parts, several at once: the threads wait for the storage, and cost next to nothing."""
    for _ in map(fetch, parts) if len(parts) <= 1 else _threads().map(fetch, parts):
        pass


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONCURRENT_RANGES, thread_name_prefix="raycodellm-ranges")
