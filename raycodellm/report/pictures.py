"""Draws the report's figures as SVG or PNG files, on light paper and without a browser.

`Figure` holds Plotly's JSON, and Plotly draws pictures only with a browser. So matplotlib draws the part of it that the
figures use: markers, lines, areas, error bars and bars, over linear, logarithmic and named axes, in several plots.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.report.figures import Figure

FOLDER = "pictures"
"""Folder of the pictures, inside the report's."""
KINDS = ("svg", "png")
_WIDTH, _HEIGHT = 1000, 400
"""Pixels of a picture, the height where its figure has none of its own."""
_DOTS_PER_INCH = 100
_LEGEND_CHARACTERS = 150
"""Letters that stand side by side above a plot."""
_DOTS_OF_PNG = 200
_SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "cross": "P",
    "x": "X",
    "x-thin": "x",
    "star": "*",
    "pentagon": "p",
}
_DASHES = {"dot": ":", "dash": "--", "dashdot": "-."}


def write_pictures(folder: Folder, figures: Iterable[Figure], kind: str) -> dict[str, str]:
    """Writes each figure into `folder`/pictures; maps their names to the files, relative to `folder`.

    Raises `UserError` for another kind than `KINDS`, and where matplotlib is not installed.
    """
    if kind not in KINDS:
        raise UserError(f"--pictures: found {kind}; give {' or '.join(KINDS)}")
    paths = {}
    for figure in figures:
        path = f"{FOLDER}/{figure.name}.{kind}"
        (folder / FOLDER).write_bytes(f"{figure.name}.{kind}", picture(figure, kind))
        paths[figure.name] = path
    return paths


def picture(figure: Figure, kind: str = "svg") -> bytes:
    """The figure as a file. Equal figures give equal files."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Paper
    except ImportError as error:
        raise UserError("pictures need matplotlib; install it: pip install 'matplotlib>=3.10'") from error
    # Letters stay letters in an SVG file: it is small, and its text can be searched.
    settings: Any = {"svg.hashsalt": figure.name, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    with mpl.rc_context(settings):
        size = _WIDTH / _DOTS_PER_INCH, (figure.height or _HEIGHT) / _DOTS_PER_INCH
        paper = Paper(figsize=size, dpi=_DOTS_PER_INCH, facecolor=_colour("--paper"))
        _Drawing(paper, figure).draw()
        out = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        dots = _DOTS_OF_PNG if kind == "png" else _DOTS_PER_INCH
        paper.savefig(out, format=kind, dpi=dots, metadata=metadata, bbox_inches="tight", pad_inches=0.1)
    return out.getvalue()


class _Drawing:
    """One figure on one sheet."""

    def __init__(self, paper: Any, figure: Figure) -> None:
        self.paper, self.layout, self.traces = paper, figure.layout, figure.data
        self.plots: dict[tuple[str, str], Any] = {}
        self.labels: dict[str, Any] = {}
        """Maps the legend's names to what stands for them."""

    def draw(self) -> None:
        for trace in self.traces:
            axes = self._plot(trace.get("xaxis", "x"), trace.get("yaxis", "y"))
            (_draw_bars if trace["type"] == "bar" else _draw_points)(axes, trace, self.labels)
        for shape in self.layout.get("shapes", ()):
            self._draw_line(shape)
        for note in self.layout.get("annotations", ()):
            self._write_note(note)
        if self.layout.get("showlegend") and self.labels:
            heading = _text(self.layout.get("legend", {}).get("title", {}).get("text", ""))
            first = next(iter(self.plots.values()))
            place = {"bbox_to_anchor": (0.0, 1.0), "bbox_transform": self.paper.transFigure}
            if len(self.plots) == 1:
                place = {"bbox_to_anchor": (0.0, 1.01), "bbox_transform": first.transAxes}
            legend = first.legend(
                self.labels.values(),
                self.labels.keys(),
                title=heading or None,
                alignment="left",
                loc="lower left",
                ncols=max(1, min(6, _LEGEND_CHARACTERS // (6 + max(map(len, self.labels))))),
                frameon=False,
                **place,
            )
            for handle in legend.legend_handles:
                if hasattr(handle, "set_sizes"):  # points grow with their seeds, those of the legend do not
                    handle.set_sizes([36.0])

    def _plot(self, x: str, y: str) -> Any:
        """The plot that a trace belongs to, by Plotly's names of its axes."""
        if (x, y) not in self.plots:
            across, up = self._axis(x), self._axis(y)
            (left, right), (bottom, top) = across.get("domain", (0.0, 1.0)), up.get("domain", (0.0, 1.0))
            self.plots[x, y] = axes = self.paper.add_axes((left, bottom, right - left, top - bottom), label=f"{x} {y}")
            is_labelled = across.get("anchor", "y") == y and up.get("anchor", "x") == x
            _prepare(axes, across, up, is_labelled)
        return self.plots[x, y]

    def _axis(self, name: str) -> Mapping[str, Any]:
        axis: Mapping[str, Any] = self.layout.get(f"{name[0]}axis{name[1:]}", {})
        return axis

    def _draw_line(self, shape: Mapping[str, Any]) -> None:
        style = shape["line"]
        xs, ys = [shape["x0"], shape["x1"]], [shape["y0"], shape["y1"]]
        x_name, y_name = (shape.get(ref, name).removesuffix(" domain") for ref, name in (("xref", "x"), ("yref", "y")))
        first = next(iter(self.plots))
        axes = self.plots.get((x_name if x_name != "paper" else first[0], y_name if y_name != "paper" else first[1]))
        if axes is None:
            return
        draw = {"color": _colour(style["color"]), "linewidth": style["width"], "zorder": 1}
        draw["linestyle"] = _DASHES.get(style.get("dash", ""), "-")
        is_wide = shape.get("xref", "x").endswith(("paper", "domain"))
        is_high = shape.get("yref", "y").endswith(("paper", "domain"))
        transform = axes.get_yaxis_transform() if is_wide else axes.get_xaxis_transform() if is_high else axes.transData
        axes.plot(xs, ys, transform=transform, **draw)

    def _write_note(self, note: Mapping[str, Any]) -> None:
        axes = next(iter(self.plots.values()))
        size = note.get("font", {}).get("size", 12) * 0.75
        aligned = {
            "ha": note.get("xanchor", "center"),
            "va": {"middle": "center", "auto": "center"}.get(place := note.get("yanchor", "center"), place),
        }
        text = _text(note["text"])
        if note.get("showarrow"):
            x = 10 ** note["x"] if axes.get_xscale() == "log" else note["x"]
            x = axes.named_x.index(_text(x)) if axes.named_x and isinstance(x, str) else x
            shift = (note.get("ax", 0) * 0.75, -note.get("ay", 0) * 0.75)
            arrow = {"arrowstyle": "-", "color": _colour(note["arrowcolor"])}
            axes.annotate(
                text,
                (x, note["y"]),
                xytext=shift,
                textcoords="offset points",
                arrowprops=arrow,
                ha="center",
                va="center",
            )
        elif note.get("yref", "y") == "paper":
            self.paper.text(note["x"], note["y"], text, fontsize=size, fontweight="bold", **aligned)
        else:
            axes.text(note["x"], note["y"], text, fontsize=size, transform=axes.get_yaxis_transform(), **aligned)


# ------------------------------------------------------------------------------------------------- plots


def _prepare(axes: Any, across: Mapping[str, Any], up: Mapping[str, Any], is_labelled: bool) -> None:
    """Axes as the layout describes them. `is_labelled`: False where another plot in the row has the labels."""
    axes.named_x, axes.named_y = (list(map(_text, settings.get("categoryarray", ()))) for settings in (across, up))
    axes.set_facecolor("none")
    axes.grid(color=_colour("--grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_colour("--axis"))
    axes.tick_params(which="both", color=_colour("--axis"), labelcolor=_colour("--ink"))
    axes.set_xlabel(_text(across.get("title", {}).get("text", "")))
    axes.set_ylabel(_text(up.get("title", {}).get("text", "")))
    for settings, name, axis in ((across, "x", axes.xaxis), (up, "y", axes.yaxis)):
        if settings.get("type") == "log":
            getattr(axes, f"set_{name}scale")("log")
            axis.set_major_formatter(_plain_number)
            axis.set_minor_formatter(_plain_number)
        if "range" in settings:
            ends = [10**end for end in settings["range"]] if settings.get("type") == "log" else settings["range"]
            getattr(axes, f"set_{name}lim")(*ends)
        if "tickvals" in settings:
            getattr(axes, f"set_{name}ticks")(settings["tickvals"], list(map(_text, settings["ticktext"])))
            getattr(axes, f"set_{name}ticks")([], minor=True)
        if "nticks" in settings:
            axes.locator_params(axis=name, nbins=settings["nticks"])
        if "tickformat" in settings:
            axis.set_major_formatter(lambda value, place: f"{value:.0%}")
        if settings.get("autorange") == "reversed":
            axis.set_inverted(True)
        if settings.get("visible") is False:
            axes.set_axis_off()
    if axes.named_y:
        axes.set_yticks(range(len(axes.named_y)), axes.named_y)
    if not is_labelled and axes.named_y:
        axes.tick_params(labelleft=False)


def _plain_number(value: float, place: int) -> str:
    """A tick of a logarithmic axis: 0.02 and not 2 × 10⁻²; of ten ticks the first, second and fifth."""
    first = f"{value:e}"[0]
    return f"{value:g}" if first in "125" else ""


def _draw_points(axes: Any, trace: Mapping[str, Any], labels: dict[str, Any]) -> None:
    xs, ys = _places(axes, "x", trace["x"]), _places(axes, "y", trace["y"])
    handle: Any = None
    if trace.get("fill") == "toself":
        axes.fill(xs, ys, color=_colour(trace["fillcolor"]), alpha=trace.get("opacity", 1.0), linewidth=0, zorder=1.5)
        return
    if "lines" in trace["mode"]:
        line = trace["line"]
        steps = "steps-post" if line.get("shape") == "hv" else "default"
        dashes = _DASHES.get(line.get("dash", ""), "-")
        style = {"color": _colour(line["color"]), "linewidth": line["width"], "linestyle": dashes}
        (handle,) = axes.plot(xs, ys, drawstyle=steps, zorder=2, **style)
    if "markers" in trace["mode"]:
        for name, horizontal in (("error_x", True), ("error_y", False)):
            if name in trace:
                _draw_error_bars(axes, xs, ys, trace[name], horizontal, trace["marker"])
        handle = _draw_markers(axes, xs, ys, trace)
    if trace.get("showlegend", True) and trace.get("name"):
        labels.setdefault(_text(trace["name"]), handle)


def _draw_markers(axes: Any, xs: Sequence[float], ys: Sequence[float], trace: Mapping[str, Any]) -> Any:
    marker = trace["marker"]
    symbol = str(marker.get("symbol", "circle"))
    colour = _colour(marker.get("color") or marker["line"]["color"])
    is_open, size = symbol.endswith("-open"), marker.get("size", 6)
    # Plotly's size is a diameter in pixels, matplotlib's an area in points.
    areas = [(diameter * 0.72) ** 2 for diameter in size] if isinstance(size, list) else (size * 0.72) ** 2
    style: dict[str, Any] = {"marker": _SYMBOLS[symbol.removesuffix("-open")], "s": areas, "zorder": 3}
    if symbol == "x-thin":
        style["color"] = colour
    else:
        edge = colour if is_open else _colour(marker.get("line", {}).get("color", "--paper"))
        style |= {"facecolors": "none" if is_open else colour, "edgecolors": edge, "linewidths": 1.0}
    return axes.scatter(xs, ys, alpha=marker.get("opacity", 1.0), **style)


def _draw_error_bars(
    axes: Any,
    xs: Sequence[float],
    ys: Sequence[float],
    bars: Mapping[str, Any],
    is_horizontal: bool,
    marker: Mapping[str, Any],
) -> None:
    above = [length or 0.0 for length in bars["array"]]
    below = [length or 0.0 for length in bars.get("arrayminus", above)]
    colour = _colour(bars.get("color") or marker["color"])
    errors = {"xerr" if is_horizontal else "yerr": (below, above)}
    width = bars.get("thickness", 1)
    axes.errorbar(
        xs, ys, fmt="none", ecolor=colour, elinewidth=width, capsize=bars.get("width", 0), zorder=2.5, **errors
    )


def _draw_bars(axes: Any, trace: Mapping[str, Any], labels: dict[str, Any]) -> None:
    """Horizontal bars, those of several traces one below the other."""
    names = list(map(_text, trace["y"]))
    axes.named_y = axes.named_y or names
    number = len(labels)
    places = [axes.named_y.index(name) + 0.38 * number for name in names]
    values = [value or 0.0 for value in trace["x"]]
    labels[_text(trace["name"])] = axes.barh(places, values, 0.36, color=_colour(trace["marker"]["color"]))
    axes.set_yticks([place + 0.19 for place in range(len(axes.named_y))], axes.named_y)


def _places(axes: Any, name: str, values: Sequence[Any]) -> list[float]:
    """Numbers along an axis: of names their places among the axis' names, which they join."""
    if not any(isinstance(value, str) for value in values):
        return [math.nan if value is None else float(value) for value in values]
    names = axes.named_x if name == "x" else axes.named_y
    for value in map(_text, values):
        if value not in names:
            names.append(value)
    getattr(axes, f"set_{name}ticks")(range(len(names)), names)
    return [float(names.index(_text(value))) for value in values]


def _text(marked: Any) -> str:
    """The words of a text in Plotly's markup. Dollar signs are no formulas."""
    words = re.sub(r"<br ?/?>", "\n", str(marked))
    return html.unescape(re.sub(r"</?[a-z]+>", "", words)).replace("$", r"\$")


@cache
def _paper_colours() -> dict[str, str]:
    """The colours of light paper, from the page's style sheet."""
    css = resources.files("raycodellm").joinpath("report", "page", "page.css").read_text(encoding="utf-8")
    light = css.partition("}")[0]
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", light))


def _colour(name: str) -> str:
    return _paper_colours()[name] if name.startswith("--") else name
