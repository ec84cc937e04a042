"""The tables of a ladder's report: sizes, effects by size, trends, and the order of the arms."""

from __future__ import annotations

from collections.abc import Sequence

from raycodellm import verdict
from raycodellm.ladder.effects import ArmEffects, LadderResult, SizeResult
from raycodellm.ladder.words import interval_text, share_text, size_text
from raycodellm.report.answer import answer_so_far
from raycodellm.tables import Cell, Table, cells, formats


def sizes(result: LadderResult) -> Table:
    """One row per size: its sweep, tokens, trials, and the answer of that size alone."""
    header = ("size", "parameters", "sweep", "tokens of an arm", "trials complete", "answer of this size alone")
    return Table(header, [_size(one) for one in result.sizes], left=(0, 2, 5))


def _size(one: SizeResult) -> tuple[str, ...]:
    facts, records = one.facts, one.records
    done = "not begun" if records is None else f"{records.states['complete']} of {records.num_trials}"
    return (
        facts.preset,
        cells.whole(facts.parameters),
        facts.sweep,
        cells.count(facts.tokens),
        done,
        "" if records is None else answer_so_far(records),
    )


def effects(result: LadderResult, metrics: Sequence[str] | None = None) -> Table:
    """One row per arm and metric: the effect at each size with its verdict, and its trend.

    `metrics`: those to show; all when left out.
    """
    shown = [one for one in result.effects if metrics is None or one.objective.metric in metrics]
    titles = [size_text(size.facts) for size in result.sizes]
    has_trend = any(one.trend is not None for one in shown)
    header = ("metric", "arm", "parameters", *titles, *(("per tenfold size",) if has_trend else ()))
    rows = [(*_arm(one), *_by_size(one, result), *((_trend(one),) if has_trend else ())) for one in shown]
    return Table(header, rows, left=(0, 2))


def _arm(one: ArmEffects) -> tuple[str, ...]:
    return one.objective.metric, str(one.number), formats.params(one.params)


def _by_size(one: ArmEffects, result: LadderResult) -> list[str]:
    found = {effect.size.preset: effect for effect in one.effects}
    texts = []
    for size in result.sizes:
        effect = found.get(size.facts.preset)
        if effect is None:
            texts.append(formats.NOTHING)
            continue
        mark = verdict.MARKS[effect.word] if effect.word else ""
        texts.append(Cell(f"{interval_text(effect.difference)}{mark}", effect.difference.value))
    return texts


def _trend(one: ArmEffects) -> str:
    if one.trend is None:
        return formats.NOTHING
    off = "" if one.trend.is_straight else ", not a line"
    return Cell(f"{interval_text(one.trend.slope)}{off}", one.trend.slope.value)


def order(result: LadderResult) -> Table:
    """One row for every two sizes: pairs of arms that both put into the same order."""
    header = ("smaller", "larger", "pairs of arms", "ordered alike", "share", "known alike", "known different")
    rows = [
        (
            size_text(small),
            size_text(large),
            cells.whole(found.num_pairs),
            cells.whole(found.alike),
            Cell(share_text(found), found.share.value),
            cells.whole(found.known_alike),
            cells.whole(found.known_different),
        )
        for small, large, found in result.agreements
    ]
    return Table(header, rows, left=(0, 1))
