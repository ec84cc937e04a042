"""Renders the report's sections as Markdown; with the figures, where their pictures are given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from raycodellm.report.answer import answer_so_far
from raycodellm.report.figures import Figure
from raycodellm.report.markdown_text import plain
from raycodellm.report.opening import Line, opening
from raycodellm.report.parts import Bars, Code, Part, Section, Tree
from raycodellm.report.records import Records
from raycodellm.report.tables import cards
from raycodellm.tables import StageNode, Table

Pictures = Mapping[str, str]
"""Maps the names of figures to their files, relative to the page."""

LONG_SECTION = 40
"""Lines from which on a section is folded."""


def markdown(records: Records, sections: Sequence[Section], pictures: Pictures | None = None) -> str:
    """The text of `report.md`."""
    head = opening(records)
    return rendered_markdown(records.sweep.name, answer_so_far(records), cards(records), sections, pictures, head)


def rendered_markdown(
    name: str,
    answer: str,
    figures: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    pictures: Pictures | None = None,
    head: Sequence[Line] = (),
) -> str:
    """A page as Markdown. `figures`: those beside the answer, each with its label; `head`: the lines under the answer.
    Sections that the HTML page folds, and long ones, are folded where Markdown is shown with its HTML."""
    lines = [f"# {plain(name)}", "", f"**{plain(answer)}**" if head else plain(answer), ""]
    lines += [line for head_line in head for line in (f"{head_line.label}: {plain(head_line.text)}", "")]
    lines += [f"- **{plain(value)}** {plain(label)}" for value, label in figures]
    for section in sections:
        blocks = (_picture(part, section, pictures or {}) or part_lines(part) for part in section.parts)
        rendered = [block for block in blocks if block]
        if rendered:  # a section of figures alone has nothing here without pictures
            lines += ["", f"## {plain(section.title)}"]
            is_folded = section.is_folded or sum(map(len, rendered)) > LONG_SECTION
            lines += ["", "<details><summary>Show</summary>"] if is_folded else []
            for block in rendered:
                lines += ["", *block]
            lines += ["", plain(section.note)] if section.note else []
            lines += ["", "</details>"] if is_folded else []
    return "\n".join(lines) + "\n"


def _picture(part: Part, section: Section, pictures: Pictures) -> list[str]:
    """The picture of a figure with its caption; no lines for another part, or without a picture."""
    if not isinstance(part, Figure) or part.name not in pictures:
        return []
    return [
        f"![{plain(part.title or section.title)}]({pictures[part.name]})",
        *(["", plain(part.caption)] if part.caption else []),
    ]


def part_lines(part: Part) -> list[str]:
    """Lines of a section's part; none for a figure."""
    match part:
        case str():
            return [plain(part)]
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
        return "| " + " | ".join(map(plain, cells)) + " |"

    rule = "|" + "|".join(":--" if place in table.left else "--:" for place in range(len(table.header))) + "|"
    return [row(table.header), rule, *map(row, table.rows)]


def _node_lines(node: StageNode, depth: int) -> list[str]:
    below = [line for child in node.children for line in _node_lines(child, depth + 1)]
    return [f"{'  ' * depth}- **{plain(node.name)}** {plain(node.facts)}", *below]
