"""Renders the report's sections as one HTML page that opens without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from raycodellm.report.answer import answer
from raycodellm.report.figures import Figure
from raycodellm.report.records import Records
from raycodellm.report.sections import Bars, Code, Part, Section, Tree
from raycodellm.report.tables import cards
from raycodellm.tables import StageNode, Table

LONG_CELL = 60
"""Characters from which on a cell's text is broken into lines."""


def html_page(records: Records, sections: Sequence[Section]) -> str:
    """The text of `index.html`."""
    drawn = {one.name: {"data": one.data, "layout": one.layout} for section in sections for one in _figures(section)}
    template = resources.files("raycodellm").joinpath("report", "template.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(records.sweep.name),
        where=escape(f"raycodellm · {records.run.uri}"),
        answer=escape(answer(records.scores, records.sweep.search.objectives)),
        cards="".join(
            f'<div class="card"><b>{escape(value)}</b><span>{escape(label)}</span></div>'
            for value, label in cards(records)
        ),
        body="\n".join(map(_section, sections)),
        figures=_script_json(drawn),
        plotly=f"<script>{plotly_source()}</script>" if drawn else "<script>var Plotly = null;</script>",
    )


def _script_json(value: Any) -> str:
    """JSON without `<`, so that no `</script>` ends the element and no `<!--<script>` begins a comment in it."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def plotly_source() -> str:
    """Plotly's JavaScript without the addresses of map tiles, logos and licences, which the page does not open."""
    source = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    return re.sub(r"https?://(?!www\.w3\.org/)", "about:blank#", source)


def _figures(section: Section) -> list[Figure]:
    return [part for part in section.parts if isinstance(part, Figure)]


def _section(section: Section) -> str:
    figures = _figures(section)
    inner = "".join(_part(part) for part in section.parts if not isinstance(part, Figure))
    if figures:
        wide = " wide" if len(figures) == 1 else ""
        inner += f'<div class="figures{wide}">{"".join(map(_part, figures))}</div>'
    if section.note:
        inner += f'<p class="note">{escape(section.note)}</p>'
    if section.is_folded:
        inner = f"<details><summary>Show</summary>{inner}</details>"
    return f"<section><h2>{escape(section.title)}</h2>{inner}</section>"


def _part(part: Part) -> str:
    match part:
        case str():
            return f"<p>{escape(part)}</p>"
        case Table():
            return _table(part)
        case Figure():
            caption = f"<figcaption>{escape(part.caption)}</figcaption>" if part.caption else ""
            title = f"<h3>{escape(part.title)}</h3>" if part.title else ""
            return f'<figure>{title}<div class="plot" id="{part.name}"></div>{caption}</figure>'
        case Bars():
            return _bars(part)
        case Tree():
            return f'<ul class="tree">{"".join(map(_node, part.nodes))}</ul>'
        case Code():
            return f"<pre>{escape(part.text)}</pre>"


def _bars(bars: Bars) -> str:
    longest = max(length for _, length, _ in bars.rows) or 1.0
    rows = "".join(
        f'<tr><td class="left">{escape(name)}</td><td>{escape(duration)}</td>'
        f'<td class="bar"><i style="width:{100 * length / longest:.1f}%"></i></td></tr>'
        for name, length, duration in bars.rows
    )
    return f'<div class="scroll"><table style="width:100%">{rows}</table></div>'


def _table(table: Table) -> str:
    def cell(tag: str, place: int, text: str) -> str:
        classes = {"left": place in table.left, "long": tag == "td" and len(text) > LONG_CELL}
        # The name of a parameter may break after a dot.
        shown = re.sub(r"[._/](?=\w)", r"\g<0><wbr>", escape(text)) if tag == "th" else escape(text)
        return f'<{tag} class="{" ".join(name for name, on in classes.items() if on)}">{shown}</{tag}>'

    head = "".join(cell("th", place, name) for place, name in enumerate(table.header))
    rows = "".join(
        f'<tr class="{"first" if table.is_first_best and number == 0 else ""}">'
        + "".join(cell("td", place, text) for place, text in enumerate(row))
        + "</tr>"
        for number, row in enumerate(table.rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _node(node: StageNode) -> str:
    inner = f"<ul>{''.join(map(_node, node.children))}</ul>" if node.children else ""
    return f"<li><b>{escape(node.name)}</b> <span>{escape(node.facts)}</span>{inner}</li>"
