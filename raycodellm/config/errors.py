"""The error of a wrong request, and the hint that names what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MESSAGE_CHARACTERS = 280
"""Characters of the longest message; with the command's name before it, it stays under 300."""
_END_CHARACTERS = 90
"""Characters kept of the end of a message that is too long: the end says what would work."""
_LISTED = 12
"""Names that a hint lists at most."""


class UserError(Exception):
    """The request was wrong: what, the value found, what would work. The command line prints it and exits with 2.

    The message is one line of at most MESSAGE_CHARACTERS, whatever the file held: a longer one loses its middle.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def one_line(text: str, limit: int = MESSAGE_CHARACTERS) -> str:
    """`text` on one line, what cannot be printed as an escape, cut in its middle to at most `limit` characters."""
    if len(text) > 50 * limit:
        text = f"{text[: 25 * limit]} {text[-25 * limit :]}"
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    if len(text) <= limit:
        return text
    return f"{text[: limit - _END_CHARACTERS - 3].rstrip()} … {text[-_END_CHARACTERS:].lstrip()}"


def shown(value: object, characters: int = 60) -> str:
    """`value` as it is said in a message: its repr, cut short."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes out
        text = "a very long number"
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def suggest(found: str, known: Iterable[object]) -> str:
    """`did you mean …?` when one of `known` is near to `found`, else those there are, the first dozen of them."""
    names = [str(name) for name in known]
    # Longer names than any key would be compared letter by letter for seconds.
    near = difflib.get_close_matches(str(found)[:100], names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"known: {', '.join(names[:_LISTED])}{more}"
