"""The win rate of each arm over the reference arm, with an interval that holds the seeds' noise and the instructions'.

A judgement is made for each seed that both arms have, on the same instructions. So a win rate is a mean over seeds and
instructions, and its interval that of a difference which is taken seed by seed (`statistics.Difference`): the mean
score less one half, which two equal arms have. With one seed nothing is known of the noise between seeds.
"""

from __future__ import annotations

import math
import statistics as plain
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycodellm.evaluation import JudgedPair, WinRate, win_rate
from raycodellm.statistics import (
    ArmMeasurements,
    Difference,
    Interval,
    Word,
    difference,
    holm,
    mean_interval,
    verdict_word,
)
from raycodellm.win_rates.records import Judgements

EVEN = 0.5
"""Win rate of two arms of which neither is better."""
_SHOWN = {"reference": "base", "arm": "other"}


@dataclass(frozen=True)
class ArmWinRate:
    """An arm against the reference arm."""

    arm: int
    seeds: tuple[int, ...]
    """The seeds with a judged instruction."""
    num_instructions: int
    """Different instructions that were judged with any of these seeds."""
    rate: Interval
    """Mean over seeds and instructions, a tie counting half. Its interval holds both kinds of noise, and holds for all
    arms of the sweep at once; its ends are NaN where nothing is known of the noise between seeds, and where all came
    out alike, which tells nothing of any noise."""
    over_items: Interval
    """The mean with a 95 % interval over instructions alone, which says nothing of other seeds; NaN as in `rate`."""
    word: Word
    """`better` or `worse` than the reference, by the judge's taste; else `not known`."""
    p_corrected: float | None
    """p of no difference, corrected for all arms (Holm); None where the noise between seeds is not known."""
    num_equal: int
    """Pairs of equal answers, over all seeds: they tie, and the judge was not asked about them."""
    counts: WinRate
    """Wins, ties and losses, and what speaks for or against the judge, over all seeds; its rate has no meaning."""


def arm_win_rates(rows: Judgements) -> list[ArmWinRate]:
    """The win rate of each arm that has a judged instruction, in the order of the arms."""
    by_arm: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_arm[row["arm"]].append(row)
    measured = {
        arm: measurements
        for arm, arm_judgements in sorted(by_arm.items())
        if (measurements := _measurements(arm_judgements)) is not None
    }
    several = [measured_arm for measured_arm, _ in measured.values() if len(measured_arm.scores) > 1]
    gaps = {arm: difference(*both, pool=several) for arm, both in measured.items()}
    corrected = holm({arm: gap.p_value() for arm, gap in gaps.items()})
    return [
        _arm_win_rate(arm, measured[arm][0], gap, corrected[arm].p, corrected[arm].level, by_arm[arm])
        for arm, gap in gaps.items()
    ]


def _arm_win_rate(
    arm: int, measured: ArmMeasurements, gap: Difference, p: float, level: float, rows: Judgements
) -> ArmWinRate:
    interval = gap.interval(level)
    return ArmWinRate(
        arm=arm,
        seeds=tuple(measured.scores),
        num_instructions=len({row["item"] for row in rows if row["score"] is not None}),
        rate=_as_share(interval),
        over_items=_over_items(rows),
        word=verdict_word(interval, "max"),
        p_corrected=p if gap.is_known else None,
        num_equal=sum(row["reference_first_key"] is None for row in rows),
        counts=win_rate([_as_pair(row) for row in rows]),
    )


def _as_share(gap: Interval) -> Interval:
    return _within_unit(Interval(*(EVEN + end for end in gap)))


def _within_unit(rate: Interval) -> Interval:
    """The interval of a win rate, which lies between 0 and 1; without ends where it has no width."""
    if not rate.low < rate.high:
        return Interval(rate.value, math.nan, math.nan)
    return Interval(rate.value, max(rate.low, 0.0), min(rate.high, 1.0))


def _over_items(rows: Judgements) -> Interval:
    return _within_unit(mean_interval([*_item_means(rows).values()]))


def _measurements(rows: Judgements) -> tuple[ArmMeasurements, ArmMeasurements] | None:
    """The arm's scores, and even ones to compare them with; None where nothing was judged.

    Where not every instruction was judged with every seed, the variance over instructions is that of their means over
    the seeds at hand, and what it shares with the seeds' variance counts twice: the interval is too wide, never too
    narrow.
    """
    by_seed: dict[int, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row["score"] is not None:
            by_seed[row["seed"]][row["item"]] = row["score"]
    if not by_seed:
        return None
    scores = {seed: plain.fmean(by_item.values()) for seed, by_item in sorted(by_seed.items())}
    is_complete = len({frozenset(by_item) for by_item in by_seed.values()}) == 1
    even = dict.fromkeys(scores, EVEN)
    if is_complete:
        samples = {seed: [by_seed[seed]] for seed in scores}
        evens = {seed: [dict.fromkeys(by_seed[seed], EVEN)] for seed in scores}
        return ArmMeasurements(scores, samples, None), ArmMeasurements(even, evens, None)
    no_samples: Mapping[int, list[Any]] = {seed: [] for seed in scores}
    recorded = mean_interval([*_item_means(rows).values()])
    return ArmMeasurements(scores, no_samples, recorded), ArmMeasurements(even, no_samples, Interval(EVEN, EVEN, EVEN))


def _item_means(rows: Judgements) -> dict[int, float]:
    """Maps each judged instruction to its mean score over the seeds that it was judged with."""
    scores_of_item: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row["score"] is not None:
            scores_of_item[row["item"]].append(row["score"])
    return {item: plain.fmean(item_scores) for item, item_scores in scores_of_item.items()}


def _as_pair(row: Mapping[str, Any]) -> JudgedPair:
    """The row as a pair whose answers have its lengths."""
    first = {"reference": "first", "arm": "second", "tie": "tie"}
    base_first, arm_first = first.get(row["reference_first"] or ""), first.get(row["arm_first"] or "")
    turned = {"first": "second", "second": "first", "tie": "tie"}.get(arm_first or "")
    lengths = (" " * row["reference_characters"], " " * row["characters"])
    return JudgedPair("", *lengths, base_first, turned, row["is_judged"])  # type: ignore[arg-type]
