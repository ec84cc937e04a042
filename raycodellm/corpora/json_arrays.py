"""JSON files that are one array: read element by element, so that a broken element is lost alone.

Memory is bounded by one element. An element that is no JSON ends where its brackets close. If these do not match,
reading goes on at the next object whose first key is that of the first element: an object inside the broken element is
not taken for an element.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator

from raycodellm.corpora.content import LONGEST_LINE, pieces
from raycodellm.corpora.documents import SkipError, check_text
from raycodellm.corpora.inputs import MIB, Part, extension

PIECE_BYTES = 1 << 16
"""Bytes of the file that are read at once: an error of the json module costs time in proportion to the text."""
_raw_decode = json.JSONDecoder().raw_decode
_BETWEEN = re.compile("[\\s,\ufeff]*")
"""Characters between elements; the last one is a byte order mark."""
_FIRST_KEY = re.compile(r'\{\s*("[^"\\\n]{1,200}"\s*:)')
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*+(?:\\?\Z|"\s*(?:\Z|(?=[,:\]}])))|["\[\]{},:]')
"""A string with a sign that may follow it, a string up to the end of the text, or a sign. A lone quote is an error."""
_LONGEST_LITERAL = 20
"""Characters at the end of the text in which an error may mean that the text goes on: room for `-Infinity`."""
_KEPT = 300
"""Characters that are kept of a long value: room for the end of an object and the key of the next one."""


def is_array(part: Part) -> bool:
    """True if the part's file is called `.json` and begins with a bracket."""
    if extension(part.name) != ".json" or not part.num_bytes:
        return False
    return next(pieces(part, piece_bytes=4096), b"").lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"[")


def array_values(pieces: Iterator[bytes]) -> Iterator[object]:
    """The value of each element of the array, or a SkipError. Several arrays, and values after them, are one array."""
    elements = _Elements(pieces)
    is_inside = False
    while sign := elements.first():
        if sign == ("]" if is_inside else "["):
            is_inside = not is_inside
            elements.skip_sign()
        else:
            yield elements.take()
    if is_inside and not elements.ended_early:
        yield SkipError("broken JSON")


class _Elements:
    """A stream of JSON values; the next one begins at `_at`. Lengths are characters from there on."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text, self._at = "", 0
        self._dropped = 0
        """Characters of the file before `_text`."""
        self._next_object = re.compile(r"\}\s*,\s*(?=\{)")
        self._knows_key = False
        self._mismatch = -1
        """The last place in the file at which brackets did not match."""
        self.ended_early = False
        """True once the stream has ended inside a value."""

    @property
    def _held(self) -> int:
        return len(self._text) - self._at

    def first(self) -> str:
        """The first character of the next value; empty at the end."""
        while True:
            between = _BETWEEN.match(self._text, self._at)
            self._at = between.end() if between else self._at
            if self._held or not self._more():
                return self._text[self._at : self._at + 1]

    def skip_sign(self) -> None:
        self._at += 1

    def take(self) -> object:
        """Returns the next value, or a SkipError with the reason why it is none, and goes on behind it."""
        if not self._knows_key and (key := _FIRST_KEY.match(self._text, self._at)):
            self._next_object = re.compile(r"\}\s*,\s*(?=\{\s*" + re.escape(key[1]) + ")")
            self._knows_key = True
        value, length = self._parse()
        self._at += length or self._length_of_broken()
        return value

    def _parse(self) -> tuple[object, int]:
        """(the next value, its length), or (a SkipError, 0)."""
        while True:
            end = 0
            try:
                value, end = _raw_decode(self._text, self._at)
                is_cut = end == len(self._text)  # a number may go on
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _LONGEST_LITERAL
            except (ValueError, RecursionError):  # a number of too many digits, too many values in each other
                is_cut = False
            if is_cut and self._held > LONGEST_LINE:
                return SkipError(f"JSON value over {LONGEST_LINE // MIB} MiB"), 0
            if not is_cut or not self._more():
                break
        if not end:
            return SkipError("broken JSON"), 0
        try:
            check_text(self._text[self._at : end])
        except SkipError as undecodable:
            value = undecodable
        return value, end - self._at

    def _length_of_broken(self) -> int:
        """Length of a value that is no JSON, or too long.

        After a second mismatch at the same place the search begins at that place, so that no byte is read more than
        twice.
        """
        place, is_end = _end_by_brackets(self._text, self._at)
        while place == len(self._text) and self._held <= LONGEST_LINE and self._more():
            place, is_end = _end_by_brackets(self._text, self._at)
        length = place - self._at
        if is_end:
            return length
        is_new, self._mismatch = self._dropped + place > self._mismatch, self._dropped + place
        start = 1 if is_new else length
        while (found := self._next_object.search(self._text, self._at + start)) is None:
            if self._held > LONGEST_LINE:
                self._at = len(self._text) - _KEPT
            start = min(start, self._held) if self._held < _KEPT else self._held - _KEPT
            if not self._more():
                self.ended_early = True
                return self._held
        return found.start() + 1 - self._at

    def _more(self) -> bool:
        """Reads about as much again as is held, so that trying again from the beginning takes linear time."""
        more = b"".join(itertools.islice(self._pieces, 1 + self._held // PIECE_BYTES))
        self._dropped += self._at
        self._text, self._at = self._text[self._at :] + self._decode(more, not more), 0
        return bool(more)


def _end_by_brackets(text: str, at: int) -> tuple[int, bool]:
    """(where the value that begins at `at` ends, True), or (where its brackets or quotes do not match, False).

    If the text ends first: (length of the text, False).
    """
    opened: list[str] = []
    before = ""
    for token in _TOKEN.finditer(text, at):
        sign, place = token[0][0], token.start()
        if sign == '"':
            if token.end() == len(text):
                break
            if len(token[0]) == 1:
                return place, False
        elif sign in "[{":
            if (opened == ["{"] and before == ",") or (place > at and not opened):
                return place, True  # opens the next element: a closing bracket is missing, or a comma
            if opened and opened[-1] == "{" and before != ":":
                return place, False
            opened.append(sign)
        elif not opened:
            return max(place, at + 1), True
        elif sign in "]}":
            if opened.pop() + sign not in ("[]", "{}"):
                return place, False
            if not opened:
                return token.end(), True
        before = sign
    return len(text), False
