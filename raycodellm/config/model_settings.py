"""The model and its tokenizer."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from raycodellm.config.errors import suggest
from raycodellm.config.field_types import Frozen, Whole, exactly_one

MODEL_PRESETS = ("tiny", "nano", "small", "470m", "2.8b")


class Model(Frozen):
    preset: str | None = None
    config: dict[str, Any] | None = None
    """A transformers configuration; `model_type` names the architecture."""
    pretrained: str | None = None
    """A local folder or a hub id to continue from."""

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        exactly_one(self, "preset", "config", "pretrained")
        if self.preset is not None and self.preset not in MODEL_PRESETS:
            raise ValueError(f"preset {self.preset!r} is not known; {suggest(self.preset, MODEL_PRESETS)}")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs model_type, for example llama")
        return self


class TrainTokenizer(Frozen):
    vocab_size: Annotated[Whole, Field(ge=300, le=1_000_000)] = 4096
    """Entries of the vocabulary, the 256 bytes and special tokens included."""
    sample_bytes: Annotated[Whole, Field(ge=10_000)] = 8_000_000
    """UTF-8 bytes of text drawn from all sources together to train on."""


class Tokenizer(Frozen):
    train: TrainTokenizer | None = None
    pretrained: str | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Tokenizer:
        exactly_one(self, "train", "pretrained")
        return self
