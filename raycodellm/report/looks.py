"""The verdicts look by look: how each arm's difference to the reference became known."""

from __future__ import annotations

from raycodellm import verdict
from raycodellm.report.figures.figure import Figure
from raycodellm.report.figures.forest import MOST_ARMS, Line, Panel, arm_labels, forest
from raycodellm.report.records import Records
from raycodellm.tables import Cell, Table, cells, formats
from raycodellm.tables.trials import params_of
from raycodellm.verdict import MARKS, Verdict

NOTE = (
    "Difference to the reference with its interval, corrected for all arms, metrics and looks, as each look told it. A "
    "verdict that is known at a look is final, and its arm gets no more seeds: in the looks after it stands as it was."
)


def parts(records: Records) -> list[str | Figure | Table]:
    """Picture and table for each objective; nothing before the first look."""
    decided_looks = records.findings.looks.told
    confirm = records.sweep.search.confirm
    if confirm is None or not decided_looks:
        return []
    shown_parts: list[str | Figure | Table] = []
    objectives = [objective.metric for objective in records.sweep.search.objectives]
    for place, metric in enumerate(objectives):
        metric_looks = [
            {arm_verdict.arm: arm_verdict for arm_verdict in look if arm_verdict.metric == metric}
            for look in decided_looks
        ]
        shown_parts += [metric] if len(objectives) > 1 else []
        shown_parts += _figure(records, metric, place, metric_looks, confirm.seeds)
        shown_parts.append(_table(records, metric_looks, confirm.seeds))
    return shown_parts


def _order(records: Records, looks: list[dict[int, Verdict]]) -> list[int]:
    """The arms of all looks, in rank."""
    judged_arms = {arm for look in looks for arm in look}
    return [arm_score.arm for arm_score in records.scores if arm_score.arm in judged_arms]


def _figure(
    records: Records, metric: str, place: int, looks: list[dict[int, Verdict]], seeds: tuple[int, ...]
) -> list[Figure]:
    arms = _order(records, looks)[:MOST_ARMS]
    labels = arm_labels(records, arms)
    panels = [
        Panel(
            f"look {number + 1}, {seeds[number]} seeds",
            [Line(labels[arm], look[arm].difference, look[arm].word) for arm in arms if arm in look],
        )
        for number, look in enumerate(looks)
    ]
    caption = "Points: differences to the reference arm. Bars: corrected intervals."
    return forest(f"looks{place}", panels, f"difference in {metric}", len(panels), caption)


def _table(records: Records, looks: list[dict[int, Verdict]], seeds: tuple[int, ...]) -> Table:
    params = {row["arm"]: params_of(row) for row in reversed(records.rows)}
    order = _order(records, looks)
    names = list(dict.fromkeys(name for arm in order for name in params[arm]))
    rows = []
    for arm in order:
        look_cells = [_cell(look.get(arm), number) for number, look in enumerate(looks)]
        rows.append((Cell(str(arm), arm), *(cells.value(params[arm].get(name)) for name in names), *look_cells))
    heads = [f"look {number + 1} ({seeds[number]} seeds)" for number in range(len(looks))]
    return Table(("arm", *names, *heads), rows)


def _cell(arm_verdict: Verdict | None, look: int) -> Cell:
    if arm_verdict is None:
        return Cell(formats.NOTHING)
    if arm_verdict.look < look:
        return Cell(f"known since look {arm_verdict.look + 1}{MARKS[arm_verdict.word]}", arm_verdict.difference.value)
    text = f"{verdict.difference(arm_verdict)}{MARKS[arm_verdict.word]}"
    return Cell(text, arm_verdict.difference.value, arm_verdict.word.replace(" ", "-"))
