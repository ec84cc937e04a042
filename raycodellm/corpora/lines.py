"""Lines of a file, from any place of it on."""

from __future__ import annotations

from collections.abc import Iterator

from raycodellm.corpora.documents import SkipError
from raycodellm.corpora.parts import LONGEST_LINE, MIB, TOO_LONG, Part, compression, open_content


def lines(part: Part) -> Iterator[tuple[int, bytes]]:
    """(place, line without its end) of the lines that begin in the part and after the part, until the caller stops.

    Places are bytes of the (unpacked) file. A line over `LONGEST_LINE` comes as `TOO_LONG`, in bounded memory.
    """
    with open_content(part) as file:
        place, skipping = part.start, part.start > 0
        if skipping:  # reads from one byte earlier, and drops what is left of the line before
            place -= 1
            file.seek(place)
        held: list[bytes] = []  # pieces of the line at `place`; joined once, since a line may span many chunks
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
                    return  # the part holds nothing but the middle of one line
        rest = b"".join(held)
        if (rest or long_from is not None) and not skipping:
            yield (place, rest) if long_from is None else (long_from, TOO_LONG)


def first_line(part: Part) -> bytes:
    """The first line of the part's file, such as a row of column names; empty if the file is."""
    return next((line for _, line in lines(part._replace(start=0, stop=1))), b"")


def too_long(what: str) -> SkipError:
    return SkipError(f"{what} over {LONGEST_LINE // MIB} MiB")


def own_lines(part: Part) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in the part; all lines of a packed file, of which a part is the whole."""
    is_packed = compression(part.uri) is not None
    for place, line in lines(part):
        if place >= part.stop and not is_packed:
            return
        yield place, line
