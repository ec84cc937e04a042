"""Neighbours in groups of a bounded size: parts for a task, documents and pieces of text for numpy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def grouped(
    items: Iterable[Item], size_of: Callable[[Item], int], largest: int, max_items: int = sys.maxsize
) -> Iterator[list[Item]]:
    """Groups of up to `max_items` items, together no larger than `largest`; a larger item is a group by itself."""
    group: list[Item] = []
    size = 0
    for item in items:
        item_size = size_of(item)
        if group and (size + item_size > largest or len(group) >= max_items):
            yield group
            group, size = [], 0
        group.append(item)
        size += item_size
    if group:
        yield group
