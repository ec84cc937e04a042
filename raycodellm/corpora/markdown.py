"""Markdown that readers write: fenced code, and HTML as question sites write it."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
_BLOCK_TAG = re.compile(r"\s*<(p|pre|h[1-6]|ul|ol|blockquote|div|table|hr|a|em|strong|b|i|img|code|br|kbd|sub|sup)\b")


def fenced(code: str, language: str = "") -> str:
    """Code between fences that are longer than any fence in it."""
    longest = max((len(run) for run in re.findall(r"^ {0,3}(`{3,})", code, re.MULTILINE)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def to_text(body: str) -> str:
    """HTML as text. A body that begins with no tag is text already, such as Markdown that quotes tags, and keeps the
    indentation of its first line.
    """
    if not _BLOCK_TAG.match(body):
        return _BLANK_LINES.sub("", body).rstrip()
    writer = _TextWriter()
    end = body.rfind(">") + 1  # no tag ends behind it, and the parser would search there for an end at each bracket
    writer.feed(body[:end])
    writer.close()
    writer.handle_data(unescape(body[end:]))
    return writer.text()


_BLOCKS = frozenset(("p", "div", "ul", "ol", "blockquote", "table", "hr", "pre", *(f"h{n}" for n in range(1, 7))))
_LINES = frozenset({"br", "tr", "li", "dt", "dd"})
_DROPPED = frozenset({"script", "style", "head"})


class _TextWriter(HTMLParser):
    """Writes blank lines between blocks (line ends in lists), a sign before list items, and fences around code."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._out: list[str] = []
        self._line_ends = 0
        """Line ends to write before the next text."""
        self._sign = ""
        """Sign of a list item whose text is not yet written."""
        self._lists: list[int | None] = []
        """The number of the last item of each open list; None for lists without numbers."""
        self._code: list[str] | None = None
        self._dropped = 0

    def _break(self, line_ends: int) -> None:
        self._line_ends = max(self._line_ends, 1 if self._lists else line_ends)

    def _write(self, text: str) -> None:
        begins = not self._out or self._line_ends > 0
        text = text.lstrip(" ") if begins or self._out[-1].endswith(" ") else text
        if not text:
            return
        if begins and self._out:
            self._out[-1] = self._out[-1].rstrip(" ")
            self._out.append("\n" * self._line_ends)
        self._out += [self._sign, text] if self._sign else [text]
        self._line_ends, self._sign = 0, ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _DROPPED:
            self._dropped += 1
        if self._code is not None:
            return
        if tag in _BLOCKS or tag in _LINES:
            self._break(2 if tag in _BLOCKS else 1)
        if tag == "pre":
            self._code = []
        elif tag in ("ul", "ol"):
            self._lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._sign = self._item()
        elif tag == "code":
            self._write("`")
        elif tag == "img":
            self._write(dict(attrs).get("alt") or "")
        elif tag in ("td", "th"):
            self._write("\t" if self._out and not self._line_ends else "")

    def _item(self) -> str:
        """The sign of the next item of the innermost list."""
        indent = "  " * max(0, len(self._lists) - 1)
        if not self._lists or self._lists[-1] is None:
            return f"{indent}- "
        self._lists[-1] += 1
        return f"{indent}{self._lists[-1]}. "

    def handle_endtag(self, tag: str) -> None:
        if tag in _DROPPED:
            self._dropped = max(0, self._dropped - 1)
        elif tag == "pre" and self._code is not None:
            code, self._code = "".join(self._code).strip("\n"), None
            self._write(fenced(code) if code.strip() else "")
            self._break(2)
        elif self._code is None:
            if tag == "code":
                self._write("`")
            elif tag in ("ul", "ol") and self._lists:
                self._lists.pop()
            if tag in _BLOCKS:
                self._break(2)

    def handle_data(self, data: str) -> None:
        if self._code is not None:
            self._code.append(data)
        elif not self._dropped:
            self._write(re.sub(r"\s+", " ", data))

    def text(self) -> str:
        if self._code is not None:  # a block without an end
            self.handle_endtag("pre")
        return "".join(self._out).strip()
