"""The report's pages: one list of sections, written as HTML with figures or as Markdown without."""

from __future__ import annotations

import html as escaping
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

from raycodellm.report import figures, tables, text

if TYPE_CHECKING:
    from raycodellm.report import Records
    from raycodellm.report.ranking import ArmScore


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: tuple[int, ...] = (0,)
    """Columns of words; the others are numbers and go to the right."""
    first_is_best: bool = False


@dataclass(frozen=True)
class Bars:
    rows: list[tuple[str, float, str]]
    """Name, length, and how to write it."""


@dataclass(frozen=True)
class Tree:
    nodes: tuple[Any, ...]
    """`tables.StageNode`s."""


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Section:
    title: str
    parts: list[Any]
    """Strings (paragraphs), tables, figures, trees, bars, code."""
    note: str = ""
    folded: bool = False
    """Closed until asked for."""


def sections(records: Records) -> list[Section]:
    return [section for section in _all_sections(records) if section.parts]


def _all_sections(records: Records) -> list[Section]:
    objective = records.sweep.search.objectives[0]
    best = next((one for one in records.scores if one.score is not None), None)
    of_arm = f"of arm {best.arm}, first in rank" if best else "of the first trial"
    failed = records.states["failed"]
    ledger, phases = tables.ledger(records, best), tables.phases(records, best)
    return [
        Section("Ranking", _ranking(records, best) if best else [], _ranking_note(records)),
        Section(f"{objective.metric} by parameter", figures.scores(records) + figures.pareto(records)),
        Section(f"Tasks {of_arm}", [Table(*tables.tasks(records, best))] if best else [], _TASKS_NOTE),
        Section("Code ratio, planned and real", figures.code_ratios(records), _CODE_RATIO_NOTE),
        Section("Training loss", figures.losses(records), _LOSS_NOTE),
        Section(f"Ledger {of_arm}", [Table(*ledger, left=(0, 1, 2))] if ledger[1] else [], _LEDGER_NOTE),
        Section(f"Phases {of_arm}", [Table(*phases, left=(0, 2))] if phases[1] else [], folded=True),
        Section(
            "Sources", [Table(*tables.sources(records), left=(0, 1, 2, 5))] if records.stores else [], _SOURCES_NOTE
        ),
        Section("Documents left out", [Table(*tables.skipped(records))] if any(records.skipped.values()) else []),
        Section("Stage tree", _stage_tree(records)),
        Section("Failed trials", [Table(*tables.failures(records), left=(0, 1, 2, 3))] if failed else []),
        Section("Where the time went", [Bars(bars)] if (bars := tables.times(records)) else []),
        Section("All trials", [Table(*tables.trials(records), left=(0, 1))] if records.rows else [], folded=True),
        Section("Settings", [Code(records.run.read_text("sweep.yaml"))], folded=True),
        Section("What could not be read", list(records.lost)),  # last, since it grows while the others are made
    ]


_SEEDS_NOTE = (
    "Intervals cover 95 %, over evaluation items and seeds; the seeds' spread is taken as equal for all arms, and "
    "pooled. A difference is taken over the same items and, where arms share seeds, seed by seed: arms whose intervals "
    "overlap may still differ. Its interval holds for all arms at once, since the best was chosen by looking (Tukey's "
    "range): where no arm differs, at most 5 % of sweeps show a difference. ≈ marks arms that cannot be told from the "
    "best."
)
_ITEMS_NOTE = "Intervals cover 95 % over evaluation items alone; what another seed would have given is in none of them."
_TASKS_NOTE = "Chance is the accuracy of guessing. Items longer than the model's context are counted, and not scored."
_CODE_RATIO_NOTE = "First arm of each group. Dashed: planned. Solid: code's share of the tokens since the point before."
_LOSS_NOTE = "First arm in full colour, other arms pale. Loss is the mean over counted tokens since the point before."
_LEDGER_NOTE = (
    "Counted where the tokens were trained on. Unique: those that the trial had not seen before. "
    "Epochs: passes over the source, in this stage and before it."
)
_SOURCES_NOTE = (
    "The digest is of a builtin corpus's documents, and of any other source's files with how they are read. A builtin "
    "corpus is made of the installed Python: a module more or less moves scores as much as another seed does."
)


def _ranking(records: Records, best: ArmScore) -> list[Any]:
    unknown = text.unknown_noise(records.scores)
    table = Table(*tables.ranking(records), first_is_best=best.separable)
    return [unknown, table] if unknown else [table]


def _ranking_note(records: Records) -> str:
    return _ITEMS_NOTE if text.unknown_noise(records.scores) else _SEEDS_NOTE


def _stage_tree(records: Records) -> list[Any]:
    spent = records.savings
    if not spent.tokens_asked:
        return []
    said = (
        f"All trials asked for {text.count(spent.tokens_asked)} tokens of finished stages; "
        f"{text.count(spent.tokens_trained)} were trained. Sharing equal stages saved "
        f"{text.count(spent.tokens_saved)} tokens ({spent.tokens_saved / spent.tokens_asked:.0%}) and "
        f"{text.seconds(spent.seconds_saved)} of device time."
    )
    return [said, Tree(tables.stage_tree(records))]


# ------------------------------------------------------------------------------------------------- HTML


def html(records: Records, found: Sequence[Section]) -> str:
    drawn = {part.name: {"data": part.data, "layout": part.layout} for one in found for part in _figures(one)}
    template = resources.files("raycodellm").joinpath("report_template.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=_safe(records.sweep.name),
        where=_safe(f"raycodellm · {records.run.uri}"),
        answer=_safe(text.answer(records.scores, records.sweep.search.objectives)),
        cards="".join(
            f'<div class="card"><b>{_safe(value)}</b><span>{_safe(label)}</span></div>'
            for value, label in tables.cards(records)
        ),
        body="\n".join(map(_section_html, found)),
        figures=_script_json(drawn),
        plotly=f"<script>{_plotly()}</script>" if drawn else "<script>var Plotly = null;</script>",
    )


def _script_json(value: Any) -> str:
    """JSON that ends no script element and begins no comment in one, as `</script>` and `<!--<script>` would."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _plotly() -> str:
    """The library itself, without the addresses in it (of map tiles, logos, licences): nothing here opens them."""
    source = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    return re.sub(r"https?://(?!www\.w3\.org/)", "about:blank#", source)


def _figures(section: Section) -> list[figures.Figure]:
    return [part for part in section.parts if isinstance(part, figures.Figure)]


def _safe(value: str) -> str:
    return escaping.escape(value)


def _section_html(section: Section) -> str:
    drawn = _figures(section)
    inner = "".join(_part_html(part) for part in section.parts if part not in drawn)
    if drawn:
        wide = " wide" if len(drawn) == 1 else ""
        inner += f'<div class="figures{wide}">{"".join(map(_figure_html, drawn))}</div>'
    if section.note:
        inner += f'<p class="note">{_safe(section.note)}</p>'
    if section.folded:
        inner = f"<details><summary>Show</summary>{inner}</details>"
    return f"<section><h2>{_safe(section.title)}</h2>{inner}</section>"


def _figure_html(figure: figures.Figure) -> str:
    caption = f"<figcaption>{_safe(figure.caption)}</figcaption>" if figure.caption else ""
    title = f"<h3>{_safe(figure.title)}</h3>" if figure.title else ""
    return f'<figure>{title}<div class="plot" id="{figure.name}"></div>{caption}</figure>'


def _part_html(part: Any) -> str:
    if isinstance(part, str):
        return f"<p>{_safe(part)}</p>"
    if isinstance(part, Table):
        return _table_html(part)
    if isinstance(part, Bars):
        longest = max(length for _, length, _ in part.rows) or 1.0
        rows = "".join(
            f'<tr><td class="left">{_safe(name)}</td><td>{_safe(said)}</td>'
            f'<td class="bar"><i style="width:{100 * length / longest:.1f}%"></i></td></tr>'
            for name, length, said in part.rows
        )
        return f'<div class="scroll"><table style="width:100%">{rows}</table></div>'
    if isinstance(part, Tree):
        return f'<ul class="tree">{"".join(map(_node_html, part.nodes))}</ul>'
    return f"<pre>{_safe(part.text)}</pre>"


def _table_html(table: Table) -> str:
    def cell(tag: str, place: int, value: str) -> str:
        names = [name for name, on in (("left", place in table.left), ("long", tag == "td" and len(value) > 60)) if on]
        # Long names of parameters may break after a dot.
        shown = re.sub(r"[._/](?=\w)", r"\g<0><wbr>", _safe(value)) if tag == "th" else _safe(value)
        return f'<{tag} class="{" ".join(names)}">{shown}</{tag}>'

    head = "".join(cell("th", place, name) for place, name in enumerate(table.header))
    rows = "".join(
        f'<tr class="{"first" if table.first_is_best and number == 0 else ""}">'
        + "".join(cell("td", place, value) for place, value in enumerate(row))
        + "</tr>"
        for number, row in enumerate(table.rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _node_html(node: tables.StageNode) -> str:
    inner = f"<ul>{''.join(map(_node_html, node.children))}</ul>" if node.children else ""
    return f"<li><b>{_safe(node.name)}</b> <span>{_safe(node.facts)}</span>{inner}</li>"


# ------------------------------------------------------------------------------------------------- Markdown


def markdown(records: Records, found: Sequence[Section]) -> str:
    answer = text.answer(records.scores, records.sweep.search.objectives)
    lines = [f"# {_plain(records.sweep.name)}", "", _plain(answer), ""]
    lines += [f"- **{_plain(value)}** {_plain(label)}" for value, label in tables.cards(records)]
    for section in found:
        parts = [part for part in section.parts if not isinstance(part, figures.Figure)]
        if parts:
            lines += ["", f"## {_plain(section.title)}"]
            for part in parts:
                lines += ["", *_part_markdown(part)]
            lines += ["", _plain(section.note)] if section.note else []
    return "\n".join(lines) + "\n"


_MARKUP = str.maketrans({"|": "&#124;", "[": "&#91;", "]": "&#93;", "`": "&#96;", "*": "&#42;", "\\": "&#92;"})


def _plain(value: str) -> str:
    """The text of one line as Markdown shows it: no HTML, link, picture, code or table cell begins or ends in it."""
    return " ".join(escaping.escape(value, quote=False).split()).translate(_MARKUP)


def _part_markdown(part: Any) -> list[str]:
    if isinstance(part, str):
        return [_plain(part)]
    if isinstance(part, Table):
        return _table_markdown(part)
    if isinstance(part, Bars):
        return _table_markdown(Table(("part", "time"), [(name, said) for name, _, said in part.rows]))
    if isinstance(part, Tree):
        return [line for node in part.nodes for line in _node_markdown(node, 0)]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", part.text)), default=0))
    return [f"{fence}yaml", part.text.rstrip(), fence]


def _table_markdown(table: Table) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(_plain, cells)) + " |"

    rule = "|" + "|".join(":--" if place in table.left else "--:" for place in range(len(table.header))) + "|"
    return [row(table.header), rule, *map(row, table.rows)]


def _node_markdown(node: tables.StageNode, depth: int) -> list[str]:
    below = [line for child in node.children for line in _node_markdown(child, depth + 1)]
    return [f"{'  ' * depth}- **{_plain(node.name)}** {_plain(node.facts)}", *below]
