"""A ladder of sizes: the same arms as several sweeps, one for each size of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

from pydantic import Field, field_validator, model_validator

from raycodellm.config.errors import suggest
from raycodellm.config.field_types import Frozen, Number, Whole
from raycodellm.config.model_settings import MODEL_PRESETS, Model
from raycodellm.config.search_settings import Search
from raycodellm.config.stage_settings import Stage

TOKENS_PER_PARAMETER = 20.0
"""Hoffmann et al. 2022 ("Training Compute-Optimal Large Language Models", table 3): about 20 at every size."""


class Ladder(Frozen):
    """A ladder of sizes: runs the sweep once for each preset, smallest first, and reports each effect against size."""

    presets: tuple[str, ...]
    """Presets of `model.preset`, one size each, from the smallest to the largest. Each size is a sweep of its own,
    `<name>-<preset>`, in the same storage."""
    tokens_per_parameter: Annotated[Number, Field(gt=0)] = TOKENS_PER_PARAMETER
    """Tokens that a size trains per parameter of its model, all stages together; the stages keep their shares of the
    tokens. Every trained parameter counts, a tied embedding once."""
    learning_rate: dict[str, Annotated[Number, Field(gt=0)]] | None = None
    """Preset -> factor on the `learning_rate.peak` of every stage, for example `{tiny: 1, nano: 0.4}`; a peak that is
    searched stays as the arm says. Left out where `model.parametrization: mup` transfers the rates, or where the
    peak of every stage is searched."""
    carry: Annotated[Whole, Field(ge=1)] | None = None
    """Arms that the smallest size chooses for the others: its search runs as the file says, and the best so many of its
    confirmed arms, with the reference, are the arms of all other sizes. Needs `search.confirm`. Left out, each size has
    all arms, which then must not depend on scores."""

    @field_validator("presets")
    @classmethod
    def _known_and_different(cls, presets: tuple[str, ...]) -> tuple[str, ...]:
        if len(presets) < 2:
            raise ValueError(f"found {len(presets)} preset{'s' * (len(presets) != 1)}; give two or more")
        for preset in presets:
            if preset not in MODEL_PRESETS:
                raise ValueError(f"preset {preset!r} is not known; {suggest(preset, MODEL_PRESETS)}")
            if presets.count(preset) > 1:
                raise ValueError(f"found {preset!r} twice; name each preset once")
        return presets

    @model_validator(mode="after")
    def _rates_of_all_presets(self) -> Ladder:
        if self.learning_rate is not None:
            for preset in self.learning_rate:
                if preset not in self.presets:
                    raise ValueError(f"learning_rate: {preset!r} is none of presets; {suggest(preset, self.presets)}")
            if missing := [preset for preset in self.presets if preset not in self.learning_rate]:
                raise ValueError(f"learning_rate: has no factor for {missing[0]}; add it, for example {missing[0]}: 1")
        return self


class Sections(Protocol):
    """The sections of a sweep file that a ladder depends on."""

    @property
    def ladder(self) -> Ladder | None: ...

    @property
    def model(self) -> Model: ...

    @property
    def stages(self) -> Sequence[Stage]: ...

    @property
    def search(self) -> Search: ...


def with_first_preset(settings: Any) -> Any:
    """The raw settings of a sweep, with the ladder's first preset as `model.preset` where the file names no model: a
    ladder's model follows from the size."""
    if not isinstance(settings, Mapping) or not isinstance(settings.get("ladder"), Mapping):
        return settings
    model, presets = settings.get("model", {}), settings["ladder"].get("presets")
    is_open = isinstance(model, Mapping) and not any(model.get(key) for key in ("preset", "config", "pretrained"))
    if not is_open or not isinstance(presets, (list, tuple)) or not presets:
        return settings
    return {**settings, "model": {**model, "preset": presets[0]}}


def check_ladder(sweep: Sections) -> None:
    """Raises `ValueError` for a setting that a ladder of this sweep has no use for, or needs."""
    ladder = sweep.ladder
    if ladder is None:
        return
    if not sweep.stages:
        raise ValueError("ladder: trains models of several sizes, and stages is empty; give stages, or leave it out")
    if sweep.model.preset not in ladder.presets:
        model = sweep.model.preset or ("a configuration" if sweep.model.config is not None else sweep.model.pretrained)
        raise ValueError(f"model: found {model}, but the ladder's presets are the models; leave it out of model")
    if sweep.search.reference is None:
        raise ValueError(
            "search.reference: is missing; a ladder compares every arm with the same one at every size; give it, for "
            "example reference: {pretrain.code_ratio: 0.0}"
        )
    confirm = sweep.search.confirm
    if ladder.carry is not None and (confirm is None or confirm.best < ladder.carry):
        raise ValueError(
            f"ladder.carry: carries arms that the smallest size has confirmed with fresh seeds; give search.confirm: "
            f"{{best: {ladder.carry}}}, or more"
        )
