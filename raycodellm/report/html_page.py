"""Renders the report's sections as one HTML page that opens without a network."""

from __future__ import annotations

import base64
import gzip
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from raycodellm.report import figures
from raycodellm.report.answer import answer_so_far
from raycodellm.report.figures import Curves, Figure
from raycodellm.report.opening import Line, opening
from raycodellm.report.parts import Section
from raycodellm.report.records import Records
from raycodellm.report.tables import cards

LONG_CELL = 60
"""Characters from which on a cell's text is broken into lines."""


def html_page(records: Records, sections: Sequence[Section], reload_seconds: int | None = None) -> str:
    """The text of `index.html`. With `reload_seconds` an open page loads itself again after so many seconds."""
    parts = [part for section in sections for part in section.parts]
    hover = figures.hover_texts(records) if any(isinstance(part, Figure) for part in parts) else {}
    curves = figures.curve_data(records) if any(isinstance(part, Curves) for part in parts) else {}
    head = Head(records.sweep.name, records.run.uri, answer_so_far(records), cards(records), opening(records))
    return rendered(head, sections, hover, curves, reload_seconds)


@dataclass(frozen=True)
class Head:
    """The head of a page: its subject and its answer."""

    name: str
    where: str
    """URI of the folder."""
    answer: str
    cards: Sequence[tuple[str, str]]
    """Figures beside the answer, each with its label."""
    lines: Sequence[Line] = ()
    """The lines under the answer."""


def rendered(
    head: Head,
    sections: Sequence[Section],
    hover: Mapping[str, Any],
    curve_data: Mapping[str, Any],
    reload_seconds: int | None = None,
) -> str:
    """The text of a page. `hover`: the texts that the figures' `points` name; `curve_data`: the points of the curves
    among the sections."""
    parts = [part for section in sections for part in section.parts]
    drawn = [part for part in parts if isinstance(part, Figure)]
    curves = [part for part in parts if isinstance(part, Curves)]
    data = {
        "figures": {figure.name: {"data": figure.data, "layout": figure.layout} for figure in drawn},
        "plots": {
            plot.name: {"stage": plot.stage, "quantity": plot.quantity, "y": plot.y_title, "options": plot.options}
            for plot in curves
        },
        "hover": hover,
        "curves": curve_data,
    }
    return _template().render(
        name=head.name,
        where=head.where,
        answer=head.answer,
        cards=head.cards,
        lines=head.lines,
        sections=sections,
        reload_seconds=reload_seconds,
        written=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        css=_package_text("page.css"),
        js=_package_text("page.js"),
        data=packed(json.dumps(data, allow_nan=False, separators=(",", ":"))),
        plotly=packed_plotly() if drawn or curves else "",
    )


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("raycodellm", "report/page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(breakable=_breakable, is_long=lambda text: len(text) > LONG_CELL)
    return environment.get_template("page.html.j2")


def _package_text(name: str) -> Markup:
    """A file of the package that goes into the page as it is."""
    return Markup(resources.files("raycodellm").joinpath("report", "page", name).read_text(encoding="utf-8"))


def _breakable(text: str) -> Markup:
    """A column's name, which may break after a dot, as the names of parameters do."""
    return Markup(re.sub(r"[._/](?=\w)", r"\g<0><wbr>", str(escape(text))))


def packed(text: str) -> str:
    """The text compressed, in letters that end no element of a page; browsers unpack it with `DecompressionStream`."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


@cache
def packed_plotly() -> str:
    """Plotly's JavaScript: 2.0 MB of the page, where 4.8 MB would leave no room for the curves of large sweeps."""
    return packed(resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8"))
