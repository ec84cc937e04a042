"""Renders tables and trees as lines of text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from raycodellm.tables.stage_tree import StageNode
from raycodellm.tables.table import Table


def table_lines(table: Table, indent: str = "") -> list[str]:
    """The header and the rows, one line each, in columns as wide as their widest cell."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]

    def cell(text: str, column: int) -> str:
        return text.ljust(widths[column]) if column in table.left else text.rjust(widths[column])

    return [indent + "  ".join(cell(text, place) for place, text in enumerate(line)).rstrip() for line in lines]


def fitted(table: Table, num_characters: int, dispensable: Sequence[str]) -> Table:
    """The table without as many of the `dispensable` columns, the first ones first, as make it fit into the width."""
    for name in dispensable:
        lines = [table.header, *table.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
        if sum(widths) + 2 * len(widths) <= num_characters:
            break
        columns = [place for place, title in enumerate(table.header) if title != name]
        table = replace(
            table,
            header=tuple(table.header[place] for place in columns),
            rows=[tuple(row[place] for place in columns) for row in table.rows],
            left=tuple(place for place, old in enumerate(columns) if old in table.left),
        )
    return table


def tree_lines(nodes: Iterable[StageNode], indent: str = "") -> list[str]:
    """One line per stage, its facts in a column; a stage stands below its parent, further to the right."""
    named = list(_indented_names(nodes, indent))
    width = max((len(name) for name, _ in named), default=0)
    return [f"{name:{width}}  {facts}" for name, facts in named]


def _indented_names(nodes: Iterable[StageNode], indent: str) -> Iterator[tuple[str, str]]:
    for node in nodes:
        yield f"{indent}{node.name}", node.facts
        yield from _indented_names(node.children, f"{indent}  ")
