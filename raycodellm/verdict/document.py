"""`report/verdict.json`: the verdicts of a sweep for machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycodellm.config import SweepFile
from raycodellm.statistics import ERROR, Interval, look_errors
from raycodellm.tables.plain_json import finite_json
from raycodellm.verdict.constraints import Breach
from raycodellm.verdict.findings import Findings
from raycodellm.verdict.seed_spread import SeedSpreads
from raycodellm.verdict.transfer import transfers
from raycodellm.verdict.verdicts import Verdict

FORMAT = 1
"""Raised when a key changes its meaning or goes."""
RULES = 2
"""Version of the rules that give a verdict. Raised whenever the same trials may get another verdict than before."""


def document(
    file: SweepFile,
    known: Findings,
    answer: str,
    num_ended: int,
    sources: Mapping[str, str] | None = None,
    noise: SeedSpreads | None = None,
) -> dict[str, Any]:
    """The content of `verdict.json`, with null for each number that is not known.

    `answer`: the verdict in words. `num_ended`: trials that the verdicts were worked out from. `sources`: the digest of
    each source's text, without which no score repeats; None where they are not known. `noise`: that between seeds.
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
        "told": [[_told(one) for one in look] for look in known.looks.told],
        "transfers": [
            _told(task, how)
            for one in transfers(file, known.verdicts)
            for how, tasks in (("against", one.against), ("perhaps", one.unsure))
            for task in tasks
        ],
        "seed_noise": None if noise is None else _noise(noise),
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
        "is_of_reference": one.is_of_reference,
    }


def _told(one: Verdict, how: str | None = None) -> dict[str, Any]:
    """A verdict in short; `how` a task goes against the arm's overall verdict."""
    found = {name: value for name, value in _verdict(one).items() if name in _TOLD}
    return found if how is None else {**found, "goes": how}


_TOLD = ("arm", "metric", "seeds", "difference", "difference_low", "difference_high", "verdict", "is_final")


def _noise(found: SeedSpreads) -> dict[str, Any]:
    return {
        "metric": found.metric,
        **_deviation(found.pooled),
        "arms": [{"arm": one.arm, "seeds": one.num_seeds, **_deviation(one.deviation)} for one in found.arms],
        "ratios": [
            {
                "parameter": one.parameter,
                "at": one.values,
                "is_of_ends": one.is_of_ends,
                "arms": list(one.arms),
                "others": list(one.others),
                "ratio": one.ratio.value,
                "ratio_low": one.ratio.low,
                "ratio_high": one.ratio.high,
                "noise": one.word,
            }
            for one in found.ratios
        ],
    }


def _deviation(one: Interval) -> dict[str, float]:
    return {"deviation": one.value, "deviation_low": one.low, "deviation_high": one.high}


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
