"""Plain text: a document is a file, or with `documents: paragraphs` a block between blank lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from raycodellm.config import Source
from raycodellm.corpora.content import LONGEST_LINE, lines, own_lines, whole_content
from raycodellm.corpora.documents import Record, SkipError
from raycodellm.corpora.inputs import MIB, InputFile, Part, compression
from raycodellm.corpora.registry import Format

LARGEST_TEXT = LONGEST_LINE
"""Bytes of the largest file that is one document."""
WINDOW_BYTES = 16 * MIB
"""A larger file becomes one document per window of this many bytes, cut at line ends, and is counted."""
_CUT_FROM_IN_VERSION_1 = 16 << 20
"""Bytes from which files were cut in the first version of this reader."""


def read_text(part: Part, source: Source) -> Iterator[Record]:
    if source.documents == "paragraphs":
        yield from _records(_paragraphs(part))
        return
    is_whole = part.start == 0 and part.stop >= part.num_bytes <= LARGEST_TEXT
    content = whole_content(part, LARGEST_TEXT) if is_whole else None
    if content is not None:
        yield ":0" if compression(part.uri) else "", content.replace(b"\r\n", b"\n").removesuffix(b"\r").strip(b"\n")
        return
    if part.start == 0 and (part.num_bytes > LARGEST_TEXT or compression(part.uri)):
        yield "", SkipError(f"text file over {LARGEST_TEXT // MIB} MiB became several documents")
    yield from _records(_windows(part))


_Blocks = Iterator[tuple[int, list[bytes] | SkipError]]
"""(place, neighbouring lines, or why a line is left out)"""


def _records(blocks: _Blocks) -> Iterator[Record]:
    for place, block in blocks:
        if isinstance(block, list):
            yield f":{place}", b"\n".join(line.removesuffix(b"\r") for line in block).strip(b"\n")
        else:
            yield f":{place}", block


def _windows(part: Part) -> _Blocks:
    """The lines that begin in each window of the file. Before damage a window has the lines that can be read."""
    block: list[bytes] = []
    began = part.start
    try:
        for place, line in own_lines(part):
            if block and place // WINDOW_BYTES != began // WINDOW_BYTES:
                yield began, block
                block = []
            began = began if block else place
            if isinstance(line, SkipError):
                yield place, line
            else:
                block.append(line)
    except (OSError, ValueError, EOFError):
        yield began, block
        raise
    yield began, block


def _paragraphs(part: Part) -> _Blocks:
    """The lines between blank lines. A paragraph belongs to the part in which the blank line before it begins."""
    block: list[bytes] = []
    is_ours, began = part.start == 0, part.start
    for place, line in lines(part):
        if isinstance(line, SkipError):
            if is_ours:
                yield place, line
        elif line.strip():
            if is_ours:
                began = began if block else place
                block.append(line)
        else:
            if block:
                yield began, block
                block = []
            is_ours = True
            if place >= part.stop and not compression(part.uri):
                return
    if block:
        yield began, block


def _part_bytes(source: Source, file_bytes: int, part_bytes: int) -> int:
    if source.documents == "paragraphs":
        return part_bytes
    return file_bytes if file_bytes <= LARGEST_TEXT else WINDOW_BYTES


def _identity(source: Source, files: Sequence[InputFile]) -> dict[str, Any]:
    was_cut = source.documents == "file" and any(file.num_bytes > _CUT_FROM_IN_VERSION_1 for file in files)
    return {"documents": source.documents, **({"reader": 2} if was_cut else {})}


FORMAT = Format(
    name="text",
    extensions=frozenset({".txt", ".text"}),
    tree_extensions=frozenset({".txt"}),
    takes_any_name=True,
    read=read_text,
    part_bytes=_part_bytes,
    identity=_identity,
)
