"""Writes a ladder's `report/index.html`, `report.md` and `ladder.json`, and the summary at the end of `run`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from raycodellm.config import write_yaml
from raycodellm.ladder import figure, tables, words
from raycodellm.ladder.effects import ArmEffects, LadderResult, read_result
from raycodellm.ladder.folder import LadderFolder
from raycodellm.report.html_page import Head, rendered
from raycodellm.report.markdown import rendered_markdown
from raycodellm.report.parts import Code, Section
from raycodellm.report.write import drawn_pictures, verdict_document
from raycodellm.statistics import ERROR, Interval
from raycodellm.storage_files import report_address
from raycodellm.tables import fitted, formats, table_lines
from raycodellm.tables.plain_json import finite_json
from raycodellm.verdict.marks import KEY

FORMAT = 2
"""Raised when a key of the report's `ladder.json` changes its meaning or goes."""
_EFFECTS_NOTE = (
    f"An arm's score minus the reference's at each size, by the verdict of that size's own sweep: its interval holds "
    f"for all arms and metrics of that size at once. Each size keeps its own error of 5 %. {KEY}."
)
_SCORES_NOTE = (
    "Each score with its 95 % interval, over items and seeds where the noise between seeds is known. Two scores whose "
    "intervals overlap may still differ: the effects above are paired."
)
_TREND_NOTE = (
    "Per tenfold size: the slope of a line through the effects over the logarithm of the parameters, each weighted by "
    "its seeds. Its interval holds the noise between seeds and over items, for the trends of all arms and metrics at "
    "once (Bonferroni)."
)
_ORDER_NOTE = (
    "Two arms are ordered alike where the same one is ahead at both sizes, in the first objective. The interval ends "
    "at the share of pairs whose order is known to be the same, and at the share of all but those known to differ: "
    "with 95 % probability every order that is called known is right."
)


def write_report(
    ladder: LadderFolder, say: Callable[[str], Any] = lambda line: None, pictures: str | None = None
) -> LadderResult:
    """Writes the joint report of the sizes, which may be unfinished; returns what the report is made of. `say` receives
    a line about each file that could not be read. `pictures`: as of `report.write_report`."""
    result = read_result(ladder)
    sections = _sections(result)
    folder = ladder.folder / "report"
    answer, cards = words.answer(result), _cards(result)
    folder.write_json("ladder.json", document(result))
    head = Head(ladder.name, ladder.folder.uri, answer, cards)
    folder.write_bytes("index.html", rendered(head, sections, {}, {}).encode())
    picture_files = drawn_pictures(folder, sections, pictures)
    folder.write_bytes("report.md", rendered_markdown(ladder.name, answer, cards, sections, picture_files).encode())
    for size in result.begun:
        for line in size.records.lost if size.records is not None else ():
            say(line)
    return result


def _sections(result: LadderResult) -> list[Section]:
    metrics = [objective.metric for objective in result.objectives]
    by_size, order = tables.effects(result, metrics), tables.order(result)
    note = f"{_EFFECTS_NOTE} {_TREND_NOTE}"
    sections = [
        Section("Effect by size", figure.effects_by_size(result), _EFFECTS_NOTE, is_first=True),
        Section("Effects", [by_size] if by_size.rows else [], note),
        Section("Scores by size", figure.scores_by_size(result), _SCORES_NOTE),
        Section("Order of the arms", [order] if order.rows else [], _ORDER_NOTE),
        Section("Sizes", [tables.sizes(result)], "Each size is a sweep of its own, with a report in its own folder."),
        Section("What a ladder cannot tell", [words.WHY_NO_PREDICTION]),
        Section("Effects in all metrics", _all_effects(result), note, is_folded=True),
        Section("Settings", [Code(write_yaml(result.ladder.facts.settings))], is_folded=True),
    ]
    return [section for section in sections if section.parts]


def _all_effects(result: LadderResult) -> list[Any]:
    table = tables.effects(result)
    return [table] if table.rows else []


def _cards(result: LadderResult) -> list[tuple[str, str]]:
    sizes = [size.facts.parameters for size in result.sizes]
    complete = sum(size.records.states["complete"] for size in result.begun if size.records is not None)
    failed = sum(size.records.states["failed"] for size in result.begun if size.records is not None)
    stopped = sum(size.records.states["pruned"] for size in result.begun if size.records is not None)
    failures_text = "".join(
        f", {number} {word}" for number, word in ((failed, "failed"), (stopped, "pruned")) if number
    )
    sizes_label = f"of {len(result.sizes)} sizes begun"
    return [
        (f"{len(result.begun)}", sizes_label),
        (f"{formats.count(min(sizes))} to {formats.count(max(sizes))}", "parameters"),
        (f"{len(result.arms)}", "arms beside the reference"),
        (f"{complete}", f"trials complete{failures_text}"),
    ]


def document(result: LadderResult) -> dict[str, Any]:
    """The content of the report's `ladder.json`, with null for each number that is not known."""
    content = {
        "format": FORMAT,
        "ladder": result.ladder.name,
        "answer": words.answer(result),
        "error": ERROR,
        "sizes": [
            {
                "preset": size.facts.preset,
                "sweep": size.facts.sweep,
                "parameters": size.facts.parameters,
                "tokens": size.facts.tokens,
                "verdict": None if size.records is None else verdict_document(size.records),
            }
            for size in result.sizes
        ],
        "effects": [_arm_document(arm) for arm in result.effects],
        "order": [
            {
                "smaller": small.preset,
                "larger": large.preset,
                "pairs": agreement.num_pairs,
                "alike": agreement.alike,
                "known_alike": agreement.known_alike,
                "known_different": agreement.known_different,
                **_interval("share", agreement.share),
            }
            for small, large, agreement in result.agreements
        ],
    }
    plain: dict[str, Any] = finite_json(content)
    return plain


def _arm_document(arm: ArmEffects) -> dict[str, Any]:
    slope = arm.trend.slope if arm.trend is not None else Interval(math.nan, math.nan, math.nan)
    return {
        "arm": arm.number,
        "params": dict(arm.params),
        "metric": arm.objective.metric,
        "mode": arm.objective.mode,
        "sizes": [
            {
                "preset": effect.size.preset,
                "parameters": effect.size.parameters,
                **_interval("difference", effect.difference),
                "verdict": effect.word,
            }
            for effect in arm.effects
        ],
        **_interval("per_tenfold_size", slope),
        "is_straight": None if arm.trend is None else arm.trend.is_straight,
    }


def _interval(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def summary_text(result: LadderResult, num_characters: int = 200) -> str:
    """The effects by size, the answer, and the path of the joint report."""
    table = tables.effects(result, [objective.metric for objective in result.objectives[:1]])
    lines = [*table_lines(fitted(table, num_characters, ("metric", "per tenfold size"))), KEY, ""] if table.rows else []
    lines += [f"report: {report_address(result.ladder.folder)}", words.answer(result)]
    return "\n".join(lines)
