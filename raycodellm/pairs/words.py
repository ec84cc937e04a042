"""The word that the difference between two models deserves."""

from __future__ import annotations

from raycodellm.pairs.differences import Gap
from raycodellm.statistics import ERROR, Word

_LESS_IS_BETTER = ("bpb", "perplexity", "ppl", "loss")
"""Beginnings of the names of metrics of which less is better."""


def less_is_better(metric: str) -> bool:
    """True for a metric, `<task>/<name>`, of which less is better."""
    return metric.rpartition("/")[2].startswith(_LESS_IS_BETTER)


def word(metric: str, gap: Gap | None) -> Word | None:
    """The word for the other model against the base, with all tested differences of all pairs holding at once; None
    for a difference that is not tested."""
    if gap is None or gap.p_corrected is None:
        return None
    if gap.p_corrected > ERROR or not gap.interval.value:
        return "not known"
    return "better" if (gap.interval.value < 0) == less_is_better(metric) else "worse"
