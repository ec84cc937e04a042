"""Early stopping of trials: which stage is compared, at which of its steps, by which measurement."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Protocol

from pydantic import Field, field_validator

from raycodellm.config.errors import shown
from raycodellm.config.field_types import Frozen, Name, Number
from raycodellm.config.stage_settings import Stage

_METRIC = "bpb/"
_Share = Annotated[Number, Field(gt=0.0, lt=1.0)]


class _Staged(Protocol):
    """The part of a sweep that early stopping chooses its stage from."""

    @property
    def trained_stages(self) -> tuple[Stage, ...]: ...


class EarlyStopping(Frozen):
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934): stops trials whose held-out text is predicted
    worse than that of the others at the same share of the same stage. The first 1/`keep` trials at a rung go on, and
    after them each that is among the best `keep` of those that have reached the rung. The reference and the
    confirmation are never stopped. Of several replicates, the first decides for its arm."""

    stage: Name | None = None
    """The stage whose rungs are compared; the first that is trained when left out. It needs `held_out`."""
    metric: str
    """`bpb/` and the name of a source of the stage: bits per byte of that source's held-out text. Lower is better."""
    at: Annotated[tuple[_Share, ...], Field(min_length=1)] = (0.25, 0.5)
    """The rungs, as shares of the stage's steps. The held-out text is measured at the first step that reaches the
    share, whatever `held_out.every_tokens` and the checkpoints' interval are."""
    keep: _Share = 0.5
    """Share of the trials at a rung that go on."""

    @field_validator("metric")
    @classmethod
    def _of_a_source(cls, metric: str) -> str:
        if not metric.startswith(_METRIC) or metric == _METRIC:
            raise ValueError(f"found {shown(metric)}; give bpb/ and the name of a source, for example bpb/prose")
        return metric

    @field_validator("at")
    @classmethod
    def _growing(cls, at: tuple[float, ...]) -> tuple[float, ...]:
        for before, after in itertools.pairwise(at):
            if after <= before:
                raise ValueError(f"found {after:g} after {before:g}; give growing shares, for example [0.25, 0.5]")
        return at

    @property
    def source(self) -> str:
        """The source whose held-out text is measured."""
        return self.metric.removeprefix(_METRIC)

    def stage_of(self, sweep: _Staged) -> Stage | None:
        """The stage whose rungs are compared; None where the sweep does not train it."""
        return next((stage for stage in sweep.trained_stages if self.stage in (None, stage.name)), None)

    def steps(self, num_steps: int) -> tuple[int, ...]:
        """The rungs of a stage of `num_steps` steps, as numbers of trained steps."""
        return tuple(math.ceil(share * num_steps - 1e-9) for share in self.at)
