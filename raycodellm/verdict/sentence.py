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
from raycodellm.verdict.constraints import breach_text, broken_by
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


def answer(file: SweepFile, findings: Findings) -> str:
    """Says the verdicts on the arms against the reference arm, and what a look waits for; the reason where nothing is
    known. Empty for a sweep without a reference arm, and while its search goes on without a confirmation to come."""
    if file.example().search.reference is None:
        return ""
    sentences = [
        sentence(file, findings) or _no_verdict(file, findings),
        _added_looks(file),
        _open_look(file, findings),
    ]
    return " ".join(filter(None, sentences))


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


def _no_verdict(file: SweepFile, findings: Findings) -> str:
    """The reason why a sweep with a reference arm has no verdict."""
    is_confirmed = file.example().search.confirm is not None
    seeds = " from fresh seeds" if is_confirmed else ""
    if findings.lacks_reference:
        return f"There is no verdict: the reference arm has no score{seeds} to compare with."
    if is_confirmed:
        if findings.looks.phase == "search":
            return "There is no verdict yet: it rests on fresh seeds, after the search."
        if findings.looks.phase == "confirm":
            return "There is no verdict yet."
        if findings.looks.reference is not None and not findings.looks.arms:
            return "There is no verdict: the search has no arm with a score beside the reference."
    elif findings.basis == "none":
        return ""
    if not findings.is_over:
        return "There is no verdict yet."
    return f"There is no verdict: no arm beside the reference has a score{seeds}."


def _open_look(file: SweepFile, findings: Findings) -> str:
    """The look that waits for trials; empty where no more trials are to come."""
    looks, confirm = findings.looks, file.example().search.confirm
    if confirm is None or looks.phase != "confirm":
        return ""
    seeds, number = confirm.seeds[looks.look], len(looks.pending)
    trials = "a trial" if number == 1 else f"{number} trials"
    return f"Look {looks.look + 1} of {len(confirm.seeds)}, at {seeds} fresh seeds per arm, waits for {trials}."


def sentence(file: SweepFile, findings: Findings) -> str:
    """Says the verdicts on the arms against the reference arm; empty for a sweep without one, or without a verdict."""
    settings = file.example().search
    point = search.reference_point(file)
    metric = settings.objectives[0].metric
    verdicts = [
        verdict
        for verdict in findings.verdicts
        if verdict.metric == metric and not math.isnan(verdict.difference.value)
    ]
    if point is None or not verdicts:
        return ""
    sign = 1.0 if settings.objectives[0].mode == "min" else -1.0
    broken = broken_by(findings.breaches)
    first, *others = sorted(
        verdicts,
        key=lambda verdict: (_ORDER.index(verdict.word), broken.get(verdict.arm, 0.0), sign * verdict.score.value),
    )
    margin = settings.confirm.margin_of(metric, metric) if settings.confirm is not None else None
    as_written = file.reference() or {}
    claim = f"{_claim(first, point, as_written, findings, margin)}{_evidence(first, findings)}{remedy(first)}."
    breach_sentences = [
        f"It breaks the constraint {breach.constraint.name}: {breach_text(breach)}."
        for breach in findings.breaches
        if breach.arm == first.arm and breach.is_broken
    ]
    return " ".join([claim, *breach_sentences, *_other_arms(others, point, as_written)])


def _claim(
    verdict: Verdict, point: Mapping[str, Any], as_written: Mapping[str, Any], findings: Findings, margin: float | None
) -> str:
    """The verdict on an arm, with the metric: where code ratios alone differ, as the answer to whether code helps."""
    subject, compared = _code_subject(verdict.params, point), _compared_params(verdict.params, point, as_written)
    within = f"{margin:g}" if margin is not None else "0"
    here = "at this budget" if verdict.is_final and findings.is_over else "so far"
    so_far = "" if verdict.is_final else "So far, "
    words = {
        "better": f"is better in {verdict.metric} by",
        "worse": f"is worse in {verdict.metric} by",
        "equal": f"is equal within {within} in {verdict.metric}: it differs by",
        "not known": f"differs in {verdict.metric} by",
    }[verdict.word]
    if not subject:
        return f"{f'Not known {here}: ' if verdict.word == 'not known' else so_far}{compared} {words}"
    head = {
        "better": f"{so_far}{subject} helps",
        "worse": f"{so_far}{subject} hurts",
        "equal": f"{so_far}{subject} makes no difference beyond {within}",
        "not known": f"whether {subject} helps is not known {here}",
    }[verdict.word]
    return f"{head[0].upper()}{head[1:]}: {compared} {words}"


def _evidence(verdict: Verdict, findings: Findings) -> str:
    seeds = f"{len(verdict.seeds)} {'fresh ' if findings.basis == 'confirmation' else ''}seeds"
    return f" {difference(verdict)}, seen with {seeds}"


def difference(verdict: Verdict) -> str:
    """The difference, which is known, with its corrected interval and p: `-0.050 (-0.080 to -0.020; p 0.004)`."""
    gap, p = verdict.difference, verdict.p_corrected
    if math.isnan(gap.low) or math.isnan(gap.high):
        return f"{gap.value:+.3f}"
    p_text = formats.p_value(p)
    p_clause = "" if p is None else f"; p {p_text}"
    return f"{gap.value:+.3f} ({formats.signed_interval(gap.low, gap.high)}{p_clause})"


def remedy(verdict: Verdict) -> str:
    """Says the seeds per arm, or the items, that would tell the difference seen; empty for a verdict that is known or
    still open."""
    if verdict.word != "not known" or not verdict.is_final or verdict.evidence is None or not verdict.evidence.is_known:
        return ""
    seeds = seeds_to_tell(verdict.evidence, verdict.level, at_most=MOST_SEEDS)
    if seeds is not None:
        return f"; about {max(seeds, len(verdict.seeds) + 1)} seeds would tell"
    items = items_to_tell(verdict.evidence, verdict.level)
    if items is not None and items <= MOST_TIMES_ITEMS * verdict.evidence.num_items:
        times = math.ceil(items / verdict.evidence.num_items)
        return f"; {MOST_SEEDS} seeds would not tell over these items, about {times} times as many items would"
    return f"; over {MOST_SEEDS} seeds would be needed for so small a difference"


def _other_arms(others: Sequence[Verdict], point: Mapping[str, Any], as_written: Mapping[str, Any]) -> list[str]:
    """A sentence on the arms beside the first."""
    if len(others) > _MOST_NAMED:
        counts = Counter(verdict.word for verdict in others)
        text = ", ".join(f"{counts[word]} {word}" for word in _ORDER if counts[word])
        return [f"Of {len(others)} other arms: {text}."]
    text = "; ".join(
        f"{_compared_params(verdict.params, point, as_written)} is {verdict.word}, {difference(verdict)}"
        for verdict in others
    )
    return [f"Beside it, {text}."] if others else []


def _code_subject(params: Mapping[str, Any], point: Mapping[str, Any]) -> str:
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


def _compared_params(params: Mapping[str, Any], point: Mapping[str, Any], as_written: Mapping[str, Any]) -> str:
    """`instruct.code_ratio 0.25 against 0`, of the arm's parameters that differ.

    `as_written`: the reference with the parameters that have no effect in it, such as the schedule of no code.
    """
    reference_params = {**as_written, **point}
    names = [name for name in params if name not in reference_params or params[name] != reference_params[name]]
    pairs = [
        f"{short_name} {formats.value(params[name])}"
        + (f" against {formats.value(point[name])}" if name in point else "")
        for name, short_name in zip(names, formats.short_param_names(names), strict=True)
    ]
    return ", ".join(pairs) or "an arm with the reference's parameters"
