"""Every setting of a sweep as a frozen, typed model. Shares and ratios lie in 0..1; tokens count all workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raycodellm.config.errors import suggest

KINDS = ("text", "code", "markup", "code_adjacent", "synthetic_code", "math", "instruct_text", "instruct_code")
CODE_KINDS = frozenset({"code", "markup", "code_adjacent", "synthetic_code", "instruct_code"})
INSTRUCT_KINDS = frozenset({"instruct_text", "instruct_code"})
MODEL_PRESETS = ("tiny", "nano", "small", "470m", "2.8b")
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
SAMPLERS = ("tpe", "gp", "nsga2", "random", "grid")
NAME_PATTERN = r"^[A-Za-z0-9_-]+$"


Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=80)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _exactly_one(model: BaseModel, *names: str) -> None:
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        raise ValueError(f"needs exactly one of {', '.join(names)}; found {', '.join(given) or 'none'}")


class Model(_Frozen):
    preset: str | None = None
    config: dict[str, Any] | None = None
    """A transformers configuration; `model_type` names the architecture."""
    pretrained: str | None = None
    """A local folder or a hub id to continue from."""

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        _exactly_one(self, "preset", "config", "pretrained")
        if self.preset is not None and self.preset not in MODEL_PRESETS:
            raise ValueError(f"preset {self.preset!r} is not known; {suggest(self.preset, MODEL_PRESETS)}")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs model_type, for example llama")
        return self


class TrainTokenizer(_Frozen):
    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] = 4096
    """Entries of the vocabulary, the 256 bytes and special tokens included."""
    sample_bytes: Annotated[int, Field(ge=10_000)] = 8_000_000
    """UTF-8 bytes of text drawn from all sources together to train on."""


class Tokenizer(_Frozen):
    train: TrainTokenizer | None = None
    pretrained: str | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Tokenizer:
        _exactly_one(self, "train", "pretrained")
        return self


class Source(_Frozen):
    kind: Literal[KINDS]  # type: ignore[valid-type]
    path: str | tuple[str, ...]
    format: Literal["parquet", "jsonl", "text", "source", "instruct"] | None = None
    """Guessed from the file names when left out."""
    text_field: str | tuple[str, ...] = "text"
    """Column that holds the text (Parquet, JSONL); several are joined by a newline."""
    documents: Literal["file", "paragraphs"] = "file"
    """What one document of a plain text file is."""
    limit_documents: Annotated[int, Field(ge=1)] | None = None

    @field_validator("path")
    @classmethod
    def _some_path(cls, path: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not path or (not isinstance(path, str) and not all(path)):
            raise ValueError("is empty; give a file, a folder, a glob or a list of them")
        return path

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def is_code(self) -> bool:
        return self.kind in CODE_KINDS

    @property
    def is_instruct(self) -> bool:
        return self.kind in INSTRUCT_KINDS


class LearningRate(_Frozen):
    peak: Annotated[float, Field(gt=0.0, le=10.0)]
    schedule: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    warmup: Ratio = 0.05
    """Share of the stage's steps with a linearly rising rate."""
    final: Ratio = 0.1
    """Rate at the stage's end, as a share of the peak."""
    decay: Ratio = 0.2
    """Share of the stage's steps that decay, at its end (wsd only)."""

    @model_validator(mode="after")
    def _parts_fit(self) -> LearningRate:
        if self.schedule == "wsd" and self.warmup + self.decay > 1.0:
            raise ValueError(f"warmup {self.warmup} + decay {self.decay} is over 1; make them add up to at most 1")
        return self


class Phase(_Frozen):
    share: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of the stage's tokens."""
    weights: dict[str, Annotated[float, Field(ge=0.0)]]


def _check_weights(weights: Mapping[str, float], what: str) -> None:
    total = math.fsum(weights.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"{what} add up to {total:g}; make them add up to 1")


class Stage(_Frozen):
    name: Name
    tokens: Annotated[int, Field(gt=0)]
    """Tokens of the whole stage, summed over workers; rounded up to a whole step."""
    sequence_length: Annotated[int, Field(ge=8)]
    """Tokens."""
    batch_tokens: Annotated[int, Field(gt=0)]
    """Tokens per optimiser step, summed over workers; a multiple of `sequence_length`."""
    learning_rate: LearningRate
    sources: tuple[str, ...] | None = None
    code_ratio: Ratio | None = None
    schedule: Literal[MIXTURE_SHAPES] | None = None  # type: ignore[valid-type]
    within: dict[str, Annotated[float, Field(ge=0.0)]] | None = None
    """Relative shares of the sources on their side of the code ratio; default: in proportion to their tokens."""
    weights: dict[str, Annotated[float, Field(ge=0.0)]] | None = None
    phases: tuple[Phase, ...] | None = None
    interpolation: Literal["step", "linear", "cosine"] | None = None
    responses_only: bool = False
    """Instruction tuning: the loss counts response tokens only."""
    gradient_clip: Annotated[float, Field(gt=0.0)] = 1.0
    """Largest global gradient norm."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    adam_betas: tuple[Ratio, Ratio] = (0.9, 0.95)
    adam_epsilon: Annotated[float, Field(gt=0.0)] = 1e-8

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


class Evaluation(_Frozen):
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    limit: Annotated[int, Field(ge=1)] | None = None
    """Items per task; all when left out."""
    few_shot: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1)] = 32

    @field_validator("tasks")
    @classmethod
    def _no_repeats(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({task for task in tasks if tasks.count(task) > 1})
        if repeated:
            raise ValueError(f"names {', '.join(repeated)} twice; name each task once")
        return tasks


class Objective(_Frozen):
    metric: str
    mode: Literal["min", "max"]


class Search(_Frozen):
    trials: Annotated[int, Field(ge=1)] | None = None
    """Arms to try; each is run once per replicate. With the grid sampler: all points when left out."""
    sampler: Literal[SAMPLERS] = "tpe"  # type: ignore[valid-type]
    objective: Objective | Annotated[tuple[Objective, ...], Field(min_length=1)] = Objective(
        metric="mean/bpb", mode="min"
    )
    replicates: Annotated[int, Field(ge=1)] = 1
    """Seeds per arm."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Points to try first: parameter name to value; parameters left out are sampled."""

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return (self.objective,) if isinstance(self.objective, Objective) else self.objective


class DeepSpeed(_Frozen):
    zero: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Sequences per worker and forward pass; the worker's whole share of the batch when left out."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Passed through to DeepSpeed; a key that raycodellm sets itself is refused."""


class Scaling(_Frozen):
    """Where a sweep runs; never part of what is computed."""

    workers: Annotated[int, Field(ge=1)] = 1
    """Training workers per slot."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    slots: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    deepspeed: DeepSpeed = DeepSpeed()
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Time between the checkpoints that a killed stage continues from."""
    fresh_workers: bool = False
    """A new worker group for each job: isolation over speed."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Deaths of a job's workers after which the job has failed."""


class Sweep(_Frozen):
    """One concrete setting of the whole sweep file: a value in the place of every search space."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    model: Model
    tokenizer: Tokenizer
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    evaluation: Evaluation
    search: Search
    scaling: Scaling = Scaling()

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stages: the name {name!r} is used twice; give each stage its own")
            if name in type(self).model_fields:
                raise ValueError(f"stages: {name!r} is a key of the sweep file; give the stage another name")
        for stage in self.stages:
            self._check_sources(stage)
        return self

    def _check_sources(self, stage: Stage) -> None:
        for key, named in _named_sources(stage):
            for source in named:
                if source not in self.sources:
                    known = suggest(source, self.sources)
                    raise ValueError(f"stages.{stage.name}.{key}: source {source!r} is not under sources; {known}")
                if source not in self.drawn(stage):
                    drawn = ", ".join(self.drawn(stage))
                    raise ValueError(
                        f"stages.{stage.name}.{key}: source {source!r} is not drawn by this stage (it draws {drawn}); "
                        f"name it under stages.{stage.name}.sources or remove it"
                    )
        drawn = [self.sources[name] for name in self.drawn(stage)]
        if not drawn:
            want = "an instruct kind" if stage.responses_only else "a kind other than instruct"
            raise ValueError(f"stages.{stage.name}: no source of {want} is under sources; add one")
        plain = [name for name in self.drawn(stage) if not self.sources[name].is_instruct]
        if stage.responses_only and plain:
            raise ValueError(
                f"stages.{stage.name}.sources: {plain[0]!r} is of kind {self.sources[plain[0]].kind}, which has no "
                "responses; use instruct kinds or set responses_only: false"
            )
        if stage.code_ratio is not None:
            for side, ratio in ((True, stage.code_ratio), (False, 1.0 - stage.code_ratio)):
                if ratio > 0 and not any(source.is_code == side for source in drawn):
                    what = "code" if side else "text"
                    raise ValueError(
                        f"stages.{stage.name}.code_ratio: {stage.code_ratio} needs {what}, but no source of a {what} "
                        f"kind is drawn; use {0.0 if side else 1.0:g} or add such a source"
                    )

    def drawn(self, stage: Stage) -> tuple[str, ...]:
        """Names of the sources that `stage` draws from, in the order of the file."""
        if stage.sources is not None:
            return tuple(name for name in self.sources if name in stage.sources)
        return tuple(name for name, source in self.sources.items() if source.is_instruct == stage.responses_only)


def _named_sources(stage: Stage) -> Iterator[tuple[str, tuple[str, ...]]]:
    for key in ("sources", "weights", "within"):
        yield key, tuple(getattr(stage, key) or ())
    for number, phase in enumerate(stage.phases or ()):
        yield f"phases.{number}.weights", tuple(phase.weights)
