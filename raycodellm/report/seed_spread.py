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
    spreads = records.seed_spreads
    if spreads is None:
        return []
    ratios = _ratios(spreads)
    return [str(spreads), *_figure(records, spreads), _arms(records, spreads), *([ratios] if ratios.rows else [])]


def _figure(records: Records, spreads: SeedSpreads) -> list[Figure]:
    spread_of = {spread.arm: spread for spread in spreads.arms}
    arms = [arm_score.arm for arm_score in records.scores if arm_score.arm in spread_of][:MOST_ARMS]
    if len(arms) < 2:
        return []
    labels = arm_labels(records, arms)
    lines = [Line(f"{labels[arm]} ({spread_of[arm].num_seeds} seeds)", spread_of[arm].deviation) for arm in arms]
    lines.append(Line("all arms, pooled", spreads.pooled))
    caption = "Points: standard deviations. Bars: 95 % intervals, each for itself."
    x_title = f"standard deviation of {spreads.metric} between seeds"
    return forest("seedspread", [Panel("", lines)], x_title, 1, caption, is_log=True)


def _arms(records: Records, spreads: SeedSpreads) -> Table:
    rows = [
        (
            Cell(str(spread.arm), spread.arm),
            arm_words(records, spread.params),
            cells.whole(spread.num_seeds),
            cells.score(spread.deviation.value),
            _ends(spread.deviation),
        )
        for spread in spreads.arms
    ]
    return Table(("arm", "differs in", "seeds", "standard deviation", "95 % interval"), rows, left=(0, 1))


def _ratios(spreads: SeedSpreads) -> Table:
    rows = [
        (
            comparison.parameter,
            f"{comparison.values} (the ends)" if comparison.is_of_ends else comparison.values,
            cells.whole(len(comparison.arms)),
            cells.whole(len(comparison.others)),
            Cell(
                formats.NOTHING if math.isnan(comparison.ratio.value) else f"{comparison.ratio.value:.2f}",
                comparison.ratio.value,
            ),
            _ends(comparison.ratio, 2),
            _word(comparison),
        )
        for comparison in spreads.ratios
    ]
    header = ("code ratio", "at", "arms", "other arms", "ratio of deviations", "corrected interval", "noise is")
    return Table(header, rows, left=(0, 1, 6))


def _ends(interval: Interval, decimals: int = 3) -> Cell:
    return Cell(formats.interval(interval.low, interval.high, decimals), interval.low)


def _word(comparison: SpreadRatio) -> Cell:
    return Cell(comparison.word, kind="not-known" if comparison.word == "not known" else "")
