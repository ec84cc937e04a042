"""Markdown that readers write: code between fences."""

from __future__ import annotations

import re


def fenced(code: str, language: str = "") -> str:
    """Code between fences that are longer than any fence in it."""
    longest = max((len(run) for run in re.findall(r"^ {0,3}(`{3,})", code, re.MULTILINE)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
