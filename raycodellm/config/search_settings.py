"""The search: how many trials, by which sampler, for which objective."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raycodellm.config.early_stopping_settings import EarlyStopping
from raycodellm.config.field_types import Frozen, Number, Whole

SAMPLERS = ("tpe", "gp", "nsga2", "random", "qmc", "grid")


class Objective(Frozen):
    """A metric that the search optimises."""

    metric: str
    """A metric of the evaluation, for example `mean/bpb` or `boxes/acc`."""
    mode: Literal["min", "max"]
    """`min` where lower values are better, `max` where higher ones are."""


class Constraint(Frozen):
    """A metric that an arm may not make worse than a limit, as `{metric: bpb_prose/bpb, mode: min, within: 0.01}`. The
    sampler learns how far each trial is beyond its limit; arms that keep all constraints rank before the others."""

    metric: str
    """A metric of the evaluation."""
    mode: Literal["min", "max"]
    """`min` where lower values are better, so that the limit is a highest value; `max` where it is a lowest one."""
    within: Annotated[Number, Field(ge=0)] | None = None
    """Share of the reference's value by which the metric may be worse than the reference's; needs `reference`. Either
    this or `bound`."""
    bound: Number | None = None
    """The limit itself, in the metric's unit."""

    @model_validator(mode="after")
    def _one_limit(self) -> Constraint:
        if (self.within is None) == (self.bound is None):
            raise ValueError("give either within, a share of the reference's value, or bound, a value of the metric")
        return self

    @property
    def name(self) -> str:
        """The constraint as it is told: `bpb_prose/bpb <= reference + 1 %`."""
        side = "<=" if self.mode == "min" else ">="
        if self.bound is not None:
            return f"{self.metric} {side} {self.bound:g}"
        share = f"{'+' if self.mode == 'min' else '-'} {100 * (self.within or 0.0):g} %"
        return f"{self.metric} {side} reference {share}"


class ConfirmationBegun(Frozen):
    """The plan of a confirmation as it was when its first fresh seed was trained. A run that is continued with more
    trials or looks writes it into its own `sweep.yaml`; sweep files leave it out."""

    looks: Annotated[Whole, Field(ge=1)]
    """Looks that were planned before fresh seeds had been seen: the first ones of `seeds`. The error that these may
    spend stays as it was."""
    trials: Annotated[Whole, Field(ge=1)]
    """Trials of the search that the confirmed arms were chosen from: the first ones of the sweep."""
    metrics: tuple[str, ...] | None = None
    """Metrics that verdicts are given on. Those of tasks that were added later have scores and no verdict."""


class Confirm(Frozen):
    """Fresh seeds for the best arms and the reference, after the search; the verdict uses these seeds alone."""

    best: Annotated[Whole, Field(ge=1)] = 2
    """Arms that are confirmed, beside the reference; all where there are fewer. The best by the objective; with several
    objectives the ends of the Pareto front, then its arms in the widest gaps, then the next front's."""
    seeds: Annotated[tuple[Annotated[Whole, Field(ge=2)], ...], Field(min_length=1)] = (2, 4, 8)
    """Fresh seeds per arm, in all, at each look at the results. The sweep ends at the first look at which every verdict
    is known."""
    margin: (
        Annotated[Number, Field(gt=0)]
        | Annotated[dict[str, Annotated[Number, Field(gt=0)]], Field(min_length=1)]
        | None
    ) = None
    """Difference up to which two arms count as equal: a number, in the first objective's unit, or one for each unit or
    metric, for example `{bpb: 0.01, acc: 0.02, boxes/acc: 0.05}`. No arm is found equal where it says nothing."""
    begun: ConfirmationBegun | None = None
    """Written by a run that was continued with more trials or looks, into its own `sweep.yaml`; leave it out."""

    @model_validator(mode="after")
    def _looks_grow(self) -> Confirm:
        for before, after in itertools.pairwise(self.seeds):
            if after <= before:
                raise ValueError(f"seeds: found {after} after {before}; give growing numbers, for example [2, 4, 8]")
        if self.begun is not None and self.begun.looks > len(self.seeds):
            raise ValueError(
                f"begun.looks: found {self.begun.looks} with {len(self.seeds)} looks in seeds; remove begun"
            )
        return self

    def margin_of(self, metric: str, first_metric: str) -> float | None:
        """The margin of a metric, where `first_metric` is that of the first objective."""
        unit = metric.rpartition("/")[2]
        if isinstance(self.margin, dict):
            return self.margin.get(metric, self.margin.get(unit))
        return self.margin if unit == first_metric.rpartition("/")[2] else None

    @property
    def planned(self) -> tuple[int, ...]:
        """Fresh seeds at each look that was planned before fresh seeds had been seen."""
        return self.seeds if self.begun is None else self.seeds[: self.begun.looks]


class Search(Frozen):
    """Which points of the search space become trials."""

    trials: Annotated[Whole, Field(ge=1)] | None = None
    """Arms to try; each is run once per replicate. With the grid sampler: all points when left out."""
    sampler: Literal[SAMPLERS] = "tpe"  # type: ignore[valid-type]
    """Optuna's sampler: `tpe` (tree-structured Parzen estimator), `gp` (Gaussian process), `nsga2` (evolutionary, for
    several objectives), `random`, `qmc` (a Sobol sequence, which fills the space more evenly than `random`; best with
    a power of two as `trials`), or `grid` (every combination of choices and whole numbers)."""
    objective: Objective | Annotated[tuple[Objective, ...], Field(min_length=1)] = Objective(
        metric="mean/bpb", mode="min"
    )
    """One objective, or a list of them for a multi-objective search; `{metric: mean/bpb, mode: min}` when left out."""
    replicates: Annotated[Whole, Field(ge=1)] = 1
    """Seeds per arm. With 1, nothing is known of the noise between seeds."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Points to try first, each a mapping of parameter name to value, for example `{pretrain.code_ratio: 0.25}`. A
    parameter that a point leaves out is sampled."""
    reference: dict[str, Any] | None = None
    """The arm that every other arm is compared with, a value for each searched parameter, for example
    `{pretrain.code_ratio: 0.0}`. It is always run, before all other arms. When left out, arms are compared with the
    one that is first in rank."""
    warm_start: tuple[str, ...] = ()
    """Runs of other sweeps whose complete trials the sampler learns from (`tpe`, `gp`, `nsga2`). Each is the name of a
    sweep in the same storage, or the whole path or address of a run folder."""
    constraints: tuple[Constraint, ...] = ()
    """Limits on other metrics: the search prefers arms that keep all of them."""
    confirm: Confirm | None = None
    """Fresh seeds after the search, on which the verdict rests; needs `reference`. None when left out."""

    early_stopping: EarlyStopping | None = None
    """Stops trials early that are behind the others; off when left out."""

    max_failed: Annotated[Whole, Field(ge=0)] | None = None
    """Failed trials that the sweep goes on with. With one more no further trial begins, those that run end, and the
    exit code is 1. No limit when left out."""

    pairs: tuple[tuple[str, str], ...] = ()
    """Pairs of given models to compare, for a sweep with `stages: []`: each `[base, other]` two values of
    `model.pretrained`. When left out, every model is compared with the reference, or else with the first."""

    @model_validator(mode="after")
    def _has_reference(self) -> Search:
        if self.confirm is not None and self.reference is None:
            raise ValueError(
                "confirm: needs reference, the arm that the others are compared with; "
                "give it, for example reference: {pretrain.code_ratio: 0.0}"
            )
        if self.reference is None and any(constraint.within is not None for constraint in self.constraints):
            raise ValueError(
                "constraints: within is a share of the reference's value, and there is no reference; give it, for "
                "example reference: {pretrain.code_ratio: 0.0}, or a bound in the place of within"
            )
        for run in self.warm_start:
            if "/" in run and "://" not in run and not run.startswith(("/", "~")):
                raise ValueError(
                    f"warm_start: found {run!r}, a relative path; give the name of a sweep in the same storage, or the "
                    "whole path or address of a run folder"
                )
        metrics = [objective.metric for objective in self.objectives]
        for key, names in {
            "objective": metrics,
            "constraints": [constraint.name for constraint in self.constraints],
        }.items():
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{key}: {name} is there twice; remove one")
        return self

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return (self.objective,) if isinstance(self.objective, Objective) else self.objective
