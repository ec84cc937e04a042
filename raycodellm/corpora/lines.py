"""Reads files line by line or whole: JSON lines, plain text, source code, notebooks."""

from __future__ import annotations

import json
from collections.abc import Iterator

from raycodellm.config import Source
from raycodellm.corpora import trees
from raycodellm.corpora.arrays import array_elements, is_array
from raycodellm.corpora.notebooks import BrokenNotebookError, notebook_text
from raycodellm.corpora.parts import (
    LONGEST_LINE,
    MIB,
    TOO_LONG,
    Part,
    compression,
    open_content,
    open_part,
    read_content,
)
from raycodellm.corpora.records import Record, SkipError, decode

LARGEST_TEXT = LONGEST_LINE
"""A plain text file is one document up to this size."""
WINDOW_BYTES = 16 * MIB
"""A larger one becomes one document per window of this size, cut at line ends, and that is counted."""


def lines(part: Part) -> Iterator[tuple[int, bytes]]:
    """(place, line without its end) of the lines that begin in the part, and of those after it: the caller stops.

    Memory is bounded by `LONGEST_LINE`; a longer line comes as `TOO_LONG`.
    """
    with open_content(part) as file:
        place, skipping = part.start, part.start > 0
        if skipping:  # from one byte earlier: what is left of the line before ends the first line read, and is dropped
            place -= 1
            file.seek(place)
        held: list[bytes] = []  # of the line that begins at `place`; joined once, since a line may span many chunks
        held_bytes, long_from = 0, None
        while chunk := file.read(min(MIB, part.stop - part.start + 4096)):
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


def _too_long(what: str = "line") -> SkipError:
    return SkipError(f"{what} over {LONGEST_LINE // MIB} MiB")


def own_lines(part: Part) -> Iterator[tuple[int, bytes]]:
    everything = compression(part.uri) is not None
    for place, line in lines(part):
        if place >= part.stop and not everything:
            return
        yield place, line


def read_jsonl(part: Part, source: Source) -> Iterator[Record]:
    """One record a line; of a `.json` file that is an array, one an element."""
    if not is_array(part):
        yield from _read_lines(part)
    elif part.start == 0:
        for number, element in enumerate(array_elements(part)):
            yield f":{number}", _too_long("JSON value") if element is TOO_LONG else parse_json(element)


def _read_lines(part: Part) -> Iterator[Record]:
    for place, line in own_lines(part):
        if line is TOO_LONG:
            yield f":{place}", _too_long()
        elif line.strip():
            yield f":{place}", parse_json(line)


def parse_json(data: bytes) -> object:
    """The value, or the reason why it is none."""
    import orjson  # 2.5 times as fast as json, which reads whatever orjson refuses and gives the reason

    try:
        return orjson.loads(data)
    except ValueError:
        pass
    try:
        return json.loads(decode(data))
    except SkipError as skip:
        return skip
    except (ValueError, RecursionError):
        return SkipError("broken JSON")


def read_text(part: Part, source: Source) -> Iterator[Record]:
    if source.documents == "paragraphs":
        for place, block in _paragraphs(part):
            yield f":{place}", block if isinstance(block, SkipError) else _joined(block)
        return
    is_whole = part.start == 0 and part.stop >= part.num_bytes <= LARGEST_TEXT
    whole = read_content(part, LARGEST_TEXT) if is_whole else None
    if whole is not None:
        yield ":0" if compression(part.uri) else "", whole.replace(b"\r\n", b"\n").removesuffix(b"\r").strip(b"\n")
        return
    if part.start == 0 and (part.num_bytes > LARGEST_TEXT or compression(part.uri)):
        yield "", SkipError(f"text file over {LARGEST_TEXT // MIB} MiB became several documents")
    for place, block in _windows(part):
        yield f":{place}", block if isinstance(block, SkipError) else _joined(block)


def _joined(block: list[bytes]) -> bytes:
    return b"\n".join(line.removesuffix(b"\r") for line in block).strip(b"\n")


def _windows(part: Part) -> Iterator[tuple[int, list[bytes] | SkipError]]:
    """The lines that begin in each `WINDOW_BYTES` of the file; the last such before damage comes as far as it goes."""
    block: list[bytes] = []
    began = part.start
    try:
        for place, line in own_lines(part):
            if block and place // WINDOW_BYTES != began // WINDOW_BYTES:
                yield began, block
                block = []
            began = began if block else place
            if line is TOO_LONG:
                yield place, _too_long()
            else:
                block.append(line)
    except (OSError, ValueError, EOFError):
        yield began, block
        raise
    yield began, block


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
    data = read_content(part, trees.LARGEST_NOTEBOOK) if part.num_bytes <= trees.LARGEST_NOTEBOOK else None
    if data is None:
        yield "", SkipError(f"notebook over {trees.LARGEST_NOTEBOOK // MIB} MiB")
        return
    try:
        yield "", notebook_text(data, source.notebook_outputs) if data.strip() else b""
    except BrokenNotebookError as error:
        yield "", SkipError(str(error))
