"""Reads the YAML files of lm-eval tasks without importing the functions that they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

MOST_DEPTH = 200
"""Most lists and mappings inside one another."""
_TOO_DEEP = f"lists and mappings are over {MOST_DEPTH} deep"
_FLAT = 2_000
"""A file with so few opening brackets, and so few signs of indentation on a line, is never deep enough to do harm."""
_INDENTATION = re.compile(rb"^[ ?-]+", re.M)

_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's safe loader; where it is built in C, it is eight times as fast: a group such as mmlu has two hundred
files."""


class Tagged(str):
    """The text of a tagged YAML node such as `!function module.name`."""

    function: str | None
    """`module.name` of a `!function` node; None for any other tag."""

    def __new__(cls, tag: str, value: Any) -> Tagged:
        tagged = super().__new__(cls, f"!{tag} {value}")
        tagged.function = str(value) if tag == "function" else None
        return tagged


class TaskLoader(_Fast):
    """Reads each tagged node as a `Tagged` text."""


TaskLoader.add_multi_constructor("!", lambda loader, tag, node: Tagged(tag, getattr(node, "value", None)))


def load_task(data: bytes) -> Any:
    """The value in a task's YAML file. Raises yaml.YAMLError for anything that is no YAML."""
    try:
        _require_flat(data)
        return yaml.load(data, Loader=TaskLoader)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # an impossible date, a list as a key
        raise yaml.YAMLError(str(error)) from error


def _require_flat(data: bytes) -> None:
    """Raises yaml.YAMLError for lists in lists without end, written out or by an alias inside its own value: the loader
    in C would end the process, and whoever walks through the value would not end."""
    brackets, indentation = data.count(b"[") + data.count(b"{"), max(map(len, _INDENTATION.findall(data)), default=0)
    if brackets <= _FLAT and indentation <= _FLAT and not (b"&" in data and b"*" in data):
        return
    anchors: list[str | None] = []  # of the open lists and mappings
    for event in _events(data):
        if isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchors.pop()
        elif isinstance(event, yaml.AliasEvent) and event.anchor in anchors:
            raise yaml.YAMLError(f"the alias *{event.anchor} stands inside the value that it repeats")
        if len(anchors) > MOST_DEPTH:
            raise yaml.YAMLError(_TOO_DEEP)


def _events(data: bytes) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(data, Loader=_Fast)
    except yaml.YAMLError as error:  # since PyYAML 6.0.4 the loader reads a thousand brackets ahead, and then refuses
        if "nesting depth" in str(error):
            raise yaml.YAMLError(_TOO_DEEP) from error
        raise
