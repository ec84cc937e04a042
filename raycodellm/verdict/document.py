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
    findings: Findings,
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
    content = {
        "format": FORMAT,
        "sweep": file.example().name,
        "answer": answer,
        "basis": findings.basis,
        "reference": findings.compared_with if settings.reference is not None else None,
        "compared_with": findings.compared_with,
        "phase": findings.looks.phase,
        "looks": list(confirm.seeds) if confirm is not None else [],
        "look": findings.looks.look if confirm is not None else None,
        "pending": len(findings.looks.pending),
        "num_ended": num_ended,
        "margin": confirm.margin if confirm is not None else None,
        "error": sum(look_errors(confirm.seeds, len(confirm.planned))) if confirm is not None else ERROR,
        "rules": RULES,
        "seeds_of_noise": findings.seeds_of_noise,
        "scores_compared_with": [
            {"metric": metric, "score": score.value, "low": score.low, "high": score.high}
            for metric, score in findings.comparison.scores.items()
        ],
        "verdicts": [_plain_verdict(verdict) for verdict in findings.verdicts],
        "told": [[_short_verdict(verdict) for verdict in look] for look in findings.looks.told],
        "transfers": [
            _short_verdict(task, direction)
            for transfer in transfers(file, findings.verdicts)
            for direction, tasks in (("against", transfer.against), ("perhaps", transfer.unsure))
            for task in tasks
        ],
        "seed_noise": None if noise is None else _plain_noise(noise),
        "constraints": [_plain_breach(breach) for breach in findings.breaches],
        "sources": sources if sources is None else dict(sources),
    }
    plain: dict[str, Any] = finite_json(content)
    return plain


def _plain_breach(breach: Breach) -> dict[str, Any]:
    return {
        "arm": breach.arm,
        "constraint": breach.constraint.name,
        "metric": breach.constraint.metric,
        "score": breach.value,
        "limit": breach.limit,
        "breach": breach.breach.value,
        "breach_low": breach.breach.low,
        "breach_high": breach.breach.high,
        "is_broken": breach.is_broken,
        "certainty": breach.certainty,
        "is_of_reference": breach.is_of_reference,
    }


def _short_verdict(verdict: Verdict, direction: str | None = None) -> dict[str, Any]:
    """A verdict in short; `direction`: how a task goes against the arm's overall verdict, "against" or "perhaps"."""
    plain = {name: value for name, value in _plain_verdict(verdict).items() if name in _SHORT_KEYS}
    return plain if direction is None else {**plain, "goes": direction}


_SHORT_KEYS = ("arm", "metric", "seeds", "difference", "difference_low", "difference_high", "verdict", "is_final")


def _plain_noise(spreads: SeedSpreads) -> dict[str, Any]:
    return {
        "metric": spreads.metric,
        **_plain_deviation(spreads.pooled),
        "arms": [
            {"arm": spread.arm, "seeds": spread.num_seeds, **_plain_deviation(spread.deviation)}
            for spread in spreads.arms
        ],
        "ratios": [
            {
                "parameter": comparison.parameter,
                "at": comparison.values,
                "is_of_ends": comparison.is_of_ends,
                "arms": list(comparison.arms),
                "others": list(comparison.others),
                "ratio": comparison.ratio.value,
                "ratio_low": comparison.ratio.low,
                "ratio_high": comparison.ratio.high,
                "noise": comparison.word,
            }
            for comparison in spreads.ratios
        ],
    }


def _plain_deviation(interval: Interval) -> dict[str, float]:
    return {"deviation": interval.value, "deviation_low": interval.low, "deviation_high": interval.high}


def _plain_verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "arm": verdict.arm,
        "params": dict(verdict.params),
        "metric": verdict.metric,
        "score": verdict.score.value,
        "low": verdict.score.low,
        "high": verdict.score.high,
        "seeds": len(verdict.seeds),
        "items": verdict.items,
        "difference": verdict.difference.value,
        "difference_low": verdict.difference.low,
        "difference_high": verdict.difference.high,
        "p_corrected": verdict.p_corrected,
        "verdict": verdict.word,
        "is_final": verdict.is_final,
        "selected_score": verdict.selected_score,
    }
