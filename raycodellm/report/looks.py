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
    told = records.known.looks.told
    confirm = records.sweep.search.confirm
    if confirm is None or not told:
        return []
    found: list[str | Figure | Table] = []
    objectives = [one.metric for one in records.sweep.search.objectives]
    for place, metric in enumerate(objectives):
        of_metric = [{one.arm: one for one in look if one.metric == metric} for look in told]
        found += [metric] if len(objectives) > 1 else []
        found += _figure(records, metric, place, of_metric, confirm.seeds)
        found.append(_table(records, of_metric, confirm.seeds))
    return found


def _order(records: Records, looks: list[dict[int, Verdict]]) -> list[int]:
    """The arms of all looks, in rank."""
    known = {arm for look in looks for arm in look}
    return [one.arm for one in records.scores if one.arm in known]


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
        shown = [_cell(look.get(arm), number) for number, look in enumerate(looks)]
        rows.append((Cell(str(arm), arm), *(cells.value(params[arm].get(name)) for name in names), *shown))
    heads = [f"look {number + 1} ({seeds[number]} seeds)" for number in range(len(looks))]
    return Table(("arm", *names, *heads), rows)


def _cell(one: Verdict | None, look: int) -> Cell:
    if one is None:
        return Cell(formats.NOTHING)
    if one.look < look:
        return Cell(f"known since look {one.look + 1}{MARKS[one.word]}", one.difference.value)
    shown = f"{verdict.difference(one)}{MARKS[one.word]}"
    return Cell(shown, one.difference.value, one.word.replace(" ", "-"))
