"""The whole sweep file as one frozen, typed model, and the checks between its sections."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from raycodellm.config.budget_settings import Budget
from raycodellm.config.cleaning_settings import Cleaning
from raycodellm.config.early_stopping import check_early_stopping
from raycodellm.config.errors import suggest
from raycodellm.config.evaluation_settings import Evaluation
from raycodellm.config.field_types import Frozen, Name, Whole
from raycodellm.config.ladder_settings import Ladder, check_ladder, with_first_preset
from raycodellm.config.model_settings import Model, Tokenizer
from raycodellm.config.scaling_settings import Scaling
from raycodellm.config.search_settings import Search
from raycodellm.config.source_settings import MatchRepetition, Source
from raycodellm.config.stage_settings import Stage
from raycodellm.config.tracking_settings import Tracking
from raycodellm.config.untrained import check_stages

STORAGE_FOLDERS = ("tokens", "stages", "trunks", "tokenizers", "models")
"""Folders of a storage that are not sweeps' folders."""


class Sweep(Frozen):
    """The whole sweep file, with one value in the place of every search space."""

    name: Name
    """Names the run's folder: letters, digits, - and _."""
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    """Seed of the tokenizer's sample, the order of the data, the first weights and the search's sampler."""
    model: Model
    """The language model."""
    tokenizer: Tokenizer | None = None
    """The tokenizer. Only a sweep without stages and sources has none: there each model brings its own."""
    sources: dict[Name, Source] = Field(default_factory=dict)
    """The corpora to mix, each under its name. A sweep without stages needs none, but may measure text of them."""
    stages: tuple[Stage, ...]
    """The stages, one trained after another. With `[]` nothing is trained: each model of `model.pretrained`, which may
    be a search over several, is evaluated as it is."""
    match_repetition: MatchRepetition | None = None
    """Repeats the data as often as a larger run would; off when left out."""
    cleaning: Cleaning | None = None
    """Cleaning of every source, where the source's own `cleaning` sets nothing else; off when left out."""
    evaluation: Evaluation
    """The tasks that score every trial's model."""
    search: Search
    """Which trials there are."""
    ladder: Ladder | None = None
    """Runs the same arms at several sizes of the model; one size when left out."""
    budget: Budget = Budget()
    """How much the sweep may spend."""
    scaling: Scaling = Scaling()
    """Where the sweep runs."""
    tracking: Tracking = Tracking()
    """Other tools that are told of the trials."""

    @model_validator(mode="before")
    @classmethod
    def _model_of_ladder(cls, settings: Any) -> Any:
        return with_first_preset(settings)

    @field_validator("name")
    @classmethod
    def _not_a_folder_of_the_storage(cls, name: str) -> str:
        if name.lower() in STORAGE_FOLDERS:  # some file systems take no notice of capitals
            raise ValueError(f"found {name!r}, the storage's own folder for something else; give another name")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        check_ladder(self)
        check_stages(self)
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stages: the name {name!r} is used twice; give each stage its own")
            if name in type(self).model_fields:
                raise ValueError(f"stages: {name!r} is a key of the sweep file; give the stage another name")
        for name in self.match_repetition.source_tokens if self.match_repetition else ():
            if name not in self.sources:
                hint = suggest(name, self.sources)
                raise ValueError(f"match_repetition.source_tokens: source {name!r} is not under sources; {hint}")
        for name, source in self.sources.items():
            if self._cleaning_of(source).licenses and source.license_field is None:
                raise ValueError(
                    f"sources.{name}.cleaning.licenses: needs license_field, the column with each document's license; "
                    f"add sources.{name}.license_field, or set licenses: false there"
                )
        if self.evaluation.backend == "vllm" and not self.scaling.gpus_per_worker:
            raise ValueError(
                "evaluation.backend: vllm writes answers on a GPU, and scaling.gpus_per_worker is 0; set that to 1, or "
                "leave the backend out"
            )
        for stage in self.stages:
            self._check_sources(stage)
        if self.stages and not self.trained_stages:
            skipped = ", ".join(repr(stage.name) for stage in self.stages)
            raise ValueError(f"stages: all of them ({skipped}) have enabled: false; leave one enabled")
        for first in self.trained_stages[:1]:
            if first.learning_rate.boundary == "continue":
                raise ValueError(
                    f"stages.{first.name}.learning_rate.boundary: continue needs a stage before this one; use restart"
                )
            if first.optimizer.state == "keep":
                raise ValueError(f"stages.{first.name}.optimizer.state: keep needs a stage before this one; use fresh")
        for before, after in itertools.pairwise(self.trained_stages):
            if after.learning_rate.boundary == "continue" and before.learning_rate.ends_at_zero:
                raise ValueError(
                    f"stages.{after.name}.learning_rate.boundary: continue goes on from the rate at which stage "
                    f"{before.name!r} ends, which is 0 and would train nothing; use restart, or a final over 0 there"
                )
        check_early_stopping(self)
        return self

    @property
    def trained_stages(self) -> tuple[Stage, ...]:
        """The stages that are not skipped, in order."""
        return tuple(stage for stage in self.stages if stage.enabled)

    def _check_sources(self, stage: Stage) -> None:
        for key, source_names in _named_sources(stage):
            for name in source_names:
                if name not in self.sources:
                    hint = suggest(name, self.sources)
                    raise ValueError(f"stages.{stage.name}.{key}: source {name!r} is not under sources; {hint}")
                if name not in self.drawn_sources(stage):
                    names = ", ".join(self.drawn_sources(stage))
                    raise ValueError(
                        f"stages.{stage.name}.{key}: source {name!r} is not drawn by this stage (it draws {names}); "
                        f"name it under stages.{stage.name}.sources or remove it"
                    )
        drawn_sources = [self.sources[name] for name in self.drawn_sources(stage)]
        if not drawn_sources:
            want = "an instruct kind" if stage.responses_only else "a kind other than instruct"
            raise ValueError(f"stages.{stage.name}: no source of {want} is under sources; add one")
        plain = [name for name in self.drawn_sources(stage) if not self.sources[name].is_instruct]
        if stage.responses_only and plain:
            raise ValueError(
                f"stages.{stage.name}.sources: {plain[0]!r} is of kind {self.sources[plain[0]].kind}, which has no "
                "responses; use instruct kinds or set responses_only: false"
            )
        if stage.code_ratio is not None:
            for is_code, ratio in ((True, stage.code_ratio), (False, 1.0 - stage.code_ratio)):
                if ratio > 0 and not any(source.is_code == is_code for source in drawn_sources):
                    kind = "code" if is_code else "text"
                    raise ValueError(
                        f"stages.{stage.name}.code_ratio: {stage.code_ratio} needs {kind}, but no source of a {kind} "
                        f"kind is drawn; use {0.0 if is_code else 1.0:g} or add such a source"
                    )

    @property
    def tokenizer_of_sources(self) -> Tokenizer:
        """The tokenizer of a sweep that has sources."""
        assert self.tokenizer is not None, "check_stages asks for one"
        return self.tokenizer

    def complete_source(self, name: str) -> Source:
        """The source with its complete cleaning: its own settings, completed by the sweep's."""
        source = self.sources[name]
        return source.model_copy(update={"cleaning": self._cleaning_of(source)})

    def _cleaning_of(self, source: Source) -> Cleaning:
        return (source.cleaning or Cleaning()).completed_by(self.cleaning)

    def drawn_sources(self, stage: Stage) -> tuple[str, ...]:
        """Names of the sources that `stage` draws from, in the order of the file."""
        if stage.sources is not None:
            return tuple(name for name in self.sources if name in stage.sources)
        return tuple(name for name, source in self.sources.items() if source.is_instruct == stage.responses_only)


def _named_sources(stage: Stage) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(key, names of sources) for every key of the stage that names sources."""
    for key in ("sources", "weights", "within"):
        yield key, tuple(getattr(stage, key) or ())
    for number, phase in enumerate(stage.phases or ()):
        yield f"phases.{number}.weights", tuple(phase.weights)
