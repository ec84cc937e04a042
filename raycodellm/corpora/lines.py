"""Lines of a file, from any place of it on."""

from __future__ import annotations

from collections.abc import Iterator

from raycodellm.corpora.documents import SkipError
from raycodellm.corpora.parts import LONGEST_LINE, MIB, Part, compression, content


def lines(part: Part) -> Iterator[tuple[int, bytes | SkipError]]:
    """(place, line without its end) of the lines that begin in the part and after the part, until the caller stops.

    Places are bytes of the (unpacked) file. A line over `LONGEST_LINE` comes as a SkipError, in bounded memory.
    """
    place, is_ours = part.start, part.start == 0
    if not is_ours:  # reads from one byte earlier, and drops what is left of the line before
        place -= 1
    parts: list[bytes] = []  # of the line at `place`; joined once, since a line may span many pieces
    size = 0
    for piece in content(part, place, min(MIB, part.stop - part.start + 4096)):
        rest, *following = piece.split(b"\n")
        parts.append(rest)
        size += len(rest)
        for begun in following:
            if is_ours:
                yield place, _line(parts, size)
            place += size + 1
            parts, size, is_ours = [begun], len(begun), True
        if size > LONGEST_LINE or not is_ours:
            parts.clear()
        if not is_ours and place + size >= part.stop:
            return  # the part holds nothing but the middle of one line
    if size and is_ours:
        yield place, _line(parts, size)


def _line(parts: list[bytes], size: int) -> bytes | SkipError:
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
