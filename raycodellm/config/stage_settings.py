"""A training stage: its learning rate, its mixture, and everything numeric in how it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raycodellm.config.field_types import Frozen, Name, Number, Ratio, Share, Whole
from raycodellm.config.old_spellings import stage_in_current_spelling
from raycodellm.config.source_settings import HeldOut

MIXTURE_SHAPES = (
    "constant",
    "increase",
    "decrease",
    "linear_up",
    "linear_down",
    "cosine_up",
    "cosine_down",
    "code_first",
    "text_first",
)


MOST_SEQUENCES = 100_000_000
"""Sequences of a stage, at most: planned in a quarter of a minute, 8 * 10^11 tokens at a length of 8,192."""


class LearningRate(Frozen):
    peak: Annotated[Number, Field(gt=0.0, le=10.0)]
    schedule: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    warmup: Ratio = 0.05
    """Share of the stage's steps with a linearly rising rate."""
    final: Ratio = 0.1
    """Rate when the stage has ended, as a share of the peak; its last step is one step of the decay before that."""
    decay: Ratio = 0.2
    """Share of the stage's steps that decay, at its end (wsd only)."""
    boundary: Literal["restart", "continue"] = "restart"
    """At the stage's first step: warm up to `peak`, or go on from the rate that the parent stage ended with, without a
    warm-up, to `final` times `peak` (or stay, where that is higher)."""

    @model_validator(mode="after")
    def _parts_fit(self) -> LearningRate:
        if self.schedule == "wsd" and self.warmup + self.decay > 1.0:
            raise ValueError(f"warmup {self.warmup} + decay {self.decay} is over 1; make them add up to at most 1")
        return self

    @property
    def ends_at_zero(self) -> bool:
        """True if the rate is 0 when the stage has ended."""
        falls = self.schedule in ("cosine", "linear") or (self.schedule == "wsd" and 1.0 - self.decay < 1.0)
        return self.final == 0.0 and falls and (self.boundary == "continue" or self.warmup < 1.0)


class Phase(Frozen):
    share: Annotated[Number, Field(gt=0.0, le=1.0)]
    """Share of the stage's tokens."""
    weights: dict[str, Annotated[Number, Field(ge=0.0)]]


def _check_weights(weights: Mapping[str, float], what: str) -> None:
    total = math.fsum(weights.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"{what} add up to {total:g}; make them add up to 1")


class Optimizer(Frozen):
    """AdamW (Loshchilov and Hutter 2019), for every stage."""

    weight_decay: Annotated[Number, Field(ge=0.0)] = 0.1
    betas: tuple[Share, Share] = (0.9, 0.95)
    epsilon: Annotated[Number, Field(gt=0.0)] = 1e-8
    gradient_clip: Annotated[Number, Field(gt=0.0)] = 1.0
    """Largest global gradient norm."""
    state: Literal["fresh", "keep"] = "fresh"
    """Adam's moments and step count at the stage's start: zero, or those that the parent stage ended with."""


class Averaging(Frozen):
    """The stage's model as the mean of its weights at several of its last steps."""

    last: Annotated[Whole, Field(ge=2)] | None = None
    """The stage's model is the mean of the weights after this many steps, the last of them the stage's last."""
    every: Annotated[Number, Field(gt=0.0, le=1.0)] | None = None
    """Distance between two of these, as a share of the stage's steps; 0.02 when left out."""

    @model_validator(mode="after")
    def _every_needs_last(self) -> Averaging:
        if self.every is not None and self.last is None:
            raise ValueError("every goes with last; give last or remove every")
        return self


class Numerics(Frozen):
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Numbers of the forward and backward pass; the weights that the optimizer steps are float32 in any case."""
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    """flash_attention_2 needs the flash-attn package, a GPU, and bf16 or fp16."""
    deepspeed_config: dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed's own JSON, passed through; a key that raycodellm sets itself is refused."""


class Faults(Frozen):
    on_nan: Literal["fail", "skip_batch"] = "fail"
    """A step whose loss or gradient is not finite fails the stage, or changes nothing and is counted as skipped."""
    loss_limit: Annotated[Number, Field(ge=0.0)] = 4.0
    """A loss over this many times the median of the 64 steps before, and over that of guessing every token alike, three
    steps in a row fails the stage; 0 never does."""


class Stage(Frozen):
    name: Name
    tokens: Annotated[Whole, Field(gt=0)]
    """Tokens of the whole stage, summed over workers; rounded up to a whole step."""
    sequence_length: Annotated[Whole, Field(ge=8)]
    """Tokens."""
    batch_tokens: Annotated[Whole, Field(gt=0)]
    """Tokens per optimiser step, summed over workers; a multiple of `sequence_length`."""
    learning_rate: LearningRate
    sources: tuple[str, ...] | None = None
    budget: Literal["competitive", "additive"] = "competitive"
    """competitive: `tokens` counts all tokens, so that code takes the place of text. additive: `tokens` counts those
    that are not code, and code comes on top: tokens / (1 - code ratio) in all (Petty et al. 2024, arXiv 2409.04556)."""
    code_ratio: Ratio | None = None
    schedule: Literal[MIXTURE_SHAPES] | None = None  # type: ignore[valid-type]
    within: dict[str, Annotated[Number, Field(ge=0.0)]] | None = None
    """Relative shares of the sources on their side of the code ratio; default: in proportion to their tokens."""
    weights: dict[str, Annotated[Number, Field(ge=0.0)]] | None = None
    phases: tuple[Phase, ...] | None = None
    interpolation: Literal["step", "linear", "cosine"] | None = None
    responses_only: bool = False
    """Instruction tuning: the loss counts response tokens only. Otherwise examples count whole, prompts included."""
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """concatenate: documents end to end, cut into sequences. best_fit: no document that fits into a sequence is split,
    and what is left of a sequence is padding (Ding et al. 2024, arXiv 2404.10830). Examples are whole in either."""
    optimizer: Optimizer = Optimizer()
    """AdamW's settings, and where the stage's optimizer state comes from."""
    averaging: Averaging = Averaging()
    """Which steps' weights are averaged into the stage's model; off when left out."""
    numerics: Numerics = Numerics()
    """In what precision, and by which kernels, the stage is computed."""
    faults: Faults = Faults()
    """What happens when the loss is not finite, or explodes."""
    held_out: HeldOut | None = None
    """Measures bits per byte of text that is never trained on; off when left out."""

    @model_validator(mode="before")
    @classmethod
    def _old_spellings(cls, settings: Any) -> Any:
        return stage_in_current_spelling(settings)

    @property
    def averaged_steps(self) -> frozenset[int]:
        """Numbers of finished steps after which the weights enter the mean; empty without `averaging.last`."""
        apart = max(1, round((self.averaging.every or 0.02) * self.num_steps))
        places = min(self.averaging.last or 0, self.num_steps // apart + 1)
        taken = (self.num_steps - apart * place for place in range(places))
        return frozenset(step for step in taken if step > 0)

    @property
    def batch_sequences(self) -> int:
        """Sequences per optimiser step, summed over workers."""
        return self.batch_tokens // self.sequence_length

    @property
    def num_steps(self) -> int:
        return -(-self.tokens // self.batch_tokens)

    @property
    def num_sequences(self) -> int:
        return self.num_steps * self.batch_sequences

    @property
    def num_tokens(self) -> int:
        """`tokens` rounded up to whole steps."""
        return self.num_steps * self.batch_tokens

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if self.batch_tokens % self.sequence_length:
            fit = max(1, round(self.batch_tokens / self.sequence_length)) * self.sequence_length
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is not a multiple of sequence_length {self.sequence_length}; "
                f"use {fit}"
            )
        check_num_sequences(self)
        ways = [w for w in ("code_ratio", "weights", "phases") if getattr(self, w) is not None]
        if len(ways) != 1:
            raise ValueError(f"a mixture is said by exactly one of code_ratio, weights, phases; found {ways or 'none'}")
        for key, way in (("schedule", "code_ratio"), ("within", "code_ratio"), ("interpolation", "phases")):
            if getattr(self, key) is not None and ways != [way]:
                raise ValueError(f"{key} goes with {way}; found {ways[0]}: remove {key} or use {way}")
        if self.weights is not None:
            _check_weights(self.weights, "weights")
        if self.phases is not None:
            if not self.phases:
                raise ValueError("phases is empty; give at least one {share, weights}")
            _check_weights({str(i): phase.share for i, phase in enumerate(self.phases)}, "the shares of phases")
            for number, phase in enumerate(self.phases):
                _check_weights(phase.weights, f"phases.{number}.weights")
        return self


def check_num_sequences(stage: Stage) -> None:
    if stage.num_sequences > MOST_SEQUENCES:
        raise ValueError(
            f"tokens {stage.tokens:,} are {stage.num_sequences:,} sequences of {stage.sequence_length:,}; "
            f"a stage has at most {MOST_SEQUENCES:,}: use fewer tokens or longer sequences"
        )
