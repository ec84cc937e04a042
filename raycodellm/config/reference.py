"""The settings reference docs/settings.md, made from the docstrings of the settings. To write the page again:

    python -m raycodellm.config.reference > docs/settings.md

Each field of a settings model becomes one row: its path, the values it takes, its default, and its docstring.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from raycodellm.config.mixture_shapes import SHAPES
from raycodellm.config.old_spellings import STAGE_SETTINGS
from raycodellm.config.sweep_settings import Sweep
from raycodellm.config.yaml_text import write_yaml

INTRODUCTION = """\
# Settings of the sweep file

<!-- Written by `python -m raycodellm.config.reference > docs/settings.md`: change the docstrings, not this page. -->

Every key of a sweep file, section by section. [sweep_file.md](sweep_file.md) has the rules that hold for all keys: how
values and searches are written, and what is refused. `raycodellm check SWEEP` refuses what cannot work, with the value
found.
"""


@dataclass(frozen=True)
class Section:
    """One settings model and the path at which it stands in the sweep file."""

    path: str
    """Dotted, `stages[]` for an item of a list, `sources.<name>` for a value of a mapping; empty for the whole file."""
    model: type[BaseModel]


def sections(model: type[BaseModel] = Sweep, path: str = "") -> Iterator[Section]:
    """The sections of the sweep file in its order, each before the sections inside it."""
    yield Section(path, model)
    for name, field in model.model_fields.items():
        inner = _model_inside(field.annotation, f"{path}.{name}".lstrip("."))
        if inner is not None:
            yield from sections(inner.model, inner.path)


def field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the text of the string that stands below it in the class, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    docstrings = {}
    for node, next_node in zip(body.body, body.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(next_node, ast.Expr):
            text = next_node.value.value if isinstance(next_node.value, ast.Constant) else None
            if isinstance(text, str):
                docstrings[node.target.id] = " ".join(text.split())
    return docstrings


def reference() -> str:
    """The page docs/settings.md."""
    all_sections = list(sections())
    # Each model has one section, at its first path: the settings of a source's `cleaning` are those of the sweep's.
    first_paths = {section.model: section.path for section in reversed(all_sections)}
    parts = [_section(section, first_paths) for section in all_sections if first_paths[section.model] == section.path]
    return "\n".join([INTRODUCTION, *parts, _shapes(), _old_spellings()])


def _section(section: Section, first_paths: dict[type[BaseModel], str]) -> str:
    depth = section.path.count(".") - section.path.count("<name>")
    title = f"{'#' * (2 + min(depth, 2))} `{section.path}`" if section.path else "## The whole file"
    docstrings = field_docstrings(section.model)
    rows = []
    for name, field in section.model.model_fields.items():
        inner = _model_inside(field.annotation, f"{section.path}.{name}".lstrip("."))
        if inner is not None:
            target = first_paths[inner.model]
            values, default = f"[`{target}`](#{_anchor(target)})", "required" if field.is_required() else ""
        else:
            values, default = _values_in_words(field.annotation, field.metadata), _default(field)
        rows.append(f"| `{name}` | {values} | {default} | {docstrings[name]} |")
    head = "| key | values | default | meaning |\n|---|---|---|---|"
    return "\n".join([title, "", _class_docstring(section.model), "", head, *rows, ""])


def _shapes() -> str:
    rows = [f"| `{name}` | {shape.meaning} |" for name, shape in SHAPES.items()]
    return "\n".join(
        [
            "## Shapes of `schedule`",
            "",
            "Each keeps the mean of the stage at `code_ratio`; at a mean of 0 or 1 all are `constant`.",
            "",
            "| shape | code ratio over the stage |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _old_spellings() -> str:
    rows = [f"| `{old}` | `{'.'.join(path)}` |" for old, path in STAGE_SETTINGS.items()]
    return "\n".join(
        [
            "## Older spellings",
            "",
            "They are accepted wherever a setting is named (the file, `--set`, searches, `enqueue`) and mean the same.",
            "",
            "| right under a stage | now |",
            "|---|---|",
            *rows,
            "| `scaling.deepspeed.precision`, `attention`, `config` | `numerics` of every stage |",
            "",
        ]
    )


def _class_docstring(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _anchor(path: str) -> str:
    """The anchor that GitHub gives a heading."""
    return "".join(c for c in path.lower() if c.isalnum() or c in "-_")


def _model_inside(annotation: Any, path: str) -> Section | None:
    """The settings model that a field holds, directly, in a list or in a mapping; None for a field of plain values."""
    for kind in _alternatives(annotation):
        origin, inner = typing.get_origin(kind), typing.get_args(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return Section(path, kind)
        section = None
        if origin is tuple:
            section = _model_inside(inner[0], f"{path}[]")
        elif origin is dict:
            section = _model_inside(inner[1], f"{path}.<name>")
        if section is not None:
            return section
    return None


def _alternatives(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without None, unions and Annotated taken apart."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(annotation) if part is not type(None) for kind in _alternatives(part)]
    return [annotation]


def _values_in_words(annotation: Any, metadata: list[Any]) -> str:
    """The values of a type in words: `number over 0, at most 10`."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _values_in_words(inner[0], [*inner[1:], *metadata])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_values_in_words(kind, metadata) for kind in inner if kind is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{literal}`" for literal in inner)
    if origin is tuple and len(inner) == 2 and inner[1] is not Ellipsis:
        return f"two of: {_values_in_words(inner[0], [])}"
    if origin is tuple:
        return f"list of {_values_in_words(inner[0], [])}"
    if origin is dict:
        return f"mapping to {_values_in_words(inner[1], [])}" if inner[1] is not Any else "mapping"
    names = {str: "text", bool: "`true`, `false`", int: "whole number", float: "number"}
    return f"{names[annotation]}{_limits(metadata)}"


def _limits(metadata: list[Any]) -> str:
    """The limits of a number: ` from 0 to 1`, ` over 0`."""
    constraints = [
        constraint for item in metadata for constraint in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]
    limit = {
        key: f"{value:,}" if isinstance(value, int) else f"{value:g}"
        for constraint in constraints
        for key in ("ge", "gt", "le", "lt")
        if (value := getattr(constraint, key, None)) is not None
    }
    if "ge" in limit and "le" in limit:
        return f" from {limit['ge']} to {limit['le']}"
    words = {"ge": "of at least", "gt": "over", "le": "at most", "lt": "below"}
    limits = ", ".join(f"{words[key]} {value}" for key, value in limit.items())
    return f" {limits}" if limits else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == () or value == {}:
        return ""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    value = list(value) if isinstance(value, tuple) else value
    if type(value) is int:
        return f"`{value:_}`"
    return f"`{write_yaml(value, default_flow_style=True, width=10_000).removesuffix('...' + chr(10)).strip()}`"


if __name__ == "__main__":
    print(reference(), end="")
