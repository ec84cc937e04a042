"""A training stage: its size, its mixture, its learning rate, and everything else that decides its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raycodellm.config.field_types import Decay, Frozen, Name, Number, Ratio, Whole
from raycodellm.config.mixture_shapes import SHAPES
from raycodellm.config.old_spellings import stage_in_current_spelling
from raycodellm.config.source_settings import HeldOut

MOST_SEQUENCES = 100_000_000
"""Most sequences of a stage: planned in a quarter of a minute, 8 * 10^11 tokens at a length of 8,192."""


class LearningRate(Frozen):
    """The learning rate over the steps of a stage."""

    peak: Annotated[Number, Field(gt=0.0, le=10.0)]
    """Highest learning rate."""
    schedule: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up: `cosine` and `linear` over all the rest, `wsd` (warm up, stay, decay) on a
    straight line over the last `decay` of the stage, `constant` not at all."""
    warmup: Ratio = 0.05
    """Share of the stage's steps in which the rate rises on a straight line to `peak`."""
    warmup_steps: Annotated[Whole, Field(ge=0)] | None = None
    """Steps of the warm-up, in place of the share `warmup`. Stages of different length then warm up alike, and can
    share a trunk (docs/training.md)."""
    final: Ratio = 0.1
    """Rate when the stage has ended, as a share of `peak`. The last step trains at a slightly higher rate, so that with
    0, too, every step trains."""
    decay: Ratio = 0.2
    """Share of the stage's steps that decay, at the stage's end (`wsd` only)."""
    boundary: Literal["restart", "continue"] = "restart"
    """At the stage's first step: `restart` warms up to `peak`; `continue` goes on from the rate that the parent stage
    ended with, without a warm-up, to `final` times `peak` (or stays, where that would be higher). `continue` is refused
    where the parent's rate ends at 0."""

    @model_validator(mode="after")
    def _parts_fit(self) -> LearningRate:
        is_share = self.boundary == "restart" and self.warmup_steps is None  # else `warmup` has no effect
        if self.schedule == "wsd" and is_share and self.warmup + self.decay > 1.0:
            raise ValueError(f"warmup {self.warmup} + decay {self.decay} is over 1; make them add up to at most 1")
        return self

    @property
    def ends_at_zero(self) -> bool:
        """True if the rate is 0 when the stage has ended."""
        falls = self.schedule in ("cosine", "linear") or (self.schedule == "wsd" and 1.0 - self.decay < 1.0)
        only_warms = self.boundary == "restart" and self.warmup_steps is None and self.warmup == 1.0
        return self.final == 0.0 and falls and not only_warms


class Phase(Frozen):
    """One part of a stage with a mixture of its own."""

    share: Annotated[Number, Field(gt=0.0, le=1.0)]
    """Share of the stage's tokens; the shares of all phases sum to 1."""
    weights: dict[str, Annotated[Number, Field(ge=0.0)]]
    """Source -> share of the phase's tokens; sums to 1. A source left out, or of weight 0, gives no tokens."""


def _check_weights(weights: Mapping[str, float], subject: str) -> None:
    total = math.fsum(weights.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"{subject} add up to {total:g}; make them add up to 1")


class Optimizer(Frozen):
    """The AdamW optimizer (Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization)."""

    weight_decay: Annotated[Number, Field(ge=0.0)] = 0.1
    """Decoupled weight decay of the weight matrices; norms and biases do not decay."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay rates of the running means of the gradient and of its square."""
    epsilon: Annotated[Number, Field(gt=0.0)] = 1e-8
    """Added to the denominator of the update."""
    gradient_clip: Annotated[Number, Field(gt=0.0)] = 1.0
    """Largest global norm of the gradient; a larger gradient is scaled down to it."""
    state: Literal["fresh", "keep"] = "fresh"
    """Adam's moments and step count at the stage's start: `fresh` starts at zero, `keep` takes over the parent stage's.
    A parent that has finished without keeping them is trained once more."""


class Averaging(Frozen):
    """Exports the mean of the weights after several of the stage's last steps, in place of the last weights."""

    last: Annotated[Whole, Field(ge=2)] | None = None
    """Number of steps whose weights are averaged, the last of them the stage's last step; no averaging when left
    out."""
    every: Annotated[Number, Field(gt=0.0, le=1.0)] | None = None
    """Distance between two of these steps, as a share of the stage's steps; 0.02 when left out."""

    @model_validator(mode="after")
    def _every_needs_last(self) -> Averaging:
        if self.every is not None and self.last is None:
            raise ValueError("every goes with last; give last or remove every")
        return self


class Numerics(Frozen):
    """In what precision, and by which kernels, the stage is computed."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the forward and backward pass. The weights that the optimizer steps are float32 in any case."""
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    """Attention kernel. `flash_attention_2` needs the flash-attn package, a GPU, and bf16 or fp16."""
    deepspeed_config: dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed's own JSON configuration, passed through, offloading included. A key that raycodellm sets itself is
    refused."""


class Faults(Frozen):
    """The handling of a loss that is not finite, or explodes."""

    on_nan: Literal["fail", "skip_batch"] = "fail"
    """On a step whose loss or gradient is not finite: `fail` ends the stage with the ids of the step's sequences;
    `skip_batch` leaves the weights as they are and counts the step as skipped, which the report tells; a stage whose
    steps are all skipped fails."""
    loss_limit: Annotated[Number, Field(ge=0.0)] = 4.0
    """Fails the stage after three steps in a row whose loss is over this many times the median of the 64 steps before,
    and over the loss of guessing every token alike; 0 turns the check off."""


class Stage(Frozen):
    """One training stage: trains `tokens` tokens on a mixture, from the stage before it or from scratch. The mixture is
    given in exactly one of three ways: `code_ratio`, `weights` or `phases`."""

    name: Name
    """Letters, digits, - and _. The stage's settings are named by it: `pretrain.code_ratio`."""
    enabled: Annotated[bool, Field(strict=True)] = True
    """`false` skips the stage: the stage after it goes on from the stage before it. Searched over by
    `{search: {choice: [true, false]}}`, arms with and without the stage are compared; a trial that skips the stage
    samples no parameter of it. The other stages read and hold out the same data with and without it."""
    tokens: Annotated[Whole, Field(gt=0)]
    """Tokens of the whole stage, summed over workers; rounded up to a whole step."""
    sequence_length: Annotated[Whole, Field(ge=8)]
    """Tokens per sequence."""
    batch_tokens: Annotated[Whole, Field(gt=0)]
    """Tokens per optimizer step, summed over workers; a multiple of `sequence_length`."""
    learning_rate: LearningRate
    """The learning rate over the stage's steps."""
    sources: tuple[str, ...] | None = None
    """Names of the sources that the stage draws from. When left out: all sources of an instruct kind where
    `responses_only` is true, else all others."""
    budget: Literal["competitive", "additive"] = "competitive"
    """`competitive`: `tokens` counts all tokens, so that code takes the place of text. `additive`: `tokens` counts the
    tokens that are not code, and code comes on top, tokens / (1 - code ratio) in all (Petty et al. 2024, arXiv
    2409.04556)."""
    code_ratio: Ratio | None = None
    """Share of the stage's tokens that come from sources of a code kind, as the mean over the stage."""
    schedule: Literal[tuple(SHAPES)] | None = None  # type: ignore[valid-type]
    """Shape of the code ratio over the stage's progress; the mean stays `code_ratio`. `constant` when left out. Goes
    with `code_ratio`."""
    within: dict[str, Annotated[Number, Field(ge=0.0)]] | None = None
    """Source -> its relative share on its side of the code ratio (code or not); in proportion to the sources' tokens
    when left out. Goes with `code_ratio`."""
    weights: dict[str, Annotated[Number, Field(ge=0.0)]] | None = None
    """Source -> share of the stage's tokens, constant over the stage; sums to 1. A source left out, or of weight 0,
    gives no tokens."""
    phases: tuple[Phase, ...] | None = None
    """Parts of the stage one after another, each with its share of the tokens and its own weights."""
    interpolation: Literal["step", "linear", "cosine"] | None = None
    """How the weights move between phases: `step` changes them at once at a phase's end; `linear` and `cosine` move
    them from the middle of one phase to the middle of the next. `step` when left out. Goes with `phases`."""
    responses_only: bool = False
    """Instruction tuning: the loss counts tokens of responses only. Otherwise examples count whole, prompts
    included."""
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """`concatenate`: documents end to end, cut into sequences. `best_fit`: no document that fits into a sequence is
    split, and the rest of a sequence is padding (Ding et al. 2024, arXiv 2404.10830). Examples are whole in either."""
    held_out: HeldOut | None = None
    """Measures bits per byte on text that no stage trains on; off when left out."""
    optimizer: Optimizer = Optimizer()
    """Settings of AdamW, and where the optimizer's state comes from."""
    averaging: Averaging = Averaging()
    """Averages the weights of the last steps; off when left out."""
    numerics: Numerics = Numerics()
    """In what precision, and by which kernels, the stage is computed."""
    faults: Faults = Faults()
    """The handling of a loss that is not finite, or explodes."""

    @model_validator(mode="before")
    @classmethod
    def _old_spellings(cls, settings: Any) -> Any:
        return stage_in_current_spelling(settings)

    @property
    def averaged_steps(self) -> frozenset[int]:
        """Numbers of finished steps after which the weights are averaged in; empty without `averaging.last`."""
        interval = max(1, round((self.averaging.every or 0.02) * self.num_steps))
        places = min(self.averaging.last or 0, self.num_steps // interval + 1)
        steps = (self.num_steps - interval * place for place in range(places))
        return frozenset(step for step in steps if step > 0)

    @property
    def batch_sequences(self) -> int:
        """Sequences per optimizer step, summed over workers."""
        return self.batch_tokens // self.sequence_length

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        return -(-self.tokens // self.batch_tokens)

    @property
    def num_sequences(self) -> int:
        """Sequences of the whole stage, summed over workers."""
        return self.num_steps * self.batch_sequences

    @property
    def num_tokens(self) -> int:
        """`tokens` rounded up to whole steps."""
        return self.num_steps * self.batch_tokens

    @property
    def _steps_before_decay(self) -> float:
        """Steps of the stage before a `wsd` rate falls."""
        return (1.0 - self.learning_rate.decay) * self.num_steps + 1e-9

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if self.batch_tokens % self.sequence_length:
            fitting = max(1, round(self.batch_tokens / self.sequence_length)) * self.sequence_length
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is not a multiple of sequence_length {self.sequence_length}; "
                f"use {fitting}"
            )
        check_num_sequences(self)
        warm = self.learning_rate.warmup_steps
        if warm is not None and warm > self.num_steps:
            raise ValueError(
                f"learning_rate.warmup_steps {warm:,} are more than the stage's {self.num_steps:,} steps; use at most "
                f"{self.num_steps:,}, or more tokens"
            )
        rate = self.learning_rate
        if warm and rate.schedule == "wsd" and rate.boundary == "restart" and warm > self._steps_before_decay:
            raise ValueError(
                f"learning_rate.warmup_steps {warm:,} end after the decay begins: decay {rate.decay:g} are the last of "
                f"{self.num_steps:,} steps; use at most {math.floor(self._steps_before_decay):,}, or a smaller decay"
            )
        ways = [way for way in ("code_ratio", "weights", "phases") if getattr(self, way) is not None]
        if len(ways) != 1:
            found = f"{' and '.join(ways)}: keep one (--set KEY=null removes a key)" if ways else "none"
            raise ValueError(f"a mixture needs exactly one of code_ratio, weights, phases; found {found}")
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
    """Raises ValueError for a stage of more than MOST_SEQUENCES sequences."""
    if stage.num_sequences > MOST_SEQUENCES:
        raise ValueError(
            f"tokens {stage.tokens:,} are {stage.num_sequences:,} sequences of {stage.sequence_length:,}; "
            f"a stage has at most {MOST_SEQUENCES:,}: use fewer tokens or longer sequences"
        )
