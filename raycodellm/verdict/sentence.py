"""The verdict in words: the answer to what a sweep asks, made of the names of its parameters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raycodellm import search
from raycodellm.config import SweepFile
from raycodellm.statistics import Word, items_to_tell, look_errors, seeds_to_tell
from raycodellm.tables import formats
from raycodellm.verdict.constraints import broken_by, told
from raycodellm.verdict.findings import Findings
from raycodellm.verdict.verdicts import Verdict

_ORDER: tuple[Word, ...] = ("better", "not known", "equal", "worse")
"""The verdict that answers the question first: one better arm is enough, and none is only known of all arms."""
_MOST_NAMED = 3
"""Arms beside the first that are told of one by one."""
MOST_SEEDS = 100
"""Seeds per arm beyond which no number is told."""
MOST_TIMES_ITEMS = 100
"""Times the items beyond which no number is told."""
_CODE_RATIO = ".code_ratio"


def answer(file: SweepFile, known: Findings) -> str:
    """Says the verdicts on the arms against the reference arm, and what a look waits for; the reason where nothing is
    known. Empty for a sweep without a reference arm, and while its search goes on without a confirmation to come."""
    if file.example().search.reference is None:
        return ""
    said = [sentence(file, known) or _no_verdict(file, known), _added_looks(file), _open_look(file, known)]
    return " ".join(filter(None, said))


def _added_looks(file: SweepFile) -> str:
    """The error of all claims together, where looks were added after fresh seeds had been seen."""
    confirm = file.example().search.confirm
    if confirm is None or len(confirm.planned) == len(confirm.seeds):
        return ""
    total = sum(look_errors(confirm.seeds, len(confirm.planned)))
    return (
        f"Looks were added after fresh seeds had been seen (planned: {len(confirm.planned)}): without any effect, "
        f"such a sweep claims one in at most {100 * total:g} % of cases, not 5 %."
    )


def _no_verdict(file: SweepFile, known: Findings) -> str:
    """The reason why a sweep with a reference arm has no verdict yet."""
    if file.example().search.confirm is not None:
        if known.looks.phase == "search":
            return "There is no verdict yet: it rests on fresh seeds, after the search."
        if known.looks.phase == "confirm":
            return "There is no verdict yet."
        if known.looks.reference is not None and not known.looks.arms:
            return "There is no verdict: the search has no arm with a score beside the reference."
    elif known.basis == "none":
        return ""
    return "There is no verdict: the reference arm has no score to compare with, or no other arm has."


def _open_look(file: SweepFile, known: Findings) -> str:
    """The look that waits for trials; empty where no more trials are to come."""
    looks, confirm = known.looks, file.example().search.confirm
    if confirm is None or looks.phase != "confirm":
        return ""
    seeds, number = confirm.seeds[looks.look], len(looks.pending)
    trials = "a trial" if number == 1 else f"{number} trials"
    return f"Look {looks.look + 1} of {len(confirm.seeds)}, at {seeds} fresh seeds per arm, waits for {trials}."


def sentence(file: SweepFile, known: Findings) -> str:
    """Says the verdicts on the arms against the reference arm; empty for a sweep without one, or without a verdict."""
    settings = file.example().search
    point = search.reference_point(file)
    metric = settings.objectives[0].metric
    found = [one for one in known.verdicts if one.metric == metric and not math.isnan(one.difference.value)]
    if point is None or not found:
        return ""
    sign = 1.0 if settings.objectives[0].mode == "min" else -1.0
    broken = broken_by(known.breaches)
    first, *others = sorted(
        found, key=lambda one: (_ORDER.index(one.word), broken.get(one.arm, 0.0), sign * one.score.value)
    )
    margin = settings.confirm.margin_of(metric, metric) if settings.confirm is not None else None
    as_written = file.reference() or {}
    said = f"{_claim(first, point, as_written, known, margin)}{_evidence(first, known)}{remedy(first)}."
    breaks = [
        f"It breaks the constraint {one.constraint.name}: {told(one)}."
        for one in known.breaches
        if one.arm == first.arm and one.is_broken
    ]
    return " ".join([said, *breaks, *_others(others, point, as_written)])


def _claim(
    one: Verdict, point: Mapping[str, Any], as_written: Mapping[str, Any], known: Findings, margin: float | None
) -> str:
    """The verdict on an arm, with the metric: where code ratios alone differ, as the answer to whether code helps."""
    subject, compared = _code(one.params, point), _compared(one.params, point, as_written)
    within = f"{margin:g}" if margin is not None else "0"
    here = "at this budget" if one.is_final and known.is_over else "so far"
    so_far = "" if one.is_final else "So far, "
    words = {
        "better": f"is better in {one.metric} by",
        "worse": f"is worse in {one.metric} by",
        "equal": f"is equal within {within} in {one.metric}: it differs by",
        "not known": f"differs in {one.metric} by",
    }[one.word]
    if not subject:
        return f"{f'Not known {here}: ' if one.word == 'not known' else so_far}{compared} {words}"
    head = {
        "better": f"{so_far}{subject} helps",
        "worse": f"{so_far}{subject} hurts",
        "equal": f"{so_far}{subject} makes no difference beyond {within}",
        "not known": f"whether {subject} helps is not known {here}",
    }[one.word]
    return f"{head[0].upper()}{head[1:]}: {compared} {words}"


def _evidence(one: Verdict, known: Findings) -> str:
    seeds = f"{len(one.seeds)} {'fresh ' if known.basis == 'confirmation' else ''}seeds"
    return f" {difference(one)}, seen with {seeds}"


def difference(one: Verdict) -> str:
    """The difference with its corrected interval and p: `-0.050 (-0.080 to -0.020; p 0.004)`."""
    gap, p = one.difference, one.p_corrected
    if math.isnan(gap.low) or math.isnan(gap.high):
        return f"{gap.value:+.3f}"
    shown = formats.p_value(p)
    said = "" if p is None else f"; p {shown}"
    return f"{gap.value:+.3f} ({formats.signed_interval(gap.low, gap.high)}{said})"


def remedy(one: Verdict) -> str:
    """Says the seeds per arm, or the items, that would tell the difference seen; empty for a verdict that is known or
    still open."""
    if one.word != "not known" or not one.is_final or one.evidence is None or not one.evidence.is_known:
        return ""
    needed = seeds_to_tell(one.evidence, one.level, at_most=MOST_SEEDS)
    if needed is not None:
        return f"; about {max(needed, len(one.seeds) + 1)} seeds would tell"
    items = items_to_tell(one.evidence, one.level)
    if items is not None and items <= MOST_TIMES_ITEMS * one.evidence.num_items:
        times = math.ceil(items / one.evidence.num_items)
        return f"; {MOST_SEEDS} seeds would not tell over these items, about {times} times as many items would"
    return f"; over {MOST_SEEDS} seeds would be needed for so small a difference"


def _others(others: Sequence[Verdict], point: Mapping[str, Any], as_written: Mapping[str, Any]) -> list[str]:
    """A sentence on the arms beside the first."""
    if len(others) > _MOST_NAMED:
        counts = Counter(one.word for one in others)
        told = ", ".join(f"{counts[word]} {word}" for word in _ORDER if counts[word])
        return [f"Of {len(others)} other arms: {told}."]
    told = "; ".join(f"{_compared(one.params, point, as_written)} is {one.word}, {difference(one)}" for one in others)
    return [f"Beside it, {told}."] if others else []


def _code(params: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    """The subject of a sentence on code: `code in pretrain`; empty unless code ratios alone differ.

    A parameter that has no effect in one of the arms is no difference of its own.
    """
    differing = [name for name in params if name in point and params[name] != point[name]]
    if not differing or not all(name.endswith(_CODE_RATIO) for name in differing):
        return ""
    stages = " and ".join(name.removesuffix(_CODE_RATIO) for name in differing)
    if all(point[name] == 0 for name in differing):
        return f"code in {stages}"
    if all(params[name] > point[name] for name in differing):
        return f"more code in {stages}"
    if all(params[name] < point[name] for name in differing):
        return f"less code in {stages}"
    return ""


def _compared(params: Mapping[str, Any], point: Mapping[str, Any], as_written: Mapping[str, Any]) -> str:
    """`instruct.code_ratio 0.25 against 0`, of the arm's parameters that differ.

    `as_written`: the reference with the parameters that have no effect in it, such as the schedule of no code.
    """
    known = {**as_written, **point}
    names = [name for name in params if name not in known or params[name] != known[name]]
    pairs = [
        f"{told} {formats.value(params[name])}" + (f" against {formats.value(point[name])}" if name in point else "")
        for name, told in zip(names, formats.told_names(names), strict=True)
    ]
    return ", ".join(pairs) or "an arm with the reference's parameters"
