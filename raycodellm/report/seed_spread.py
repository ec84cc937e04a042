"""The noise between training seeds: how large it is in each arm, and whether it depends on the code ratio."""

from __future__ import annotations

import math

from raycodellm.report.figures.figure import Figure
from raycodellm.report.figures.forest import MOST_ARMS, Line, Panel, arm_labels, arm_words, forest
from raycodellm.report.records import Records
from raycodellm.statistics import FEWEST_SEEDS, Interval
from raycodellm.tables import Cell, Table, cells, formats
from raycodellm.verdict import SeedSpreads, SpreadRatio

NOTE = (
    "Standard deviations of the score from seed to seed, over the same items; of confirmed arms over their fresh "
    "seeds. Intervals of deviations are 95 % intervals by χ², each for itself, and hold for normal scores. Ratios "
    "compare deviations pooled over the arms of each side; their intervals leave out one seed at a time, of all arms "
    "at once, since arms that share a seed or a stage move together (jackknife). They hold at 95 % for all rows of a "
    f"question at once (Bonferroni), and take {FEWEST_SEEDS} seeds on each side. Not known is not equal. Arms whose "
    "verdict was known early have few seeds, and arms that happened to look quiet were known earlier."
)


def parts(records: Records) -> list[str | Figure | Table]:
    """The answer, a picture, and the tables; nothing where no arm has two seeds."""
    found = records.seed_spreads
    if found is None:
        return []
    ratios = _ratios(found)
    return [str(found), *_figure(records, found), _arms(records, found), *([ratios] if ratios.rows else [])]


def _figure(records: Records, found: SeedSpreads) -> list[Figure]:
    known = {one.arm: one for one in found.arms}
    arms = [one.arm for one in records.scores if one.arm in known][:MOST_ARMS]
    if len(arms) < 2:
        return []
    labels = arm_labels(records, arms)
    lines = [Line(f"{labels[arm]} ({known[arm].num_seeds} seeds)", known[arm].deviation) for arm in arms]
    lines.append(Line("all arms, pooled", found.pooled))
    caption = "Points: standard deviations. Bars: 95 % intervals, each for itself."
    x_title = f"standard deviation of {found.metric} between seeds"
    return forest("seedspread", [Panel("", lines)], x_title, 1, caption, is_log=True)


def _arms(records: Records, found: SeedSpreads) -> Table:
    rows = [
        (
            Cell(str(one.arm), one.arm),
            arm_words(records, one.params),
            cells.whole(one.num_seeds),
            cells.score(one.deviation.value),
            _ends(one.deviation),
        )
        for one in found.arms
    ]
    return Table(("arm", "differs in", "seeds", "standard deviation", "95 % interval"), rows, left=(0, 1))


def _ratios(found: SeedSpreads) -> Table:
    rows = [
        (
            one.parameter,
            f"{one.values} (the ends)" if one.is_of_ends else one.values,
            cells.whole(len(one.arms)),
            cells.whole(len(one.others)),
            Cell(formats.NOTHING if math.isnan(one.ratio.value) else f"{one.ratio.value:.2f}", one.ratio.value),
            _ends(one.ratio, 2),
            _word(one),
        )
        for one in found.ratios
    ]
    header = ("code ratio", "at", "arms", "other arms", "ratio of deviations", "corrected interval", "noise is")
    return Table(header, rows, left=(0, 1, 6))


def _ends(one: Interval, decimals: int = 3) -> Cell:
    return Cell(formats.interval(one.low, one.high, decimals), one.low)


def _word(one: SpreadRatio) -> Cell:
    return Cell(one.word, kind="not-known" if one.word == "not known" else "")
