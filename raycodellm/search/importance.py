"""The searched parameters' importance for the score, by Optuna's evaluators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raycodellm.config import SweepFile
from raycodellm.search.journal_file import quiet_optuna
from raycodellm.search.space import by_key, by_name, distributions, simplices, unit_keys

FEWEST_POINTS = 20
"""Points below which importance would be that of a few accidents."""
_TREES, _DEPTH = 16, 8
"""Sizes of fANOVA's forest. Its defaults, 64 of each, take 4 s for 500 arms; on a made run of 500 the shares were the
same within 0.003."""
PED_ANOVA, FANOVA = "PED-ANOVA", "fANOVA"


def importances(
    file: SweepFile, points: Sequence[Mapping[str, Any]], scores: Sequence[float], mode: str
) -> dict[str, dict[str, float]]:
    """Maps each evaluator to the parameters' shares of importance, which sum to 1, the largest first.

    `points`: the arms' parameters by name; `scores`: their scores; `mode`: min or max. PED-ANOVA says how much a
    parameter decides whether an arm is among the best tenth, fANOVA how much of the scores' variance it explains, of
    the parameters that all arms have. Empty with fewer than `FEWEST_POINTS` points, fewer than two parameters, or equal
    scores.
    """
    import optuna

    quiet_optuna()
    arms = [(point, score, distributions(file, point)) for point, score in zip(points, scores, strict=True)]
    whole_arms = [(point, score, space) for point, score, space in arms if space is not None]
    num_scores = len({score for _, score, _ in whole_arms})
    if (
        len(whole_arms) < FEWEST_POINTS
        or num_scores < 2
        or len({name for point, _, _ in whole_arms for name in point}) < 2
    ):
        return {}
    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    study.add_trials(
        [optuna.trial.create_trial(**_content(file, point, space), value=score) for point, score, space in whole_arms]
    )
    evaluators: dict[str, optuna.importance.BaseImportanceEvaluator] = {
        PED_ANOVA: optuna.importance.PedAnovaImportanceEvaluator(),
    }
    if not simplices(file):
        evaluators[FANOVA] = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, max_depth=_DEPTH, seed=0)
    by_evaluator = {
        name: _by_name(file, optuna.importance.get_param_importances(study, evaluator=evaluator))
        for name, evaluator in evaluators.items()
    }
    return {name: shares for name, shares in by_evaluator.items() if shares}


def _content(file: SweepFile, point: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and distributions of a point for the evaluators: by Optuna's keys, mixtures by their weights."""
    from optuna.distributions import FloatDistribution

    keyed, keyed_space = by_key(file, point), dict(space)
    for parameter in file.parameters:
        simplex = parameter.domain.simplex
        if (
            simplex is not None
            and parameter.name in point
            and parameter.is_active(point)
            and parameter.domain.low < parameter.domain.high
        ):
            for key in unit_keys(file, simplex):
                keyed.pop(key, None), keyed_space.pop(key, None)
            keyed[parameter.key] = point[parameter.name]
            keyed_space[parameter.key] = FloatDistribution(parameter.domain.low, parameter.domain.high)
    return {"params": keyed, "distributions": keyed_space}


def _by_name(file: SweepFile, shares: Mapping[str, float]) -> dict[str, float]:
    """Shares by the parameters' names. The spaces that a name has in several options of a choice count together."""
    summed: dict[str, float] = {}
    for key, share in shares.items():
        (name,) = by_name(file, {key: None})
        summed[name] = summed.get(name, 0.0) + float(share)
    return dict(sorted(summed.items(), key=lambda item: -item[1]))
