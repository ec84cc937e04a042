"""Every setting of a sweep as a frozen, typed model. Shares and ratios lie in 0..1; tokens count all workers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raycodellm.config.cleaning import Cleaning, Take, spoken_take
from raycodellm.config.errors import suggest
from raycodellm.config.numbers import NO_TRUTH_VALUE, Number, Ratio, Whole
from raycodellm.config.old_spellings import with_stage_settings

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
MOST_SEQUENCES = 100_000_000
"""Sequences of a stage, at most: planned in a quarter of a minute, 8 * 10^11 tokens at a length of 8,192."""
NAME_PATTERN = r"^[A-Za-z0-9_-]+$"


STORAGE_FOLDERS = ("tokens", "stages", "tokenizers")
"""Folders of a storage beside those of its sweeps."""

Share = Annotated[Number, Field(ge=0.0, lt=1.0)]
"""With 1, a moment would never hear of a gradient."""
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
    vocab_size: Annotated[Whole, Field(ge=300, le=1_000_000)] = 4096
    """Entries of the vocabulary, the 256 bytes and special tokens included."""
    sample_bytes: Annotated[Whole, Field(ge=10_000)] = 8_000_000
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
    format: Literal["parquet", "jsonl", "arrow", "text", "source", "notebook", "commits", "instruct", "qa"] | None = (
        None
    )
    """Guessed from the file names when left out; `commits` (of git repositories) and `qa` never are."""
    languages: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Of a source tree, or of a history's files: python, c, … instead of what the kind takes by itself."""
    subset: str | None = None
    """Of a data set in a Hugging Face layout; the default one, or the only one, when left out."""
    split: str | None = None
    """Of a data set in a Hugging Face layout; train, or the only one, when left out."""
    notebook_outputs: bool = False
    """Printed text and plain results of notebooks as well."""
    text_field: str | tuple[str, ...] = "text"
    """Column that holds the text (Parquet, JSONL); several are joined by a newline."""
    documents: Literal["file", "paragraphs"] = "file"
    """What one document of a plain text file is."""
    limit_documents: Annotated[Whole, Field(ge=1)] | None = None
    max_epochs: Annotated[Number, Field(gt=0.0)] | None = None
    """Passes over the source that a trial may make, all its stages together; any number when left out."""

    cleaning: Cleaning | None = None
    """Which documents stay; what is not set here is as in the sweep's own `cleaning`."""
    score_field: str | None = None
    """Column with a number per document, for `take`."""
    license_field: str | None = None
    """Column with a document's license, an SPDX identifier or a list of them, for `cleaning.licenses`."""
    take: Take | None = None
    """`top 30 %`: the documents of the highest `score_field`, a share of the UTF-8 bytes that cleaning leaves."""

    @field_validator("take", mode="before")
    @classmethod
    def _spoken_take(cls, take: Any) -> Any:
        return spoken_take(take)

    @model_validator(mode="after")
    def _columns_named(self) -> Source:
        if self.take is not None and self.score_field is None:
            raise ValueError("take needs score_field, the column to go by; add for example score_field: quality")
        return self

    @model_validator(mode="after")
    def _reading_fits(self) -> Source:
        if self.languages and self.format not in (None, "source", "commits"):
            raise ValueError(f"languages go with format source or commits; found {self.format}: remove one of them")
        for setting in ("subset", "split"):
            if getattr(self, setting) is None:
                continue
            if self.languages or self.format in ("source", "commits"):
                raise ValueError(f"{setting} goes with data sets, not with source trees or commits; remove it")
            if any(path.startswith("builtin:") for path in self.paths):
                raise ValueError(f"{setting} goes with data sets, and a builtin source has none; remove it")
        return self

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


class Phase(_Frozen):
    share: Annotated[Number, Field(gt=0.0, le=1.0)]
    """Share of the stage's tokens."""
    weights: dict[str, Annotated[Number, Field(ge=0.0)]]


def _check_weights(weights: Mapping[str, float], what: str) -> None:
    total = math.fsum(weights.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"{what} add up to {total:g}; make them add up to 1")


class HeldOut(_Frozen):
    """Whole documents of every source, which no stage of the sweep trains on, and how often they are measured."""

    tokens: Annotated[Whole, Field(gt=0)]
    """Tokens of each source; a few fewer are measured where they do not fill whole sequences. Documents longer than an
    eighth of this are passed over, and trained on, where the shorter ones are enough."""
    every_tokens: Annotated[Whole, Field(gt=0)] = 1_000_000
    """Trained tokens between two measurements; the stage's end is always measured."""


class Stage(_Frozen):
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
    gradient_clip: Annotated[Number, Field(gt=0.0)] = 1.0
    """Largest global gradient norm."""
    weight_decay: Annotated[Number, Field(ge=0.0)] = 0.1
    adam_betas: tuple[Share, Share] = (0.9, 0.95)
    adam_epsilon: Annotated[Number, Field(gt=0.0)] = 1e-8
    optimizer_state: Literal["fresh", "keep"] = "fresh"
    """Adam's moments and step count at the stage's start: zero, or those that the parent stage ended with."""
    held_out: HeldOut | None = None
    """Measures bits per byte of text that is never trained on; off when left out."""
    on_nan: Literal["fail", "skip_batch"] = "fail"
    """A step whose loss or gradient is not finite fails the stage, or changes nothing and is counted as skipped."""
    loss_limit: Annotated[Number, Field(ge=0.0)] = 4.0
    """A loss over this many times the median of the 64 steps before, and over that of guessing every token alike, three
    steps in a row fails the stage; 0 never does."""
    average_last: Annotated[Whole, Field(ge=2)] | None = None
    """The stage's model is the mean of the weights after this many steps, the last of them the stage's last."""
    average_every: Annotated[Number, Field(gt=0.0, le=1.0)] | None = None
    """Distance between two of these, as a share of the stage's steps; 0.02 when left out."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Numbers of the forward and backward pass; the weights that the optimizer steps are float32 in any case."""
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    """flash_attention_2 needs the flash-attn package, a GPU, and bf16 or fp16."""
    deepspeed_config: dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed's own JSON, passed through; a key that raycodellm sets itself is refused."""

    @property
    def averaged_steps(self) -> frozenset[int]:
        """Numbers of finished steps after which the weights enter the mean; empty without `average_last`."""
        apart = max(1, round((self.average_every or 0.02) * self.num_steps))
        places = min(self.average_last or 0, self.num_steps // apart + 1)
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
        if self.average_every is not None and self.average_last is None:
            raise ValueError("average_every goes with average_last; give average_last or remove average_every")
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


class Evaluation(_Frozen):
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    limit: Annotated[Whole, Field(ge=1)] | None = None
    """Items per task; all when left out."""
    few_shot: Annotated[Whole, Field(ge=0)] = 0
    batch_size: Annotated[Whole, Field(ge=1)] = 32

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
    trials: Annotated[Whole, Field(ge=1)] | None = None
    """Arms to try; each is run once per replicate. With the grid sampler: all points when left out."""
    sampler: Literal[SAMPLERS] = "tpe"  # type: ignore[valid-type]
    objective: Objective | Annotated[tuple[Objective, ...], Field(min_length=1)] = Objective(
        metric="mean/bpb", mode="min"
    )
    replicates: Annotated[Whole, Field(ge=1)] = 1
    """Seeds per arm."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Points to try first: parameter name to value; parameters left out are sampled."""

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return (self.objective,) if isinstance(self.objective, Objective) else self.objective


class DeepSpeed(_Frozen):
    """How the engine spreads a stage over its workers. `precision`, `attention` and `config` belong to the stage; said
    here, they are those of all stages (`old_spellings`)."""

    zero: Annotated[Literal[0, 1, 2, 3], NO_TRUTH_VALUE] = 1
    micro_batch: Annotated[Whole, Field(ge=1)] | Literal["auto"] | None = None
    """Sequences per worker and forward pass; the worker's whole share of the batch when left out. auto: the most that
    fit into memory, found once per stage and kept in its stage.json."""
    activation_checkpointing: bool = False
    """Each block's activations are computed again on the way back: less memory for a third more computation."""
    compile: bool = False
    """torch.compile of each of the model's blocks; not with ZeRO 3. The first steps take longer."""
    deterministic: bool = False
    """Only algorithms that give the same bits each time, also on GPUs, where they are slower."""


class Scaling(_Frozen):
    """Where a sweep runs; never part of what is computed."""

    workers: Annotated[Whole, Field(ge=1)] = 1
    """Training workers per slot."""
    gpus_per_worker: Annotated[Number, Field(ge=0)] = 0
    cpus_per_worker: Annotated[Number, Field(gt=0)] = 1
    slots: Annotated[Whole, Field(ge=1)] | Literal["auto"] = "auto"
    deepspeed: DeepSpeed = DeepSpeed()
    checkpoint_seconds: Annotated[Number, Field(gt=0)] = 600.0
    """Time between the checkpoints that a killed stage continues from."""
    checkpoint_tokens: Annotated[Whole, Field(gt=0)] | None = None
    """Trained tokens between checkpoints, in place of the time."""
    checkpoints_kept: Annotated[Whole, Field(ge=1)] = 2
    """The newest ones of a stage in training; more than one, in case the newest turns out damaged."""
    background_checkpoints: bool | None = None
    """Write checkpoints in a thread while training goes on, from a copy in host memory; when left out, those of over 64
    MB per worker."""
    peak_tflops: Annotated[Number, Field(gt=0)] | None = None
    """10^12 FLOP/s that one worker's device reaches at best, for the share of them that is used (MFU); when left out,
    from a table of devices, or measured."""
    reader: Literal["ray", "thread"] = "ray"
    """What reads training data: tasks of Ray Data, outside the training processes, or a thread of each of them."""
    cache: Literal["none", "local"] = "none"
    """local: each node copies the token stores that its stages draw from to its own disk, once; for object storage."""
    cache_gib: Annotated[Number, Field(gt=0)] = 100.0
    """2^30 bytes of copies per node; those not used for longest make room, and what does not fit is not copied."""
    cache_folder: str = "~/.cache/raycodellm"
    """On each node's own disk."""
    fresh_workers: bool = False
    """A new worker group for each job: isolation over speed."""
    max_failures: Annotated[Whole, Field(ge=0)] = 3
    """Deaths of a job's workers after which the job has failed."""
    max_preemptions: Annotated[Whole, Field(ge=0)] = 50
    """Times that a job's workers may be told to leave (a spot node's notice, SIGTERM) before the job has failed."""


class MatchRepetition(_Frozen):
    """A small run that repeats its data as often as a large one would: each source is cut to the share of its target's
    tokens that the sweep's budget is of the target's, so that at any mixture its epochs are the target's."""

    target_tokens: Annotated[Whole, Field(gt=0)]
    """Of the target run: all stages and sources together."""
    source_tokens: dict[str, Annotated[Whole, Field(gt=0)]]
    """Tokens that the target run has of each source; a source left out is not cut."""


class Sweep(_Frozen):
    """One concrete setting of the whole sweep file: a value in the place of every search space."""

    name: Name
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    model: Model
    tokenizer: Tokenizer
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    match_repetition: MatchRepetition | None = None
    cleaning: Cleaning | None = None
    """Of every source, where the source's own `cleaning` sets nothing else."""
    evaluation: Evaluation
    search: Search
    scaling: Scaling = Scaling()

    @model_validator(mode="before")
    @classmethod
    def _old_spellings(cls, tree: Any) -> Any:
        return with_stage_settings(tree)

    @field_validator("name")
    @classmethod
    def _not_a_folder_of_the_storage(cls, name: str) -> str:
        if name.lower() in STORAGE_FOLDERS:  # some file systems take no notice of capitals
            raise ValueError(f"found {name!r}, the storage's own folder for something else; give another name")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stages: the name {name!r} is used twice; give each stage its own")
            if name in type(self).model_fields:
                raise ValueError(f"stages: {name!r} is a key of the sweep file; give the stage another name")
        for name in self.match_repetition.source_tokens if self.match_repetition else ():
            if name not in self.sources:
                known = suggest(name, self.sources)
                raise ValueError(f"match_repetition.source_tokens: source {name!r} is not under sources; {known}")
        for name in self.sources:
            if self.cleaned(name).cleaning.licenses and self.sources[name].license_field is None:
                raise ValueError(
                    f"sources.{name}.cleaning.licenses: needs license_field, the column with each document's license; "
                    f"add sources.{name}.license_field, or set licenses: false there"
                )
        for stage in self.stages:
            self._check_sources(stage)
        first = self.stages[0]
        if first.learning_rate.boundary == "continue":
            raise ValueError(
                f"stages.{first.name}.learning_rate.boundary: continue needs a stage before this one; use restart"
            )
        for before, after in itertools.pairwise(self.stages):
            if after.learning_rate.boundary == "continue" and before.learning_rate.ends_at_zero:
                raise ValueError(
                    f"stages.{after.name}.learning_rate.boundary: continue goes on from the rate at which stage "
                    f"{before.name!r} ends, which is 0 and would train nothing; use restart, or a final over 0 there"
                )
        if first.optimizer_state == "keep":
            raise ValueError(f"stages.{first.name}.optimizer_state: keep needs a stage before this one; use fresh")
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

    def cleaned(self, name: str) -> Source:
        """The source with its cleaning complete: its own settings over the sweep's."""
        source = self.sources[name]
        return source.model_copy(update={"cleaning": (source.cleaning or Cleaning()).over(self.cleaning)})

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
