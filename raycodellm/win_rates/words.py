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


def table(found: WinRates, params: Mapping[int, Mapping[str, Any]]) -> Table:
    """A row per arm. `params`: of each arm, by its number."""
    rates = arm_win_rates(found.judgements)
    names = list(dict.fromkeys(name for one in rates for name in params.get(one.arm, {})))
    header = ("arm", *names, "win rate", "95 % interval", "over instructions alone", "seeds", "instructions")
    header += ("won", "tied", "lost", "equal answers", "not judged", "no verdict")
    header += ("characters", "reference's", "longer won", "first won", "turned round", "corrected p")
    return Table(header, [_row(one, params.get(one.arm, {}), names) for one in rates], left=(0, 1))


def _row(one: ArmWinRate, params: Mapping[str, Any], names: list[str]) -> tuple[str, ...]:
    counts, judged = one.counts, one.counts.wins + one.counts.ties + one.counts.losses
    mark = MARKS[one.word]
    return (
        Cell(str(one.arm), one.arm),
        *(cells.value(params.get(name)) for name in names),
        Cell(f"{one.rate.value:.3f}{mark}", one.rate.value, one.word.replace(" ", "-")),
        Cell(_ends(one.rate), one.rate.low),
        Cell(_ends(one.over_items), one.over_items.low),
        cells.whole(len(one.seeds)),
        cells.whole(one.num_instructions),
        *(cells.whole(number) for number in (counts.wins, counts.ties, counts.losses)),
        *(cells.whole(number) for number in (one.num_equal, counts.not_judged, counts.without_verdict)),
        Cell(f"{counts.other_characters:.0f}", counts.other_characters),
        Cell(f"{counts.base_characters:.0f}", counts.base_characters),
        *(_share(share) for share in (counts.longer_share, counts.first_share)),
        _share(counts.order_decided / judged if judged else None),
        Cell(formats.NOTHING if one.p_corrected is None else formats.p_value(one.p_corrected), one.p_corrected or 0.0),
    )


def _ends(rate: Interval) -> str:
    return "not known" if math.isnan(rate.low) else formats.interval(rate.low, rate.high)


def _share(share: float | None) -> str:
    return Cell(formats.NOTHING) if share is None else Cell(f"{share:.0%}", share)


def lines(found: WinRates) -> list[str]:
    """The result in a line, what is missing, and what is left out."""
    progress, rates = found.progress, arm_win_rates(found.judgements)
    said = [f"win rates over arm {progress.reference} by {progress.judge}: {_result(rates)}"]
    if progress.num_missing:
        said.append(missing_line(progress))
    if len(progress.models) > 1:
        named = ", ".join(progress.models)
        said.append(f"win rates: the endpoint answered by {len(progress.models)} models, {named}: this is no one judge")
    if rates and all(len(one.seeds) == 1 for one in rates):
        said.append(f"win rates: {_ONE_SEED}")
    num_equal = sum(one.num_equal for one in rates)
    if 2 * num_equal > len(found.judgements):
        said.append(f"win rates: {num_equal:,} of {len(found.judgements):,} pairs of answers are equal, and so tie")
    if left := left_out_line(progress):
        said.append(f"win rates: {left}")
    return said


def missing_line(progress: Progress) -> str:
    """How many questions were not answered, and why."""
    why = progress.why or "the judge did not answer them, or refused them"
    return (
        f"win rates: {progress.num_missing:,} of {progress.num_questions:,} questions to the judge have no answer "
        f"({why}); running the sweep again asks for those alone"
    )


def left_out_line(progress: Progress) -> str:
    """The trials and instructions that are not compared; empty where there are none."""
    left = progress.left_out
    parts = {
        "failed trials": left.failed,
        "trials stopped early": left.stopped_early,
        "trials whose seed the reference arm lacks": left.without_partner,
        "arms without fresh seeds": left.arms_of_search,
        "answers that a model's context has no room for": progress.num_too_long,
    }
    said = ", ".join(f"{number:,} {what}" for what, number in parts.items() if number)
    return f"left out: {said}" if said else ""


def _result(rates: list[ArmWinRate]) -> str:
    if not rates:
        return "no instruction was judged"
    known = [one for one in rates if one.word != "not known"]
    told = [f"arm {one.arm} {one.word}, {one.rate.value:.3f} ({_ends(one.rate)})" for one in known[:3]]
    more = f" and {len(known) - 3} more" if len(known) > 3 else ""
    rest = len(rates) - len(known)
    if not known and len(rates) == 1:
        one = rates[0]
        return f"arm {one.arm} {one.rate.value:.3f} (interval {_ends(one.rate)}), better or worse is not known"
    unknown = f"of {rest} arm{'s' * (rest > 1)} better or worse is not known" if rest else ""
    return "; ".join(filter(None, (", ".join(told) + more, unknown)))


def document(found: WinRates) -> dict[str, Any]:
    """Plain values with stable keys, documented in docs/evaluation.md; null for a number that is not known."""
    progress = found.progress
    return {
        **as_json(progress),
        "num_missing": progress.num_missing,
        "arms": [_plain(one) for one in arm_win_rates(found.judgements)],
    }


def _plain(one: ArmWinRate) -> dict[str, Any]:
    counts = {name: value for name, value in vars(one.counts).items() if name not in ("rate", "too_long")}
    return {
        "arm": one.arm,
        "seeds": list(one.seeds),
        "instructions": one.num_instructions,
        "equal_answers": one.num_equal,
        "win_rate": one.rate.value,
        "win_rate_low": one.rate.low,
        "win_rate_high": one.rate.high,
        "over_instructions_low": one.over_items.low,
        "over_instructions_high": one.over_items.high,
        "p_corrected": one.p_corrected,
        "verdict": one.word,
        **counts,
    }
