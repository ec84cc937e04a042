"""The checks of early stopping: a trial can be stopped as the file asks, and the rungs of trials can be compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from raycodellm.config.early_stopping_settings import EarlyStopping
from raycodellm.config.errors import UserError, shown
from raycodellm.config.search_settings import Search
from raycodellm.config.stage_settings import Stage

_SHAPE = ("sequence_length", "batch_tokens", "packing", "responses_only", "budget")
"""Settings of a stage that decide what its rungs measure, beside its length and its held-out text."""


class Sections(Protocol):
    """The sections of a sweep that are checked together."""

    @property
    def stages(self) -> tuple[Stage, ...]: ...

    @property
    def trained_stages(self) -> tuple[Stage, ...]: ...

    @property
    def search(self) -> Search: ...

    def drawn_sources(self, stage: Stage) -> tuple[str, ...]: ...


def check_early_stopping(sweep: Sections) -> None:
    """Raises ValueError where a trial of the sweep could not be stopped early as the file asks."""
    early = sweep.search.early_stopping
    if early is None:
        return
    if len(sweep.search.objectives) > 1:
        raise ValueError(
            f"search.early_stopping: found {len(sweep.search.objectives)} objectives; a trial that is behind in one "
            "metric may be on their Pareto front, so give one objective or leave early_stopping out"
        )
    names = [stage.name for stage in sweep.stages]
    if early.stage is not None and early.stage not in names:
        stage_names = ", ".join(names) or "no stage"
        raise ValueError(f"search.early_stopping.stage: found {early.stage!r}; the sweep has {stage_names}")
    stage = early.stage_of(sweep)
    if stage is None:
        if not sweep.stages:
            raise ValueError("search.early_stopping: nothing is trained (stages: []); leave early_stopping out")
        return  # `require_comparable` says that some trials skip the stage
    if stage.held_out is None:
        raise ValueError(
            f"search.early_stopping: compares held-out text of stage {stage.name!r}, which holds none out; add "
            f"stages.{stage.name}.held_out, for example {{tokens: 20_000}}"
        )
    if early.source not in sweep.drawn_sources(stage):
        metrics = ", ".join(f"bpb/{name}" for name in sweep.drawn_sources(stage)) or "no source"
        raise ValueError(f"search.early_stopping.metric: found {early.metric}; stage {stage.name!r} measures {metrics}")
    steps = early.steps(stage.num_steps)
    for before, after in itertools.pairwise((0, *steps, stage.num_steps)):
        if after <= before:
            raise ValueError(
                f"search.early_stopping.at: stage {stage.name!r} has {stage.num_steps} steps, so that its rungs are "
                f"after steps {', '.join(map(str, steps))}; give shares that are a step apart, or a longer stage"
            )


def require_comparable(sweeps: Iterable[Sections], origin: str) -> None:
    """Raises `UserError` where the rungs of two trials are not of the same stage, length and held-out text.

    `sweeps`: the sweep at points that together have every value of every search.
    """
    first_shape: Mapping[str, Any] = {}
    for sweep in sweeps:
        if sweep.search.early_stopping is None:
            continue
        shape = _shape(sweep, sweep.search.early_stopping)
        first_shape = first_shape or shape
        key = next((key for key in {**first_shape, **shape} if first_shape.get(key) != shape.get(key)), None)
        if key is not None:
            raise UserError(
                f"{origin}: search.early_stopping: trials have different {key} ({shown(first_shape.get(key))} and "
                f"{shown(shape.get(key))}), so their rungs cannot be compared; search one of the two at a time"
            )


def _shape(sweep: Sections, early: EarlyStopping) -> Mapping[str, Any]:
    """Everything that decides what is measured at a rung and after how many tokens, by the key of the sweep file."""
    compared = early.stage_of(sweep)
    shape: dict[str, Any] = {f"stages.{stage.name}.enabled": stage.enabled for stage in _up_to(compared, sweep.stages)}
    for stage in sweep.stages:
        held_out_tokens = stage.held_out.tokens if stage.held_out is not None else None
        shape[f"stages.{stage.name}.held_out.tokens"] = held_out_tokens
        shape[f"stages.{stage.name}.sources"] = list(sweep.drawn_sources(stage)) if held_out_tokens else None
    for stage in _up_to(compared, sweep.trained_stages):
        key = f"stages.{stage.name}"
        shape[f"{key}.tokens"] = stage.num_tokens
        if stage.budget == "additive":  # its length follows from its share of code
            shape[f"{key}.code_ratio"] = stage.code_ratio
            shape[f"{key}.weights"] = stage.weights
            shape[f"{key}.phases"] = [dict(phase) for phase in stage.phases or ()]
    if compared is not None:
        shape |= {f"stages.{compared.name}.{name}": getattr(compared, name) for name in _SHAPE}
    return shape


def _up_to(stage: Stage | None, stages: Sequence[Stage]) -> Sequence[Stage]:
    """The stages up to and with `stage`; all stages for None."""
    return stages[: stages.index(stage) + 1] if stage is not None else stages
