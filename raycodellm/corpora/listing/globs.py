"""Globs: which paths a pattern matches, and the folder above a pattern."""

from __future__ import annotations

import fnmatch
import re


def is_glob(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def split_glob(path: str) -> tuple[str, Glob]:
    """(the folder above the first sign of a glob, the pattern of paths inside it); a path that is no glob, and `**`."""
    if not is_glob(path):
        return path, Glob("**")
    folder = re.split(r"[*?\[]", path)[0].rpartition("/")[0] or "/"
    return folder, Glob(path.removeprefix(folder).lstrip("/"))


class Glob:
    """A pattern of paths: `*`, `?` and `[a-z]` stand for parts of one name, `**` for any number of folders.

    Names are compared folder by folder, in time linear in name and pattern. As one regular expression, a pattern with
    many `*` would take exponential time.
    """

    def __init__(self, pattern: str) -> None:
        # `**.py` is `**/*.py`; a `**` at the end stands for at least one name.
        pattern = re.sub(r"(?<=[^/*])\*\*+", "*", re.sub(r"\*\*+(?=[^/*])", "**/*", pattern))
        steps = pattern.split("/")
        steps += ["*"] if steps[-1] == "**" else []
        self._steps = [None if step == "**" else re.compile(fnmatch.translate(step)) for step in steps]

    def match(self, name: str) -> bool:
        """True if the pattern matches the path, or a folder above it."""
        places = self._onwards({0})
        for part in name.split("/"):
            if len(self._steps) in places:
                return True
            steps = ((place, self._steps[place]) for place in places)
            places = {place if step is None else place + 1 for place, step in steps if step is None or step.match(part)}
            places = self._onwards(places)
        return len(self._steps) in places

    def _onwards(self, places: set[int]) -> set[int]:
        """Adds the steps after each `**`, which may stand for no folder."""
        for place, step in enumerate(self._steps):
            if step is None and place in places:
                places.add(place + 1)
        return places
