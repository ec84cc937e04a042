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
    return Table(header, [_size_row(size) for size in result.sizes], left=(0, 2, 5))


def _size_row(size: SizeResult) -> tuple[str, ...]:
    facts, records = size.facts, size.records
    trials_text = "not begun" if records is None else f"{records.states['complete']} of {records.num_trials}"
    return (
        facts.preset,
        cells.whole(facts.parameters),
        facts.sweep,
        cells.count(facts.tokens),
        trials_text,
        "" if records is None else answer_so_far(records),
    )


def effects(result: LadderResult, metrics: Sequence[str] | None = None) -> Table:
    """One row per arm and metric: the effect at each size with its verdict, and its trend.

    `metrics`: those to show; all when left out.
    """
    arms_shown = [arm for arm in result.effects if metrics is None or arm.objective.metric in metrics]
    titles = [size_text(size.facts) for size in result.sizes]
    has_trend = any(arm.trend is not None for arm in arms_shown)
    header = ("metric", "arm", "parameters", *titles, *(("per tenfold size",) if has_trend else ()))
    rows = [
        (*_arm_cells(arm), *_effect_cells(arm, result), *((_trend_cell(arm),) if has_trend else ()))
        for arm in arms_shown
    ]
    return Table(header, rows, left=(0, 2))


def _arm_cells(arm: ArmEffects) -> tuple[str, ...]:
    return arm.objective.metric, str(arm.number), formats.params(arm.params)


def _effect_cells(arm: ArmEffects, result: LadderResult) -> list[str]:
    by_preset = {effect.size.preset: effect for effect in arm.effects}
    effect_texts = []
    for size in result.sizes:
        effect = by_preset.get(size.facts.preset)
        if effect is None:
            effect_texts.append(formats.NOTHING)
            continue
        mark = verdict.MARKS[effect.word] if effect.word else ""
        effect_texts.append(Cell(f"{interval_text(effect.difference)}{mark}", effect.difference.value))
    return effect_texts


def _trend_cell(arm: ArmEffects) -> str:
    if arm.trend is None:
        return formats.NOTHING
    note = "" if arm.trend.is_straight else ", not a line"
    return Cell(f"{interval_text(arm.trend.slope)}{note}", arm.trend.slope.value)


def order(result: LadderResult) -> Table:
    """One row for every two sizes: pairs of arms that both put into the same order."""
    header = ("smaller", "larger", "pairs of arms", "ordered alike", "share", "known alike", "known different")
    rows = [
        (
            size_text(small),
            size_text(large),
            cells.whole(agreement.num_pairs),
            cells.whole(agreement.alike),
            Cell(share_text(agreement), agreement.share.value),
            cells.whole(agreement.known_alike),
            cells.whole(agreement.known_different),
        )
        for small, large, agreement in result.agreements
    ]
    return Table(header, rows, left=(0, 1))
