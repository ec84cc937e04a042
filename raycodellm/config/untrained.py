"""A sweep with `stages: []`, whose models are given and evaluated as they are: which settings have a meaning then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from raycodellm.config.model_settings import Model, Tokenizer
from raycodellm.config.search_settings import Search
from raycodellm.config.source_settings import MatchRepetition, Source
from raycodellm.config.stage_settings import Stage


class Sections(Protocol):
    """The sections of a sweep file that depend on whether anything is trained."""

    @property
    def model(self) -> Model: ...

    @property
    def tokenizer(self) -> Tokenizer | None: ...

    @property
    def sources(self) -> Mapping[str, Source]: ...

    @property
    def stages(self) -> Sequence[Stage]: ...

    @property
    def match_repetition(self) -> MatchRepetition | None: ...

    @property
    def search(self) -> Search: ...


def check_stages(sweep: Sections) -> None:
    """Raises `ValueError` for a setting that a sweep with stages lacks, or that one without stages has no use for."""
    if sweep.stages:
        _check_trained(sweep)
    else:
        _check_untrained(sweep)


def _check_trained(sweep: Sections) -> None:
    if not sweep.sources:
        raise ValueError("sources: is missing, and stages draw from them; for example {books: {kind: text, path: b/}}")
    if sweep.tokenizer is None:
        raise ValueError("tokenizer: is missing, and stages read tokens; for example {train: {vocab_size: 4096}}")
    if sweep.search.pairs:
        raise ValueError(
            "search.pairs: compares given models, which need no stage; use search.reference, or stages: []"
        )


def _check_untrained(sweep: Sections) -> None:
    if sweep.model.pretrained is None:
        raise ValueError(
            f"stages: is empty, and model: {sweep.model.model_dump(exclude_defaults=True)} has random weights; "
            "give model.pretrained, or a stage that trains the model"
        )
    if sweep.search.replicates > 1:
        raise ValueError(
            f"search.replicates: found {sweep.search.replicates}, but with stages: [] no model has a training seed, "
            "and each is evaluated once; use 1"
        )
    if sweep.search.confirm is not None:
        raise ValueError(
            "search.confirm: needs training seeds, and with stages: [] no model has one; leave confirm out"
        )
    if sweep.search.sampler != "grid":
        raise ValueError(
            f"search.sampler: found {sweep.search.sampler}, which may draw a model twice, and with stages: [] each is "
            "evaluated once; use grid"
        )
    if sweep.match_repetition is not None:
        raise ValueError(
            "match_repetition: repeats training data, and with stages: [] nothing is trained; leave it out"
        )
    if sweep.sources and sweep.tokenizer is None:
        raise ValueError("tokenizer: is missing; the text of sources is held as tokens; leave sources out, or add one")
    if sweep.tokenizer is not None and not sweep.sources:
        raise ValueError(
            "tokenizer: reads sources, and there are none; with stages: [] each model has its own: leave tokenizer out"
        )
