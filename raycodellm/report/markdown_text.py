"""Text in a Markdown page: shown as it is, and still pleasant to read where nobody renders the page."""

from __future__ import annotations

import re

_CODE = re.compile(r"(?<!`)`([^`|<>\\\s](?:[^`|<>\\\n]*[^`|<>\\\s])?)`(?!`)")
"""A piece between two backticks, which stays code."""
_MARKUP = re.compile(
    r"[`*|\[]"  # code, emphasis, cells, links and pictures
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis: an underscore inside a word is one
    r"|~(?=~)|(?<=~)~|\$"  # text that is crossed out, and GitHub's formulas
    r"|\\(?=[!-/:-@\[-`{-~]|$)"  # a backslash before a sign would take its meaning away
)
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_BLOCK = re.compile(r"^(#(?=#{0,5}(?:\s|$))|>|[+=-](?=\s|[+=\s-]*$)|\d{1,9}(?=[.)](?:\s|$)))")


def plain(text: str) -> str:
    """One line that Markdown shows as `text`: no HTML, link, picture, list or table cell begins or ends in it. Pieces
    between backticks stay code.

    Signs are escaped where they would have an effect, and by a backslash; only `<` and `&` are entities, since some
    renderers pass HTML on after a backslash.
    """
    pieces = _CODE.split(" ".join(text.split()))
    escaped = "".join(f"`{piece}`" if place % 2 else _escaped(piece) for place, piece in enumerate(pieces))
    return _BLOCK.sub(_escaped_start, escaped)


def _escaped(piece: str) -> str:
    piece = _ENTITY.sub("&amp;", _MARKUP.sub(r"\\\g<0>", piece))
    return _TAG.sub("&lt;", piece)


def _escaped_start(match: re.Match[str]) -> str:
    """The begin of a line, so that it begins no heading, quotation or list."""
    sign = match[0]
    return f"{sign}\\" if sign.isdigit() else f"\\{sign}"
