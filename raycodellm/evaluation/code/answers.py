"""The answers of tasks that run code, as the table of items keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def answer_of(response: Any) -> tuple[str, dict[str, str]]:
    """(the answer, or the first of several; its `result` and `why`), from what a task's filters made of the answers to
    an item. The second is empty for a task that runs no code."""
    first = response[0] if isinstance(response, list) and response else response
    if isinstance(first, Mapping) and "answer" in first:
        return first["answer"], {key: value for key, value in first.items() if key != "answer" and value}
    return str(response), {}
