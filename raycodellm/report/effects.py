"""Differences by task: what each arm changes in each task, and the tasks in which it goes another way than overall."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from raycodellm import verdict
from raycodellm.report.figures.figure import Figure
from raycodellm.report.figures.forest import MOST_ARMS, Line, Panel, arm_labels, arm_words, forest
from raycodellm.report.records import Records
from raycodellm.tables import Cell, Table, formats
from raycodellm.verdict import MARKS, Transfer, Verdict, family_metrics

_COLUMNS = 4
_MOST_TASKS = 24
"""Tasks that the picture shows."""
NOTE = (
    "Difference to arm {base} ± half its interval, which holds for all arms and metrics at once (and for all looks, of "
    "a confirmation). ▲ better, ▼ worse, = equal within the margin, ≈ not known."
)
TRANSFER_NOTE = (
    "Against: a task in which the arm's verdict is the opposite of the overall one; of an arm that is overall neither "
    "better nor worse, all tasks that are known to be better or worse, if there are both. Perhaps: the mean goes "
    "against the overall verdict, and the interval includes 0. All intervals hold at once, for all arms and metrics."
)


def parts(records: Records) -> list[str | Figure | Table]:
    """Picture and table of all arms and tasks; nothing where no verdict is given."""
    found = records.known.verdicts
    told = {one.metric for one in found}
    every = family_metrics(records.rows, records.sweep.search.objectives)
    metrics = [one for one in every if one in told and _is_shown(records, one)]
    if len(metrics) < 2:
        return []
    by_pair = {(one.arm, one.metric): one for one in found}
    arms = [one.arm for one in records.scores if (one.arm, metrics[0]) in by_pair]
    return [*_figure(records, by_pair, arms[:MOST_ARMS], metrics), _table(records, by_pair, arms, metrics)]


def _is_shown(records: Records, metric: str) -> bool:
    return metric == records.sweep.search.objectives[0].metric or verdict.is_task(records.file, metric)


def _figure(
    records: Records, found: dict[tuple[int, str], Verdict], arms: Sequence[int], metrics: Sequence[str]
) -> list[Figure]:
    labels = arm_labels(records, arms)
    panels = [
        Panel(
            _short(metric, metrics),
            [
                Line(labels[arm], found[arm, metric].difference, found[arm, metric].word)
                for arm in arms
                if (arm, metric) in found
            ],
        )
        for metric in metrics[:_MOST_TASKS]
    ]
    caption = "Points: differences. Bars: corrected intervals. Each plot has a scale of its own."
    return forest("effects", panels, _kind(metrics), _COLUMNS, caption)


def _table(
    records: Records, found: dict[tuple[int, str], Verdict], arms: Sequence[int], metrics: Sequence[str]
) -> Table:
    params = {one.arm: one.params for one in records.scores}
    rows = [
        (
            Cell(str(arm), arm),
            arm_words(records, params[arm]),
            *(_cell(found.get((arm, metric))) for metric in metrics),
        )
        for arm in arms
    ]
    return Table(("arm", "differs in", *(_short(metric, metrics) for metric in metrics)), rows, left=(0, 1))


def _cell(one: Verdict | None) -> Cell:
    if one is None or math.isnan(one.difference.value):
        return Cell(formats.NOTHING)
    half = (one.difference.high - one.difference.low) / 2
    known = "" if math.isnan(half) else f" ± {half:.3f}"
    kind = one.word.replace(" ", "-")
    return Cell(f"{one.difference.value:+.3f}{known}{MARKS[one.word]}", one.difference.value, kind)


def _short(metric: str, metrics: Sequence[str]) -> str:
    """The task's name alone, where all metrics are of one kind."""
    return metric.rpartition("/")[0] if len({one.rpartition("/")[2] for one in metrics}) == 1 else metric


def _kind(metrics: Sequence[str]) -> str:
    kinds = {one.rpartition("/")[2] for one in metrics}
    return f"difference in {kinds.pop()}" if len(kinds) == 1 else "difference"


# ------------------------------------------------------------------------------------------------- negative transfer


def transfer_parts(records: Records) -> list[str | Table]:
    """The answer in a sentence, and the tasks that go against an arm's overall verdict."""
    given = [one for one in records.known.verdicts if _is_shown(records, one.metric)]
    if not any(verdict.is_task(records.file, one.metric) for one in given):
        return []
    found = verdict.transfers(records.file, given)
    place = {one.arm: number for number, one in enumerate(records.scores)}
    found = tuple(sorted(found, key=lambda one: place.get(one.overall.arm, len(place))))
    said = _transfer_sentence(found)
    return [said, _transfer_table(records, found)] if found else [said]


def _transfer_sentence(found: Sequence[Transfer]) -> str:
    known = [one for one in found if one.is_known]
    if not known:
        maybe = f" Of {len(found)} it is not known." if found else ""
        return f"No arm is known to go against its overall verdict in any task.{maybe}"
    counts = Counter(one.metric for transfer in known for one in transfer.against)
    most = ", ".join(f"{metric} ({number})" for metric, number in counts.most_common(6))
    arms = "1 arm goes" if len(known) == 1 else f"{len(known)} arms go"
    return f"In single tasks {arms} another way than overall, or both ways: {most}."


def _transfer_table(records: Records, found: Sequence[Transfer]) -> Table:
    rows = []
    for transfer in found:
        overall = transfer.overall
        for how, tasks in (("against", transfer.against), ("perhaps", transfer.unsure)):
            for one in tasks:
                rows.append(
                    (
                        Cell(str(one.arm), one.arm),
                        arm_words(records, one.params),
                        _cell(overall),
                        one.metric,
                        Cell(f"{one.difference.value:+.3f}", one.difference.value),
                        Cell(formats.signed_interval(one.difference.low, one.difference.high), one.difference.low),
                        Cell(one.word, kind=one.word.replace(" ", "-")),
                        how,
                    )
                )
    header = ("arm", "differs in", "overall", "task", "difference", "corrected interval", "verdict", "goes against")
    return Table(header, rows, left=(0, 1, 3, 6, 7))
