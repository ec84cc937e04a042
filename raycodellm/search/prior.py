"""Trials of other sweeps as prior knowledge of a sampler (`search.warm_start`).

The sampler is asked about a copy of the study in memory, which holds the sweep's own trials under their numbers and the
other sweeps' trials behind them. So the study itself has no trial but the sweep's own, and nothing that reads it takes
another sweep's trial for one of this sweep's.

Scores of two sweeps need not be alike: one may have trained longer. Each sweep's scores are therefore taken by their
rank among that sweep's own, as the normal quantile of the rank (a Gaussian copula; Salinas, Shen & Perrone 2020,
section 4). A single trial says nothing about itself, and is in the middle.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from raycodellm.config import SweepFile
from raycodellm.search.space import by_key, distributions, is_relevant, sampling_order

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

LEARNING = ("tpe", "gp", "nsga2")
"""Samplers that learn from other sweeps' trials: to `nsga2` these are of the first generation, from which the second is
bred. The points of the other samplers depend on no score."""


@dataclass(frozen=True)
class PriorTrial:
    """A complete trial of another sweep, as this sweep's sampler learns from it."""

    run: str
    """Address of the run folder."""
    number: int
    params: dict[str, Any]
    """A whole point of this sweep's space, by the parameters' names."""
    values: tuple[float, ...]
    """The trial's scores in this sweep's objectives."""
    breaches: dict[str, float] = field(default_factory=dict)
    """How far the trial is beyond each constraint of this sweep, by the constraint's name."""


def whole_point(file: SweepFile, values: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that have an effect together, with their `values` (by name). Raises `KeyError` with the name of a
    parameter that has an effect and no value."""
    point: dict[str, Any] = {}
    for parameter in sampling_order(file):
        if parameter.name not in point and is_relevant(file, parameter, point):
            point[parameter.name] = values[parameter.name]
    return point


def with_prior(study: optuna.Study, file: SweepFile, prior: Sequence[PriorTrial]) -> optuna.Study:
    """A copy of the study in memory, with the prior trials behind the study's own, each with its origin as the user
    attribute `warm_start`."""
    import optuna
    from optuna.trial import TrialState, create_trial

    copy = optuna.create_study(directions=study.directions)
    own_trials = study.get_trials(deepcopy=False)
    complete_trials = [trial for trial in own_trials if trial.state == TrialState.COMPLETE]
    has_constraints = all(trial.constraints for trial in complete_trials) and all(
        prior_trial.breaches for prior_trial in prior
    )
    own_quantiles = quantiles([trial.values for trial in complete_trials])
    ranked = dict(zip([trial.number for trial in complete_trials], own_quantiles, strict=True))
    generation = _generation_attribute()
    for trial in own_trials:
        values = ranked.get(trial.number, trial.values if trial.state != TrialState.COMPLETE else None)
        content = {
            "params": trial.params,
            "distributions": trial.distributions,
            "user_attrs": trial.user_attrs,
            "intermediate_values": trial.intermediate_values,
            "system_attrs": {name: trial.system_attrs[name] for name in trial.system_attrs.keys() & {generation}},
        }
        constraints = trial.constraints if has_constraints else None
        copy.add_trial(create_trial(state=trial.state, values=values, constraints=constraints, **content))
    for run in dict.fromkeys(prior_trial.run for prior_trial in prior):
        run_trials = [prior_trial for prior_trial in prior if prior_trial.run == run]
        run_quantiles = quantiles([prior_trial.values for prior_trial in run_trials])
        for prior_trial, values in zip(run_trials, run_quantiles, strict=True):
            if (space := distributions(file, prior_trial.params)) is not None:
                copy.add_trial(
                    create_trial(
                        values=values,
                        params=by_key(file, prior_trial.params),
                        distributions=space,
                        user_attrs={"warm_start": prior_trial.run, "number": prior_trial.number},
                        system_attrs={generation: 0},
                        constraints=prior_trial.breaches if has_constraints else None,
                    )
                )
    return copy


@lru_cache
def _generation_attribute() -> str:
    """The name by which Optuna's NSGA-II knows the generation of a trial, as it writes it into its first trial."""
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.NSGAIISampler(population_size=2, seed=0))
    study.ask({"any": optuna.distributions.FloatDistribution(0.0, 1.0)})
    (name,) = study.trials[0].system_attrs
    return str(name)


def quantiles(values: Sequence[Sequence[float]]) -> list[list[float]]:
    """Each trial's values as normal quantiles of their ranks among the trials, objective by objective; equal values
    share the mean of their ranks."""
    columns = [_quantiles(column) for column in zip(*values, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _quantiles(values: Sequence[float]) -> list[float]:
    normal, num_values = statistics.NormalDist(), len(values)
    order: dict[float, list[int]] = {}
    for rank, value in enumerate(sorted(values)):
        order.setdefault(value, []).append(rank)
    return [normal.inv_cdf((statistics.fmean(order[value]) + 0.5) / num_values) for value in values]


def sampler_view(
    study: optuna.Study, trial: FrozenTrial, file: SweepFile, prior: Sequence[PriorTrial]
) -> tuple[optuna.Study, FrozenTrial]:
    """The study and the trial as a sampler is asked about them."""
    if not prior:
        return study, trial
    copy = with_prior(study, file, prior)
    return copy, copy.get_trials(deepcopy=False)[trial.number]
