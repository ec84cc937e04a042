"""Renders the report's sections as Markdown, without the figures."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from raycodellm.report.answer import answer_so_far
from raycodellm.report.records import Records
from raycodellm.report.sections import Bars, Code, Part, Section, Tree
from raycodellm.report.tables import cards
from raycodellm.tables import StageNode, Table


def markdown(records: Records, sections: Sequence[Section]) -> str:
    """The text of `report.md`."""
    return rendered_markdown(records.sweep.name, answer_so_far(records), cards(records), sections)


def rendered_markdown(name: str, answer: str, figures: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """A page as Markdown. `figures`: those beside the answer, each with its label."""
    lines = [f"# {_plain(name)}", "", _plain(answer), ""]
    lines += [f"- **{_plain(value)}** {_plain(label)}" for value, label in figures]
    for section in sections:
        rendered = [block for part in section.parts if (block := part_lines(part))]
        if rendered:  # a section of figures alone has nothing here
            lines += ["", f"## {_plain(section.title)}"]
            for block in rendered:
                lines += ["", *block]
            lines += ["", _plain(section.note)] if section.note else []
    return "\n".join(lines) + "\n"


_MARKUP = str.maketrans({"|": "&#124;", "[": "&#91;", "]": "&#93;", "`": "&#96;", "*": "&#42;", "\\": "&#92;"})


def _plain(text: str) -> str:
    """One line that Markdown shows as `text`: no HTML, link, picture, code or table cell begins or ends in it."""
    return " ".join(html.escape(text, quote=False).split()).translate(_MARKUP)


def part_lines(part: Part) -> list[str]:
    """Lines of a section's part; none for a figure."""
    match part:
        case str():
            return [_plain(part)]
        case Table():
            return _table_lines(part)
        case Bars():
            return _table_lines(Table(("part", "time"), [(name, duration) for name, _, duration in part.rows]))
        case Tree():
            return [line for node in part.nodes for line in _node_lines(node, 0)]
        case Code():
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", part.text)), default=0))
            return [f"{fence}yaml", part.text.rstrip(), fence]
    return []


def _table_lines(table: Table) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(_plain, cells)) + " |"

    rule = "|" + "|".join(":--" if place in table.left else "--:" for place in range(len(table.header))) + "|"
    return [row(table.header), rule, *map(row, table.rows)]


def _node_lines(node: StageNode, depth: int) -> list[str]:
    below = [line for child in node.children for line in _node_lines(child, depth + 1)]
    return [f"{'  ' * depth}- **{_plain(node.name)}** {_plain(node.facts)}", *below]
