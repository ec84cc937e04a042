"""The search: how many trials, by which sampler, for which objective."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from raycodellm.config.field_types import Frozen, Whole

SAMPLERS = ("tpe", "gp", "nsga2", "random", "grid")


class Objective(Frozen):
    metric: str
    mode: Literal["min", "max"]


class Search(Frozen):
    trials: Annotated[Whole, Field(ge=1)] | None = None
    """Arms to try; each is run once per replicate. With the grid sampler: all points when left out."""
    sampler: Literal[SAMPLERS] = "tpe"  # type: ignore[valid-type]
    objective: Objective | Annotated[tuple[Objective, ...], Field(min_length=1)] = Objective(
        metric="mean/bpb", mode="min"
    )
    replicates: Annotated[Whole, Field(ge=1)] = 1
    """Seeds per arm."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Points to try first: parameter name to value; parameters left out are sampled."""

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return (self.objective,) if isinstance(self.objective, Objective) else self.objective
