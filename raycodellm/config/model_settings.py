"""The model and its tokenizer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raycodellm.config.errors import suggest
from raycodellm.config.field_types import Frozen, Whole, require_one_of

MODEL_PRESETS = ("tiny", "mini", "midi", "nano", "small", "470m", "2.8b")


class Model(Frozen):
    """The language model: exactly one of the three keys."""

    preset: str | None = None
    """A named architecture with new weights: `tiny` (0.5 M parameters), `mini` (1.6 M), `midi` (4.1 M), `nano` (10 M),
    `small` (124 M), `470m` or `2.8b`."""
    config: dict[str, Any] | None = None
    """A transformers configuration with new weights; its `model_type` names the architecture, for example llama."""
    pretrained: str | None = None
    """A model to continue from, with its weights: a local folder, a folder on object storage, or a hub id
    (`owner/name`, `owner/name@revision`)."""
    parametrization: Literal["standard", "mup"] = "standard"
    """How a preset's first weights, learning rates and logits follow from its width. `mup` is meant to
    let the best learning rate of `tiny` serve wider presets too (Yang et al. 2022; docs/benchmarks.md has what was
    measured). Depth is not corrected for."""

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        require_one_of(self, "preset", "config", "pretrained")
        if self.preset is not None and self.preset not in MODEL_PRESETS:
            raise ValueError(f"preset {self.preset!r} is not known; {suggest(self.preset, MODEL_PRESETS)}")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs model_type, for example llama")
        if self.parametrization == "mup" and self.preset is None:
            raise ValueError(
                f"parametrization mup is known for presets only ({', '.join(MODEL_PRESETS)}): how another model's "
                "matrices grow with its width is not; use preset, or parametrization: standard"
            )
        return self


class TrainTokenizer(Frozen):
    """A byte-level BPE tokenizer trained on all sources of the sweep."""

    vocab_size: Annotated[Whole, Field(ge=300, le=1_000_000)] = 4096
    """Entries of the vocabulary, the 256 bytes and the special tokens included."""
    sample_bytes: Annotated[Whole, Field(ge=10_000)] = 8_000_000
    """UTF-8 bytes of text that the tokenizer is trained on, drawn from all sources together."""


class Tokenizer(Frozen):
    """The tokenizer: exactly one of the two keys."""

    train: TrainTokenizer | None = None
    """Trains a byte-level BPE tokenizer on the sources."""
    pretrained: str | None = None
    """An existing tokenizer: a local folder, a folder on object storage, or a hub id."""

    @model_validator(mode="after")
    def _one_origin(self) -> Tokenizer:
        require_one_of(self, "train", "pretrained")
        return self
