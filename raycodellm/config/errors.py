"""The error of a wrong request, and the hint that names the key, the value or the path probably meant."""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Iterable
from pathlib import Path

MESSAGE_CHARACTERS = 280
"""Characters of the longest message; with the command's name before it, a message stays under 300."""
_END_CHARACTERS = 90
"""Characters kept at the end of a message that is too long: the end says what would work."""
_LISTED = 12
"""Most names that a hint lists."""
_COMPARED = 10_000
"""Most names of a folder that a missing one is compared with; a hundred thousand would take seconds."""


class UserError(Exception):
    """The request was wrong: which key, the value found, what would work. The command line prints the message and exits
    with 2.

    The message is one line of at most MESSAGE_CHARACTERS; a longer one loses its middle.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class Unreachable(UserError):
    """A `UserError` about what lies on a network that this machine does not reach. The request may be right elsewhere:
    `check` for another machine goes on without it."""


def one_line(text: str, limit: int = MESSAGE_CHARACTERS) -> str:
    """`text` on one line of at most `limit` characters: unprintable characters escaped, the middle cut out."""
    if len(text) > 50 * limit:
        text = f"{text[: 25 * limit]} {text[-25 * limit :]}"
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    if len(text) <= limit:
        return text
    return f"{text[: limit - _END_CHARACTERS - 3].rstrip()} … {text[-_END_CHARACTERS:].lstrip()}"


def shown(value: object, characters: int = 60) -> str:
    """`value` for a message: its repr, cut to `characters`."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes out
        text = "a very long number"
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def nearest(found: object, known: Iterable[object]) -> str | None:
    """The name among `known` that `found` probably meant; None when none is near."""
    # The comparison is letter by letter and would take seconds for names that are longer than any key.
    matches = difflib.get_close_matches(str(found)[:100], [str(name) for name in known], n=1, cutoff=0.6)
    return matches[0] if matches else None


def suggest(found: object, known: Iterable[object]) -> str:
    """`did you mean …?` when one of `known` is near to `found`, else the first dozen of `known`."""
    names = [str(name) for name in known]
    match = nearest(found, names)
    if match:
        return f"did you mean {match!r}?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"known: {', '.join(names[:_LISTED]) or 'none'}{more}"


def nearest_place(path: str) -> str:
    """Says what exists near a local path that leads nowhere, or to a thing of the wrong kind: `did you mean …?` where
    the last folder on the way has a similar name, else that folder."""
    place = Path(os.path.expanduser(path))
    if os.path.exists(place):  # unlike Path.exists, False also below a folder that may not be entered
        return f"that is a {'folder' if place.is_dir() else 'file'}"
    folders = [place, *place.parents, Path()]
    number, folder = next((number, folder) for number, folder in enumerate(folders) if os.path.exists(folder))
    try:
        name = nearest(folders[number - 1].name, itertools.islice(os.listdir(folder), _COMPARED))
    except NotADirectoryError:
        return f"{folder} is a file"
    except OSError:  # the folder may not be read
        name = None
    return f"did you mean {folder / name}?" if name else f"the nearest folder that exists is {folder.absolute()}"
