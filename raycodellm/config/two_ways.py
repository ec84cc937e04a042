"""Settings that say one thing in two ways, of which the second counts wherever it is given.

A sweep file says one of the two. A run's own `sweep.yaml` of an earlier version may hold both, the first with its
default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raycodellm.config.errors import UserError, shown

TWO_WAYS = {"warmup": "warmup_steps", "checkpoint_seconds": "checkpoint_tokens"}
"""Key -> the key beside it that counts in its place."""
_OTHER_WAY = TWO_WAYS | {counts: key for key, counts in TWO_WAYS.items()}


def refuse_both_ways(tree: Any, origin: str) -> None:
    """Raises UserError where a sweep file's tree says one thing in both ways."""
    for place, node in _nodes(tree):
        for key, counts in TWO_WAYS.items():
            if _is_given(node.get(key)) and _is_given(node.get(counts)):
                pair = f"{key}: {shown(node[key])} and {counts}: {shown(node[counts])}"
                raise UserError(f"{origin}: {place}: found {pair}, two ways to say one thing; remove one of them")


def without_other_ways(tree: Any) -> None:
    """Removes from a tree with all defaults, in place, each key that does not count."""
    for _, node in _nodes(tree):
        for key, counts in TWO_WAYS.items():
            if _is_given(node.get(counts)):
                node.pop(key, None)


def set_one_way(node: dict[str, Any], key: str, value: Any) -> None:
    """Sets `key` as `--set` does: in the place of the key that says the same in the other way."""
    node[key] = value
    if key in _OTHER_WAY and value is not None:
        node.pop(_OTHER_WAY[key], None)


def _is_given(value: Any) -> bool:
    """False for a value that is missing, and for a search that may choose none."""
    search = value.get("search") if isinstance(value, dict) else None
    options = search.get("choice") if isinstance(search, dict) else None
    return value is not None and not (isinstance(options, list) and None in options)


def _nodes(tree: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, node) of each mapping in a sweep file's tree; a stage is named."""
    if isinstance(tree, dict):
        yield place, tree
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in inside:
        name = child.get("name", key) if place == "stages" and isinstance(child, dict) else key
        yield from _nodes(child, f"{place}.{name}".lstrip("."))
