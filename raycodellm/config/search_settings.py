"""The search: how many trials, by which sampler, for which objective."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from raycodellm.config.field_types import Frozen, Whole

SAMPLERS = ("tpe", "gp", "nsga2", "random", "grid")


class Objective(Frozen):
    """A metric that the search optimises."""

    metric: str
    """A metric of the evaluation, for example `mean/bpb` or `boxes/acc`."""
    mode: Literal["min", "max"]
    """`min` where lower values are better, `max` where higher ones are."""


class Search(Frozen):
    """Which points of the search space become trials."""

    trials: Annotated[Whole, Field(ge=1)] | None = None
    """Arms to try; each is run once per replicate. With the grid sampler: all points when left out."""
    sampler: Literal[SAMPLERS] = "tpe"  # type: ignore[valid-type]
    """Optuna's sampler: `tpe` (tree-structured Parzen estimator), `gp` (Gaussian process), `nsga2` (evolutionary, for
    several objectives), `random`, or `grid` (every combination of choices and whole numbers)."""
    objective: Objective | Annotated[tuple[Objective, ...], Field(min_length=1)] = Objective(
        metric="mean/bpb", mode="min"
    )
    """One objective, or a list of them for a multi-objective search."""
    replicates: Annotated[Whole, Field(ge=1)] = 1
    """Seeds per arm. With 1, nothing is known of the noise between seeds."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Points to try first, each a mapping of parameter name to value, for example `{pretrain.code_ratio: 0.25}`. A
    parameter that a point leaves out is sampled."""

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return (self.objective,) if isinstance(self.objective, Objective) else self.objective
