"""JSON files that are one array: read element by element, so that a broken element is lost alone.

Memory is bounded by one element. After a broken one, reading goes on at the next object that begins with a key with
which an element has begun before.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Iterator

from raycodellm.corpora.content import LONGEST_LINE, pieces
from raycodellm.corpora.documents import SkipError, check_text
from raycodellm.corpora.inputs import MIB, Part, extension

_STEP = 1 << 13
"""Bytes that are decoded together: an error of the json module costs time in proportion to the text before it."""
_raw_decode = json.JSONDecoder().raw_decode
_BETWEEN = re.compile("[\\s,\ufeff]*")
"""Characters between elements; the last one is a byte order mark."""
_FIRST_KEY = re.compile(r'\{\s*("[^"\\\n]{1,200}"\s*:)')
_MOST_KEYS = 100
_LONGEST_LITERAL = 20
"""Characters at the end of the text in which an error may mean that the text goes on: room for `-Infinity`."""
_KEPT = 300
"""Characters at the end of the text that may be a comma and the beginning of an object."""


def is_array(part: Part) -> bool:
    """True if the part's file is called `.json` and begins with a bracket."""
    if extension(part.name) != ".json" or not part.num_bytes:
        return False
    return next(pieces(part, piece_bytes=4096), b"").lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"[")


def array_values(pieces: Iterable[bytes]) -> Iterator[object]:
    """The value of each element of the array, or a SkipError. Several arrays, and values after them, are one array."""
    elements = _Elements(pieces)
    is_inside = False
    while sign := elements.peek():
        if sign == ("]" if is_inside else "["):
            is_inside = not is_inside
            elements.skip_sign()
        elif sign in "]}":  # left over from a broken element
            elements.skip_sign()
            yield SkipError("broken JSON")
        else:
            yield elements.take()
    if is_inside and not elements.ended_early:
        yield SkipError("broken JSON")


class _Elements:
    """A stream of JSON values; the next one begins at `_at` in `_text`."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._steps = (piece[start : start + _STEP] for piece in pieces for start in range(0, len(piece), _STEP))
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text, self._at = "", 0
        self._first_keys: set[str] = set()
        """The first keys of elements, as they are written, with their colons."""
        self.ended_early = False
        """True once the stream has ended inside a value."""

    def peek(self) -> str:
        """The first character of the next value; empty at the end."""
        while True:
            match = _BETWEEN.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._read_more():
                return self._text[self._at : self._at + 1]

    def skip_sign(self) -> None:
        self._at += 1

    def take(self) -> object:
        """Returns the next value, or a SkipError with the reason why it is none, and goes on behind it."""
        if len(self._first_keys) < _MOST_KEYS and (key := _FIRST_KEY.match(self._text, self._at)):
            self._first_keys.add(key[1])
        while True:
            error_place = None
            try:
                value, end = _raw_decode(self._text, self._at)
                is_cut = end == len(self._text)  # a number may go on
            except json.JSONDecodeError as error:
                error_place = error.pos
                is_cut = error.msg.startswith("Unterminated") or error_place > len(self._text) - _LONGEST_LITERAL
            except ValueError:  # a number of too many digits
                error_place, is_cut = self._at, False
            except RecursionError:  # there are at least as many brackets as Python lets functions call each other
                error_place, is_cut = self._at + 900, False
            too_long = is_cut and len(self._text) - self._at > LONGEST_LINE
            if not is_cut or too_long or not self._read_more():
                break
        if too_long:
            self._to_next_object(len(self._text) - _KEPT)
            return SkipError(f"JSON value over {LONGEST_LINE // MIB} MiB")
        if error_place is not None:
            # Where a bracket is missing, the next object follows the last comma before the error.
            comma = self._text.rfind(",", self._at + 1, error_place + 1)
            self._to_next_object(comma if comma >= 0 else max(error_place, self._at + 1))
            return SkipError("broken JSON")
        begin, self._at = self._at, end
        try:
            check_text(self._text[begin:end])
        except SkipError as undecodable:
            return undecodable
        return value

    def _to_next_object(self, place: int) -> None:
        """Goes on at the next object that begins as an element does, from a place in the text on."""
        next_object = re.compile(rf",\s*(?=\{{\s*(?:{'|'.join(map(re.escape, self._first_keys))}))")
        self._at = place
        while (match := next_object.search(self._text, self._at)) is None:
            self._at = max(self._at, len(self._text) - _KEPT)
            if not self._read_more():
                self._at, self.ended_early = len(self._text), True
                return
        self._at = match.end()

    def _read_more(self) -> bool:
        """Reads about as much again as is held, so that trying again from the beginning takes linear time.

        False at the end of the stream, where every place in the text stays as it is.
        """
        num_held = len(self._text) - self._at
        data = b"".join(itertools.islice(self._steps, 1 + max(0, min(num_held, LONGEST_LINE - num_held)) // _STEP))
        text = self._decode(data, not data)
        if text:
            self._text, self._at = self._text[self._at :] + text, 0
        return bool(data or text)
