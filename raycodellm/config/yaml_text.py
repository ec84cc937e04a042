"""Reads and writes the YAML of sweep files: plain values, text or whole numbers as keys, no key twice, a bounded size.

Numbers are those of YAML 1.2: `1e-3` is a number, `010` is ten, `1:30` and dates are text. Refusals name the line.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from raycodellm.config.errors import UserError, one_line, shown

MOST_CHARACTERS = 2_000_000
MOST_NODES = 20_000
"""Most values and keys, each counted as often as an alias repeats it."""
MOST_DEPTH = 40
"""Most lists and mappings inside one another. A whole model configuration in a choice in a stage has about 10."""
_LARGEST = 2**63
_TAGS = ("map", "seq", "str", "int", "float", "bool", "null", "merge")
_NUMBER = r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
_FLOAT = re.compile(rf"(?:{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_INT = re.compile(r"(?:[-+]?[0-9][0-9_]*|0o[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+)\Z")


def read_yaml(text: str, origin: str) -> Any:
    """The value in `text`. Raises `UserError`, beginning with `origin`, for anything that is not plain YAML."""
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{origin}: has {len(text):,} characters; a sweep file has at most {MOST_CHARACTERS:,}")
    try:
        _check_size(text)
        return _copy_without_aliases(yaml.load(text, Loader=_PlainLoader))  # derives from SafeLoader, with fewer types
    except yaml.YAMLError as error:
        raise UserError(f"{origin}: is not valid YAML: {_problem_line(error)}") from error


def _copy_without_aliases(value: Any) -> Any:
    """A copy in which no two places share a list or mapping, as aliases make them do: `--set` changes one place."""
    if isinstance(value, dict):
        return {key: _copy_without_aliases(inner) for key, inner in value.items()}
    return [_copy_without_aliases(inner) for inner in value] if isinstance(value, list) else value


def _problem_line(error: yaml.YAMLError) -> str:
    """The error in one line, without the lines of the file that YAML's own message quotes."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return one_line(str(error), 160)
    mark = error.problem_mark or error.context_mark
    position = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    return f"{one_line(problem, 160)}{position}"


def _check_size(text: str) -> None:
    """Refuses text that would be too deep or too large, aliases written out, before any value is built."""
    open_sizes: list[int] = []  # nodes so far of each open list or mapping
    open_names: list[str | None] = []
    node_counts: dict[str | None, int | None] = {}  # nodes of each anchored value; None while the value is open
    for event in yaml.parse(text, Loader=_base):
        size = 1
        if isinstance(event, yaml.CollectionStartEvent):
            if len(open_sizes) >= MOST_DEPTH:
                raise _error_at(f"lists and mappings are over {MOST_DEPTH} deep; write them flatter", event.start_mark)
            open_sizes.append(1)
            open_names.append(event.anchor)
            if event.anchor:
                node_counts[event.anchor] = None
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            size, name = open_sizes.pop(), open_names.pop()
            if name:
                node_counts[name] = size
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                node_counts[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            repeated = node_counts.get(event.anchor, 1)  # building the value refuses an unknown alias
            if repeated is None:
                raise _error_at(f"the alias *{event.anchor} stands inside the value that it repeats", event.start_mark)
            size = repeated
        else:
            continue
        if open_sizes:
            open_sizes[-1] += size
        if sum(open_sizes, 0 if open_sizes else size) > MOST_NODES:
            raise _error_at(f"there are over {MOST_NODES:,} values, aliases written out; write fewer", event.start_mark)


def _error_at(problem: str, mark: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


# libyaml reads ten times as fast, where PyYAML was built with it.
_base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _PlainLoader(_base):
    yaml_implicit_resolvers: dict[Any, list[tuple[str, re.Pattern]]] = {  # noqa: RUF012
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag.rpartition(":")[2] not in ("timestamp", "int", "float", "value")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag.rpartition(":")[2] not in _TAGS or not node.tag.startswith("tag:yaml.org,2002:"):
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise _error_at(f"the tag {shown(tag)} is not known here; write the plain value", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise _error_at(f"{shown(node.value)} is no {tag}", node.start_mark) from error


def _text(loader: Any, node: yaml.ScalarNode) -> str:
    text = loader.construct_scalar(node)
    if not isinstance(text, str) or "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise _error_at(f"{shown(text)} holds a character that no text may hold", node.start_mark)
    return text


def _int(loader: Any, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    value = _LARGEST if len(text) > 80 else int(text, 0 if text[:2] in ("0x", "0o", "0b") else 10)
    if not -_LARGEST < value < _LARGEST:
        raise _error_at(f"the number {shown(text, 30)} is too large", node.start_mark)
    return value


def _float(loader: Any, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).replace("_", "")
    if "." in text and text.lstrip("+-.").lower() in ("inf", "nan"):
        return float(text.replace(".", "", 1))
    value = float(text)
    if not math.isfinite(value):
        raise _error_at(f"the number {shown(text, 30)} is too large", node.start_mark)
    return value


def _mapping(loader: Any, node: yaml.MappingNode) -> dict:
    if not isinstance(node, yaml.MappingNode):
        raise _error_at("!!map stands before a value that is no mapping", node.start_mark)
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue  # `<<`: keys that it merges in may be given again
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            raise _error_at(f"the key {shown(key)} is not text; put it in quotes", key_node.start_mark)
        if key in seen:
            raise _error_at(f"the key {shown(key)} stands twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return {loader.construct_object(key, True): loader.construct_object(value, True) for key, value in node.value}


def _sequence(loader: Any, node: yaml.SequenceNode) -> list:
    return loader.construct_sequence(node, deep=True)


_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
for _kind, _make in {"str": _text, "int": _int, "float": _float, "map": _mapping, "seq": _sequence}.items():
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _make)


class _QuotingDumper(yaml.SafeDumper):
    """Quotes text that reads as a number in YAML 1.2 or 1.1."""


for _kind, _pattern in (("int", _INT), ("float", _FLOAT)):
    _QuotingDumper.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _pattern, list("-+.0123456789"))


def write_yaml(value: Any, **layout: Any) -> str:
    """Plain values as YAML that `read_yaml` reads back, keys in their order. `layout`: arguments of `yaml.dump`."""
    return yaml.dump(value, Dumper=_QuotingDumper, sort_keys=False, **layout)
