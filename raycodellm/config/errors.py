"""The error of a wrong request, and the hint that names what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The request was wrong: what, the value found, what would work. The command line prints it and exits with 2."""


def suggest(found: str, known: Iterable[object]) -> str:
    """`did you mean …?` when one of `known` is near to `found`, all of them otherwise."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(str(found), names, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
