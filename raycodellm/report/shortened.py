"""Keeps the page of a sweep of thousands of trials small enough to open: long tables are cut, and say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raycodellm.report.parts import Part, Section, Tree
from raycodellm.tables import StageNode, Table

MOST_ROWS = 1_000
"""Rows of a table, and stages of the tree. A row takes some 300 bytes of the page."""


def shortened(section: Section) -> Section:
    """The section, whose tables and tree have at most `MOST_ROWS` rows, with a sentence above each that lost some."""
    parts: list[Part] = []
    for part in section.parts:
        if isinstance(part, Table) and len(part.rows) > MOST_ROWS:
            parts += [_cut_sentence(len(part.rows), "rows"), part.first(MOST_ROWS)]
        elif isinstance(part, Tree) and (num_stages := _num_stages(part.nodes)) > MOST_ROWS:
            parts += [_cut_sentence(num_stages, "stages"), Tree(_top_stages(part.nodes, MOST_ROWS))]
        else:
            parts.append(part)
    return replace(section, parts=parts)


def _cut_sentence(number: int, things: str) -> str:
    return (
        f"The first {MOST_ROWS:,} of {number:,} {things} are shown, since a page of all of them would hardly open; "
        "`trials.parquet` in the run folder has every trial."
    )


def _num_stages(nodes: Sequence[StageNode]) -> int:
    return sum(1 + _num_stages(node.children) for node in nodes)


def _top_stages(nodes: Sequence[StageNode], most: int) -> tuple[StageNode, ...]:
    """The first `most` stages, counted from above as a reader does."""
    first_stages: list[StageNode] = []
    for node in nodes:
        if most <= 0:
            break
        stage = replace(node, children=_top_stages(node.children, most - 1))
        first_stages.append(stage)
        most -= 1 + _num_stages(stage.children)
    return tuple(first_stages)
