"""The win rates in words: the report's table, the lines of the terminal and of `status`, and plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from raycodellm.records import as_json
from raycodellm.statistics import Interval
from raycodellm.tables import Cell, Table, cells, formats
from raycodellm.verdict import MARKS
from raycodellm.win_rates.rates import ArmWinRate, arm_win_rates
from raycodellm.win_rates.records import Progress, WinRates

NOTE = (
    "The share of instructions in which the judge preferred the arm's answer to that of the reference arm with the "
    "same seed; asked in both orders, a tie counts half, and equal answers tie. The interval holds the noise between "
    "seeds and that of the instructions, and holds for all arms at once (Holm). A judge has tastes of its own: beside "
    "the win rate stand the mean length of the answers, how often the longer one won, how often the one that stood "
    "first won, and how often the verdict turned round with the order. 0.5 is a draw. The win rate steers nothing."
)
_ONE_SEED = "one seed each: nothing is known of the noise between seeds, so no arm is called better or worse"


def table(win_rates: WinRates, params: Mapping[int, Mapping[str, Any]]) -> Table:
    """A row per arm. `params`: of each arm, by its number."""
    rates = arm_win_rates(win_rates.judgements)
    names = list(dict.fromkeys(name for arm_rate in rates for name in params.get(arm_rate.arm, {})))
    header = ("arm", *names, "win rate", "95 % interval", "over instructions alone", "seeds", "instructions")
    header += ("won", "tied", "lost", "equal answers", "not judged", "no verdict")
    header += ("characters", "reference's", "longer won", "first won", "turned round", "corrected p")
    return Table(header, [_row(arm_rate, params.get(arm_rate.arm, {}), names) for arm_rate in rates], left=(0, 1))


def _row(arm_rate: ArmWinRate, params: Mapping[str, Any], names: list[str]) -> tuple[str, ...]:
    counts, judged = arm_rate.counts, arm_rate.counts.wins + arm_rate.counts.ties + arm_rate.counts.losses
    mark = MARKS[arm_rate.word]
    return (
        Cell(str(arm_rate.arm), arm_rate.arm),
        *(cells.value(params.get(name)) for name in names),
        Cell(f"{arm_rate.rate.value:.3f}{mark}", arm_rate.rate.value, arm_rate.word.replace(" ", "-")),
        Cell(_ends(arm_rate.rate), arm_rate.rate.low),
        Cell(_ends(arm_rate.over_items), arm_rate.over_items.low),
        cells.whole(len(arm_rate.seeds)),
        cells.whole(arm_rate.num_instructions),
        *(cells.whole(number) for number in (counts.wins, counts.ties, counts.losses)),
        *(cells.whole(number) for number in (arm_rate.num_equal, counts.not_judged, counts.without_verdict)),
        Cell(f"{counts.other_characters:.0f}", counts.other_characters),
        Cell(f"{counts.base_characters:.0f}", counts.base_characters),
        *(_share(share) for share in (counts.longer_share, counts.first_share)),
        _share(counts.order_decided / judged if judged else None),
        Cell(
            formats.NOTHING if arm_rate.p_corrected is None else formats.p_value(arm_rate.p_corrected),
            arm_rate.p_corrected or 0.0,
        ),
    )


def _ends(rate: Interval) -> str:
    return "not known" if math.isnan(rate.low) else formats.interval(rate.low, rate.high)


def _share(share: float | None) -> str:
    return Cell(formats.NOTHING) if share is None else Cell(f"{share:.0%}", share)


def lines(win_rates: WinRates) -> list[str]:
    """Lines on the result, on questions without an answer, and on trials that are left out."""
    progress, rates = win_rates.progress, arm_win_rates(win_rates.judgements)
    sentences = [f"win rates over arm {progress.reference} by {progress.judge}: {_result(rates)}"]
    if progress.num_missing:
        sentences.append(missing_line(progress))
    if len(progress.models) > 1:
        named = ", ".join(progress.models)
        sentences.append(
            f"win rates: the endpoint answered by {len(progress.models)} models, {named}: this is no one judge"
        )
    if rates and all(len(arm_rate.seeds) == 1 for arm_rate in rates):
        sentences.append(f"win rates: {_ONE_SEED}")
    num_equal = sum(arm_rate.num_equal for arm_rate in rates)
    if 2 * num_equal > len(win_rates.judgements):
        sentences.append(
            f"win rates: {num_equal:,} of {len(win_rates.judgements):,} pairs of answers are equal, and so tie"
        )
    if left_out := left_out_line(progress):
        sentences.append(f"win rates: {left_out}")
    return sentences


def missing_line(progress: Progress) -> str:
    """A line on the number of questions without an answer, and on the reason."""
    why = progress.why or "the judge did not answer them, or refused them"
    return (
        f"win rates: {progress.num_missing:,} of {progress.num_questions:,} questions to the judge have no answer "
        f"({why}); running the sweep again asks for those alone"
    )


def left_out_line(progress: Progress) -> str:
    """A line on the trials and instructions that are not compared; empty where all are."""
    left_out = progress.left_out
    parts = {
        "failed trials": left_out.failed,
        "trials stopped early": left_out.stopped_early,
        "trials whose seed the reference arm lacks": left_out.without_partner,
        "arms without fresh seeds": left_out.arms_of_search,
        "answers that a model's context has no room for": progress.num_too_long,
    }
    text = ", ".join(f"{number:,} {kind}" for kind, number in parts.items() if number)
    return f"left out: {text}" if text else ""


def _result(rates: list[ArmWinRate]) -> str:
    if not rates:
        return "no instruction was judged"
    settled = [arm_rate for arm_rate in rates if arm_rate.word != "not known"]
    clauses = [
        f"arm {arm_rate.arm} {arm_rate.word}, {arm_rate.rate.value:.3f} ({_ends(arm_rate.rate)})"
        for arm_rate in settled[:3]
    ]
    more = f" and {len(settled) - 3} more" if len(settled) > 3 else ""
    rest = len(rates) - len(settled)
    if not settled and len(rates) == 1:
        only = rates[0]
        return f"arm {only.arm} {only.rate.value:.3f} (interval {_ends(only.rate)}), better or worse is not known"
    unknown = f"of {rest} arm{'s' * (rest > 1)} better or worse is not known" if rest else ""
    return "; ".join(filter(None, (", ".join(clauses) + more, unknown)))


def document(win_rates: WinRates) -> dict[str, Any]:
    """Plain values with stable keys, documented in docs/evaluation.md; null for a number that is not known."""
    progress = win_rates.progress
    return {
        **as_json(progress),
        "num_missing": progress.num_missing,
        "arms": [_plain(arm_rate) for arm_rate in arm_win_rates(win_rates.judgements)],
    }


def _plain(arm_rate: ArmWinRate) -> dict[str, Any]:
    counts = {name: value for name, value in vars(arm_rate.counts).items() if name not in ("rate", "too_long")}
    return {
        "arm": arm_rate.arm,
        "seeds": list(arm_rate.seeds),
        "instructions": arm_rate.num_instructions,
        "equal_answers": arm_rate.num_equal,
        "win_rate": arm_rate.rate.value,
        "win_rate_low": arm_rate.rate.low,
        "win_rate_high": arm_rate.rate.high,
        "over_instructions_low": arm_rate.over_items.low,
        "over_instructions_high": arm_rate.over_items.high,
        "p_corrected": arm_rate.p_corrected,
        "verdict": arm_rate.word,
        **counts,
    }
