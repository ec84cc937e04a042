"""Parts of files, and what is read from them line by line or whole: JSON lines, plain text, source code, notebooks."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from raycodellm.config import Source
from raycodellm.corpora import trees
from raycodellm.corpora.finding import COMPRESSIONS, open_bucket
from raycodellm.corpora.notebooks import BrokenNotebookError, notebook_text
from raycodellm.corpora.records import Record, SkipError, decode

if TYPE_CHECKING:
    import pyarrow as pa

MIB = 1 << 20
LARGEST_TEXT = 64 * MIB
"""A plain text file is one document up to this size: a task holds some ten times it while it tokenises."""
WINDOW_BYTES = 16 * MIB
"""A larger one becomes one document per window of this size, cut at line ends, and that is counted."""
LONGEST_LINE = 64 * MIB
LARGEST_ARRAY = 512 * MIB
"""Of a JSON file that is one array, unpacked: it is parsed at once."""


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
    """The part's whole file; RuntimeError when it is not the one that was listed."""
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


def lines(part: Part) -> Iterator[tuple[int, bytes]]:
    """(place, line without its end) of the lines that begin in the part, and of those after it: the caller stops.

    Memory is bounded by `LONGEST_LINE`; a longer line comes as `TOO_LONG`.
    """
    import pyarrow as pa

    with open_part(part) as file:
        packed = compression(part.uri)
        stream = pa.CompressedInputStream(file, packed) if packed else file
        place, skipping = part.start, part.start > 0
        if skipping:  # from one byte earlier: what is left of the line before ends the first line read, and is dropped
            place -= 1
            file.seek(place)
        held: list[bytes] = []  # of the line that begins at `place`; joined once, since a line may span many chunks
        held_bytes, long_from = 0, None
        while chunk := stream.read(min(MIB, part.stop - part.start + 4096)):
            *whole, rest = chunk.split(b"\n")
            if whole and held:
                whole[0] = b"".join([*held, whole[0]])
                held, held_bytes = [], 0
            for line in whole:
                if not skipping:
                    too_long = long_from is not None or len(line) > LONGEST_LINE
                    yield (place if long_from is None else long_from), TOO_LONG if too_long else line
                place += len(line) + 1
                skipping, long_from = False, None
            held.append(rest)
            held_bytes += len(rest)
            if held_bytes > LONGEST_LINE or skipping:
                long_from = place if long_from is None else long_from
                place, held, held_bytes = place + held_bytes, [], 0
                if skipping and place >= part.stop:
                    return  # one line of another part is all there is
        rest = b"".join(held)
        if (rest or long_from is not None) and not skipping:
            yield (place, rest) if long_from is None else (long_from, TOO_LONG)


TOO_LONG = b"\xff line too long"


def _too_long() -> SkipError:
    return SkipError(f"line over {LONGEST_LINE // MIB} MiB")


def own_lines(part: Part) -> Iterator[tuple[int, bytes]]:
    everything = compression(part.uri) is not None
    for place, line in lines(part):
        if place >= part.stop and not everything:
            return
        yield place, line


def read_jsonl(part: Part, source: Source) -> Iterator[Record]:
    """One record a line; of a `.json` file that is one array, one an element."""
    if _is_array(part):
        if part.start == 0:
            yield from _read_array(part)
        return
    yield from _read_lines(part)


def _unpacked(part: Part, file: pa.NativeFile) -> pa.NativeFile:
    import pyarrow as pa

    packed = compression(part.uri)
    return pa.CompressedInputStream(file, packed) if packed else file


def _is_array(part: Part) -> bool:
    name = part.name.lower()
    if compression(name):
        name = os.path.splitext(name)[0]
    if not name.endswith(".json") or not part.num_bytes:
        return False
    with open_part(part) as file:
        return _unpacked(part, file).read(4096).lstrip().startswith(b"[")


def _read_array(part: Part) -> Iterator[Record]:
    import orjson

    with open_part(part) as file:
        data = _unpacked(part, file).read(LARGEST_ARRAY + 1)
    if len(data) > LARGEST_ARRAY:
        yield "", SkipError(f"JSON array over {LARGEST_ARRAY // MIB} MiB; one object a line has no such limit")
        return
    try:
        records = orjson.loads(data)
    except ValueError:
        yield "", SkipError("broken JSON")
        return
    for number, record in enumerate(records):
        yield f":{number}", record


def _read_lines(part: Part) -> Iterator[Record]:
    import orjson  # 2.5 times as fast as json, which reads whatever orjson refuses and gives the reason

    for place, line in own_lines(part):
        if line is TOO_LONG:
            yield f":{place}", _too_long()
            continue
        try:
            yield f":{place}", orjson.loads(line)
        except ValueError:
            if line.strip():
                yield f":{place}", _slow_json(line)


def _slow_json(line: bytes) -> object:
    try:
        return json.loads(decode(line))
    except SkipError as skip:
        return skip
    except (ValueError, RecursionError):
        return SkipError("broken JSON")


def read_text(part: Part, source: Source) -> Iterator[Record]:
    if source.documents == "paragraphs":
        for place, block in _paragraphs(part):
            yield f":{place}", block if isinstance(block, SkipError) else _joined(block)
        return
    whole = _whole_text(part) if part.start == 0 and part.stop >= part.num_bytes else None
    if whole is not None:
        yield ":0" if compression(part.uri) else "", whole.replace(b"\r\n", b"\n").removesuffix(b"\r").strip(b"\n")
        return
    if part.start == 0 and (part.num_bytes > LARGEST_TEXT or compression(part.uri)):
        yield "", SkipError(f"text file over {LARGEST_TEXT // MIB} MiB became several documents")
    for place, block in _windows(part):
        yield f":{place}", block if isinstance(block, SkipError) else _joined(block)


def _joined(block: list[bytes]) -> bytes:
    return b"\n".join(line.removesuffix(b"\r") for line in block).strip(b"\n")


def _whole_text(part: Part) -> bytes | None:
    """The file's content, unpacked; None where it is over `LARGEST_TEXT`."""
    import pyarrow as pa

    if part.num_bytes > LARGEST_TEXT:
        return None
    with open_part(part) as file:
        packed = compression(part.uri)
        if not packed:
            return file.read()
        data = pa.CompressedInputStream(file, packed).read(LARGEST_TEXT + 1)
    return data if len(data) <= LARGEST_TEXT else None


def _windows(part: Part) -> Iterator[tuple[int, list[bytes] | SkipError]]:
    """The lines that begin in each `WINDOW_BYTES` of the file."""
    for _, group in itertools.groupby(own_lines(part), key=lambda item: item[0] // WINDOW_BYTES):
        places, block = zip(*group, strict=True)
        for place, line in zip(places, block, strict=True):
            if line is TOO_LONG:
                yield place, _too_long()
        yield places[0], [line for line in block if line is not TOO_LONG]


def _paragraphs(part: Part) -> Iterator[tuple[int, list[bytes] | SkipError]]:
    """Blocks between blank lines; a block belongs to the part in which the last blank line before it begins."""
    block: list[bytes] = []
    inside, began = part.start == 0, part.start
    for place, line in lines(part):
        if line is TOO_LONG:
            if inside:
                yield place, _too_long()
        elif line.strip():
            if inside:
                began = began if block else place
                block.append(line)
        else:
            if block:
                yield began, block
                block = []
            inside = True
            if place >= part.stop and not compression(part.uri):
                return
    if block:
        yield began, block


def read_source(part: Part, source: Source) -> Iterator[Record]:
    """One file of a source tree; a notebook in it is read as `read_notebook` reads it."""
    if part.name.lower().endswith(".ipynb"):
        yield from read_notebook(part, source)
        return
    reason = trees.excluded_by_name(part.name)
    if reason is None and part.num_bytes > trees.LARGEST_FILE:
        reason = f"source file over {trees.LARGEST_FILE // MIB} MiB"
    if reason is None:
        with open_part(part) as file:
            data = file.read()
        reason = trees.excluded_by_content(part.name, data)
    yield "", data.replace(b"\r\n", b"\n") if reason is None else SkipError(reason)


def read_notebook(part: Part, source: Source) -> Iterator[Record]:
    import pyarrow as pa

    if part.num_bytes > trees.LARGEST_NOTEBOOK:
        yield "", SkipError(f"notebook over {trees.LARGEST_NOTEBOOK // MIB} MiB")
        return
    with open_part(part) as file:
        packed = compression(part.uri)
        data = (pa.CompressedInputStream(file, packed) if packed else file).read()
    try:
        yield "", notebook_text(data, source.notebook_outputs) if data.strip() else b""
    except BrokenNotebookError as error:
        yield "", SkipError(str(error))
