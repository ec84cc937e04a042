"""`report/verdict.json`: the verdicts of a sweep for machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycodellm.config import SweepFile
from raycodellm.statistics import ERROR, look_errors
from raycodellm.tables.plain_json import finite_json
from raycodellm.verdict.constraints import Breach
from raycodellm.verdict.findings import Findings
from raycodellm.verdict.verdicts import Verdict

FORMAT = 1
"""Raised when a key changes its meaning or goes."""
RULES = 1
"""Version of the rules that give a verdict. Raised whenever the same trials may get another verdict than before."""


def document(
    file: SweepFile, known: Findings, answer: str, num_ended: int, sources: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The content of `verdict.json`, with null for each number that is not known.

    `answer`: the verdict in words. `num_ended`: trials that the verdicts were worked out from. `sources`: the digest of
    each source's text, without which no score repeats; None where they are not known.
    """
    settings = file.example().search
    confirm = settings.confirm
    found = {
        "format": FORMAT,
        "sweep": file.example().name,
        "answer": answer,
        "basis": known.basis,
        "reference": known.compared_with if settings.reference is not None else None,
        "compared_with": known.compared_with,
        "phase": known.looks.phase,
        "looks": list(confirm.seeds) if confirm is not None else [],
        "look": known.looks.look if confirm is not None else None,
        "pending": len(known.looks.pending),
        "num_ended": num_ended,
        "margin": confirm.margin if confirm is not None else None,
        "error": sum(look_errors(confirm.seeds, len(confirm.planned))) if confirm is not None else ERROR,
        "rules": RULES,
        "seeds_of_noise": known.seeds_of_noise,
        "scores_compared_with": [
            {"metric": metric, "score": score.value, "low": score.low, "high": score.high}
            for metric, score in known.comparison.scores.items()
        ],
        "verdicts": [_verdict(one) for one in known.verdicts],
        "constraints": [_constraint(one) for one in known.breaches],
        "sources": sources if sources is None else dict(sources),
    }
    plain: dict[str, Any] = finite_json(found)
    return plain


def _constraint(one: Breach) -> dict[str, Any]:
    return {
        "arm": one.arm,
        "constraint": one.constraint.name,
        "metric": one.constraint.metric,
        "score": one.value,
        "limit": one.limit,
        "breach": one.breach.value,
        "breach_low": one.breach.low,
        "breach_high": one.breach.high,
        "is_broken": one.is_broken,
        "certainty": one.certainty,
    }


def _verdict(one: Verdict) -> dict[str, Any]:
    return {
        "arm": one.arm,
        "params": dict(one.params),
        "metric": one.metric,
        "score": one.score.value,
        "low": one.score.low,
        "high": one.score.high,
        "seeds": len(one.seeds),
        "items": one.items,
        "difference": one.difference.value,
        "difference_low": one.difference.low,
        "difference_high": one.difference.high,
        "p_corrected": one.p_corrected,
        "verdict": one.word,
        "is_final": one.is_final,
        "selected_score": one.selected_score,
    }
