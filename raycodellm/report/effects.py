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
    verdicts = records.findings.verdicts
    judged_metrics = {arm_verdict.metric for arm_verdict in verdicts}
    family = family_metrics(records.rows, records.sweep.search.objectives)
    metrics = [metric for metric in family if metric in judged_metrics and _is_shown(records, metric)]
    if len(metrics) < 2:
        return []
    by_pair = {(arm_verdict.arm, arm_verdict.metric): arm_verdict for arm_verdict in verdicts}
    arms = [arm_score.arm for arm_score in records.scores if (arm_score.arm, metrics[0]) in by_pair]
    return [*_figure(records, by_pair, arms[:MOST_ARMS], metrics), _table(records, by_pair, arms, metrics)]


def _is_shown(records: Records, metric: str) -> bool:
    return metric == records.sweep.search.objectives[0].metric or verdict.is_task(records.file, metric)


def _figure(
    records: Records, by_pair: dict[tuple[int, str], Verdict], arms: Sequence[int], metrics: Sequence[str]
) -> list[Figure]:
    labels = arm_labels(records, arms)
    panels = [
        Panel(
            _short(metric, metrics),
            [
                Line(labels[arm], by_pair[arm, metric].difference, by_pair[arm, metric].word)
                for arm in arms
                if (arm, metric) in by_pair
            ],
        )
        for metric in metrics[:_MOST_TASKS]
    ]
    caption = "Points: differences. Bars: corrected intervals. Each plot has a scale of its own."
    return forest("effects", panels, _kind(metrics), _COLUMNS, caption)


def _table(
    records: Records, by_pair: dict[tuple[int, str], Verdict], arms: Sequence[int], metrics: Sequence[str]
) -> Table:
    params = {arm_score.arm: arm_score.params for arm_score in records.scores}
    rows = [
        (
            Cell(str(arm), arm),
            arm_words(records, params[arm]),
            *(_cell(by_pair.get((arm, metric))) for metric in metrics),
        )
        for arm in arms
    ]
    return Table(("arm", "differs in", *(_short(metric, metrics) for metric in metrics)), rows, left=(0, 1))


def _cell(arm_verdict: Verdict | None) -> Cell:
    if arm_verdict is None or math.isnan(arm_verdict.difference.value):
        return Cell(formats.NOTHING)
    half = (arm_verdict.difference.high - arm_verdict.difference.low) / 2
    ends = "" if math.isnan(half) else f" ± {half:.3f}"
    kind = arm_verdict.word.replace(" ", "-")
    return Cell(
        f"{arm_verdict.difference.value:+.3f}{ends}{MARKS[arm_verdict.word]}", arm_verdict.difference.value, kind
    )


def _short(metric: str, metrics: Sequence[str]) -> str:
    """The task's name alone, where all metrics are of one kind."""
    return metric.rpartition("/")[0] if len({other.rpartition("/")[2] for other in metrics}) == 1 else metric


def _kind(metrics: Sequence[str]) -> str:
    kinds = {metric.rpartition("/")[2] for metric in metrics}
    return f"difference in {kinds.pop()}" if len(kinds) == 1 else "difference"


# ------------------------------------------------------------------------------------------------- negative transfer


def transfer_parts(records: Records) -> list[str | Table]:
    """The answer in a sentence, and the tasks that go against an arm's overall verdict."""
    shown_verdicts = [
        arm_verdict for arm_verdict in records.findings.verdicts if _is_shown(records, arm_verdict.metric)
    ]
    if not any(verdict.is_task(records.file, arm_verdict.metric) for arm_verdict in shown_verdicts):
        return []
    transfers = verdict.transfers(records.file, shown_verdicts)
    place = {arm_score.arm: number for number, arm_score in enumerate(records.scores)}
    transfers = tuple(sorted(transfers, key=lambda transfer: place.get(transfer.overall.arm, len(place))))
    sentence = _transfer_sentence(transfers)
    return [sentence, _transfer_table(records, transfers)] if transfers else [sentence]


def _transfer_sentence(transfers: Sequence[Transfer]) -> str:
    known = [transfer for transfer in transfers if transfer.is_known]
    if not known:
        unsure_sentence = f" Of {len(transfers)} it is not known." if transfers else ""
        return f"No arm is known to go against its overall verdict in any task.{unsure_sentence}"
    counts = Counter(task_verdict.metric for transfer in known for task_verdict in transfer.against)
    most = ", ".join(f"{metric} ({number})" for metric, number in counts.most_common(6))
    arms = "1 arm goes" if len(known) == 1 else f"{len(known)} arms go"
    return f"In single tasks {arms} another way than overall, or both ways: {most}."


def _transfer_table(records: Records, transfers: Sequence[Transfer]) -> Table:
    rows = []
    for transfer in transfers:
        overall = transfer.overall
        for direction, tasks in (("against", transfer.against), ("perhaps", transfer.unsure)):
            for task_verdict in tasks:
                rows.append(
                    (
                        Cell(str(task_verdict.arm), task_verdict.arm),
                        arm_words(records, task_verdict.params),
                        _cell(overall),
                        task_verdict.metric,
                        Cell(f"{task_verdict.difference.value:+.3f}", task_verdict.difference.value),
                        Cell(
                            formats.signed_interval(task_verdict.difference.low, task_verdict.difference.high),
                            task_verdict.difference.low,
                        ),
                        Cell(task_verdict.word, kind=task_verdict.word.replace(" ", "-")),
                        direction,
                    )
                )
    header = ("arm", "differs in", "overall", "task", "difference", "corrected interval", "verdict", "goes against")
    return Table(header, rows, left=(0, 1, 3, 6, 7))
