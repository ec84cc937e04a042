"""JSON files that are one array: cut into elements one by one, so that a broken element is lost alone.

Memory is bounded by one element. If the end of an element cannot be found (unmatched brackets, a missing quote),
reading goes on at the next object whose first key is that of the first element: an object inside the broken element is
not taken for an element.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

from raycodellm.corpora.parts import LONGEST_LINE, MIB, TOO_LONG, Part, extension, open_content

_BETWEEN = re.compile(rb"[\s,\xef\xbb\xbf]*")
"""Bytes between elements; the last three are a byte order mark."""
_SIGN = re.compile(rb'["\[\]{},:]')
_STRING_SIGN = re.compile(rb'["\\\n]')
_MARK = re.compile(rb"\S")
_FIRST_KEY = re.compile(rb'\{\s*("[^"\\\n]{1,200}"\s*:)')
_OPENED_BY = {ord("}"): ord("{"), ord("]"): ord("[")}
_KEPT = 300
"""Bytes that are kept of a long value: room for the end of an object and the key of the next one."""
_QUOTE, _BACKSLASH, _COMMA, _COLON, _OBJECT = b'"\\,:{'


def is_array(part: Part) -> bool:
    """True if the part's file is called `.json` and begins with a bracket."""
    if extension(part.name) != ".json" or not part.num_bytes:
        return False
    with open_content(part) as content:
        return content.read(4096).lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"[")


def array_elements(part: Part) -> Iterator[bytes]:
    """The bytes of each element, whole or broken; `TOO_LONG` for one over `LONGEST_LINE`, b"" for one without an end.

    Several arrays in a file, and values after them, are read as one array.
    """
    with open_content(part) as content:
        yield from elements_of(partial(content.read, MIB))


def elements_of(read: Callable[[], bytes]) -> Iterator[bytes]:
    """The elements of the array that `read` returns piece by piece; `read` returns b"" at the end."""
    values = _Values(read)
    inside = False
    while sign := values.first():
        if sign == (b"]" if inside else b"["):
            inside = not inside
            values.drop(1)
        else:
            yield values.take()
    if inside and not values.ended_early:
        yield b""


class _Broken(Exception):
    """The end of an element cannot be found from a place on, which is the argument."""


class _Values:
    """A stream of JSON values. The first byte of `_data` is always the first byte of the next value."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._data = bytearray()
        self._next_object = re.compile(rb"\}\s*,\s*(?=\{)")
        self._knows_key = False
        self._dropped = 0
        self._broken_at = -1
        self._is_long = False
        self.ended_early = False
        """True once the stream has ended inside a value."""

    def first(self) -> bytes:
        """The first byte of the next value; b"" at the end."""
        while True:
            between = _BETWEEN.match(self._data)
            self.drop(between.end() if between else 0)
            if self._data or not self._more():
                return bytes(self._data[:1])

    def drop(self, count: int) -> None:
        del self._data[:count]  # moves no byte, since a bytearray remembers where it begins
        self._dropped += count

    def take(self) -> bytes:
        """Returns the next value and drops it."""
        self._is_long = False
        if not self._knows_key and self._data[0] == _OBJECT and (key := _FIRST_KEY.match(self._data)):
            self._next_object = re.compile(rb"\}\s*,\s*(?=\{\s*" + re.escape(key[1]) + rb")")
            self._knows_key = True
        try:
            end = self._end()
        except _Broken as broken:
            end = self._end_of_broken(broken.args[0])
        value = TOO_LONG if self._is_long else bytes(self._data[:end])
        self.drop(end)
        return value

    def _end(self) -> int:
        """Where the first value of the data ends. Raises _Broken."""
        opened = bytearray()
        before = place = 0
        while (place := self._find(_SIGN, place)) >= 0:
            sign = self._data[place]
            if sign == _QUOTE:
                place = self._string_end(place + 1, inside=bool(opened))
            elif sign in b"[{":
                if place and not opened:
                    return place
                if (
                    opened == b"{" and before == _COMMA
                ):  # a closing bracket is missing: this bracket opens the next element
                    return place
                if opened and opened[-1] == _OBJECT and before != _COLON:
                    raise _Broken(place)
                opened.append(sign)
                place += 1
            elif sign in b"]}":
                if not opened:
                    return max(place, 1)
                if opened.pop() != _OPENED_BY[sign]:
                    raise _Broken(place)
                place += 1
                if not opened:
                    return place
            elif opened:
                place += 1
            else:
                return max(place, 1)
            before = sign
        self.ended_early = bool(opened)
        return len(self._data)

    def _string_end(self, place: int, inside: bool) -> int:
        """The place behind the closing quote. Raises _Broken if the string has no end, or a wrong sign follows it."""
        while True:
            place = self._find(_STRING_SIGN, place)
            if place < 0:
                self.ended_early = True
                return len(self._data)
            sign = self._data[place]
            if sign == _BACKSLASH:
                place += 2
            elif sign == _QUOTE:
                after = self._find(_MARK, place + 1) if inside else -1
                if after >= 0 and self._data[after] not in b",:]}":
                    raise _Broken(after)
                return after if after >= 0 else place + 1
            else:
                raise _Broken(place)

    def _find(self, signs: re.Pattern[bytes], place: int) -> int:
        """The place of the first of the signs from `place` on; -1 if the stream ends before one."""
        while (found := signs.search(self._data, place)) is None:
            place = self._let_go(max(place, len(self._data)))
            if not self._more():
                return -1
        return found.start()

    def _let_go(self, place: int) -> int:
        """Drops the beginning of a value that is too long. Returns where `place` is afterwards."""
        if len(self._data) <= LONGEST_LINE:
            return place
        self._is_long = True
        self.drop(gone := len(self._data) - _KEPT)
        return max(0, place - gone)

    def _more(self) -> bool:
        chunk = self._read()
        self._data += chunk
        return bool(chunk)

    def _end_of_broken(self, place: int) -> int:
        """The end of an element whose end was not found up to `place`.

        After a second failure at the same place the search begins at that place, so that no byte is read more than
        twice.
        """
        broken_at = self._dropped + place
        start = 1 if broken_at > self._broken_at else place
        self._broken_at = broken_at
        while (found := self._next_object.search(self._data, start)) is None:
            start = self._let_go(max(start, len(self._data) - _KEPT))
            if not self._more():
                self.ended_early = True
                return len(self._data)
        return found.start() + 1
