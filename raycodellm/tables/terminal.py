"""Renders tables and trees as lines of text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from raycodellm.tables.stage_tree import StageNode
from raycodellm.tables.table import Table


def table_lines(table: Table, indent: str = "") -> list[str]:
    """The header and the rows, one line each, in columns as wide as their widest cell."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]

    def cell(text: str, column: int) -> str:
        return text.ljust(widths[column]) if column in table.left else text.rjust(widths[column])

    return [indent + "  ".join(cell(text, place) for place, text in enumerate(line)).rstrip() for line in lines]


def tree_lines(nodes: Iterable[StageNode], indent: str = "") -> list[str]:
    """One line per stage; a stage stands below its parent, further to the right."""
    return [
        line
        for node in nodes
        for line in (f"{indent}{node.name}  {node.facts}", *tree_lines(node.children, f"{indent}  "))
    ]
