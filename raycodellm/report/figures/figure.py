"""One plot, and the pieces that several plots are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

NUM_COLOURS = 7
GROUP_COLOURS = tuple(f"--group-{place}" for place in range(NUM_COLOURS))
"""Names of colours, which the page's style sheet gives a value each for light and for dark paper."""
GROUP_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down", "pentagon")
QUIET = "--soft"
"""Colour of lines and labels that stand behind the data."""
_DIGITS = 5
"""Significant digits of a number in a plot: more than a screen can show."""


@dataclass(frozen=True)
class Figure:
    """One plot. A colour in it that begins with `--` is a variable of the page's style sheet."""

    name: str
    """Identifier of the plot in the page."""
    title: str
    data: list[dict[str, Any]]
    """Plotly's traces. A trace's `points`, ("arms" or "trials", numbers), names the texts that its points show."""
    layout: dict[str, Any]
    """Plotly's layout."""
    caption: str = ""
    height: int = 0
    """Pixels; 0 for the height of most plots."""
    kind: ClassVar[str] = "figure"


def plain(values: Iterable[Any]) -> list[Any]:
    """The values as JSON has them, in few digits: null, where Plotly draws a gap, for NaN and infinity."""
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def as_markup(text: str) -> str:
    """`text` as Plotly shows it: Plotly would take some tags in it for markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def title(text: str) -> dict[str, str]:
    """A title in Plotly's layout."""
    return {"text": as_markup(text)}


def legend(parameter: str | None) -> dict[str, Any]:
    """The part of a layout that shows a legend, under the name of the parameter that gives the colours."""
    return (
        {"showlegend": True, "legend": {"title": {**title(f"{parameter}: "), "font": {"size": 12}}}}
        if parameter
        else {"showlegend": True}
    )


def points(kind: str, numbers: Sequence[int]) -> dict[str, Any]:
    """The part of a trace that shows, for each point, the text of an arm or a trial."""
    return {"points": [kind, list(numbers)], "hovertemplate": "%{text}<extra></extra>"}
