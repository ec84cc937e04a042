"""Jobs, which ask for work, and records, which say what happened: plain frozen values that pass between the parts."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from raycodellm.config import CODE_KINDS, Evaluation, Model, Scaling, Stage
from raycodellm.files import DamagedFile
from raycodellm.rungs import Rung, stopping_columns

T = TypeVar("T")

EVALUATING = "evaluating"
"""Note of an evaluation that scores items."""
EVALUATION = "evaluation"
"""Name of the folder of a model's results, inside its stage's folder, or inside a given model's in GIVEN_MODELS."""
GIVEN_MODELS = "models"
"""Folder of a storage for the results of models that a sweep without stages evaluates, each under its identity."""
CONFIRM_SEEDS = 1_000_000
"""Confirmation trial j of any arm has the sweep's seed plus this plus j: no seed that the search may have tried."""
ENDED = ("complete", "failed", "pruned")
"""States of a trial that runs no more."""
RECIPE_VERSION = 4
"""Raised whenever a change of the training code changes the weights that equal settings give."""


def job_key(name: str, identity: str) -> str:
    """Key of a job, which is also its folder's name. `name`: the stage's, or `evaluation`."""
    return f"{name}-{identity}"


def task_key(task: str, identity: str) -> str:
    """Key of a task's result, which is also its file's name. `task`: a name, or the path of a YAML file."""
    name = re.sub(r"[^\w.-]+", "_", task.rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml"))
    return f"{name[:80]}-{identity}"


def short_job_key(key: str) -> str:
    """A job's key with six digits of its identity, as people see it: `pretrain-3e80a8`."""
    name, dash, identity = key.rpartition("-")
    return f"{name}{dash}{identity[:6]}"


@dataclass(frozen=True)
class SourceSlice:
    """One source as a stage draws from it."""

    name: str
    kind: str
    store: str
    """URI of its token store."""
    num_sequences: int
    """Sequences of the stage's length in the documents to train on: one epoch."""
    num_sequences_consumed: int
    """Sequences that the stages before this one drew from the source."""
    shuffle_group_size: int = 1
    """Neighbouring sequences that stay together when an epoch is shuffled. More than 1 when the stages of a trial have
    different sequence lengths, so that each stage continues exactly where the one before stopped."""
    planned: tuple[int, ...] = ()
    """Sequences that the plan draws in each phase of the stage."""
    held_out_sequences: int = 0
    """Sequences that this stage measures, spread evenly over the held-out documents."""
    held_out_tokens: int = 0
    """Tokens asked for in held-out documents, which no stage of the sweep trains on; determines which these are."""

    @property
    def is_code(self) -> bool:
        return self.kind in CODE_KINDS


@dataclass(frozen=True)
class Trunk:
    """The constant-rate trunk that a stage's first steps are part of: other stages, which differ only in their tokens
    or their decay, train these steps alike, bit for bit."""

    folder: str
    """URI of the folder of the trunk's checkpoints."""
    num_steps: int
    """Leading steps of the stage that are the trunk's."""
    num_taken: int
    """Steps that the stage may take over from a checkpoint: those of the trunk before anything is counted or averaged
    that depends on the stage's own length."""
    kept_steps: tuple[int, ...] = ()
    """Steps after which the stage keeps a checkpoint, from which other stages of the sweep go on."""


@dataclass(frozen=True)
class StageJob:
    """One stage to train. All fields but `scaling`, `keep_optimizer`, `trunk`, `sweep` and the URIs determine the
    weights."""

    identity: str
    folder: str
    """URI of the stage's folder in the stage store."""
    parent: str | None
    """URI of the parent stage's folder; None trains from scratch (or from `model.pretrained`)."""
    stage: Stage
    model: Model
    tokenizer: str
    """URI of the tokenizer's folder."""
    vocab_size: int
    breakpoints: tuple[tuple[float, tuple[float, ...]], ...]
    """The schedule, compiled: (progress 0..1, weight per source of `sources`) knots; see `schedule.Schedule`."""
    interpolation: str
    sources: tuple[SourceSlice, ...]
    seed: int
    scaling: Scaling
    phase_ends: tuple[int, ...] = ()
    """Position at which each phase of the stage ends; the last is the number of the stage's sequences."""
    start_rate: float | None = None
    """Learning rate that the parent stage ended with, for a stage that continues from it."""
    keep_optimizer: bool = False
    """True if a later stage starts from this stage's optimizer state; no part of the identity."""
    trunk: Trunk | None = None
    """Set where other stages of the sweep may share the stage's first steps; no part of the identity."""
    sweep: str = ""
    """Name of the sweep that asks for the stage; no part of the identity."""
    rungs: tuple[int, ...] = ()
    """Numbers of trained steps at which early stopping compares the held-out text; no part of the identity."""

    @property
    def kind(self) -> Literal["stage"]:
        return "stage"

    @property
    def key(self) -> str:
        return job_key(self.stage.name, self.identity)


@dataclass(frozen=True)
class HeldOutSource:
    """The documents of a source that no stage of a sweep trains on, as an evaluation measures them."""

    source: str
    domain: str
    """Domain of `evaluation.texts` that they are text of."""
    store: str
    """URI of the token store."""
    fingerprint: str
    """Identity of the token store."""
    tokenizer: str
    """URI of the tokenizer's folder."""
    num_tokens: int
    """Tokens held out, in whole documents."""


@dataclass(frozen=True)
class EvaluationJob:
    """One exported model to evaluate on a set of tasks. It is done when each task has a result, whoever made it."""

    identity: str
    """Hash of the evaluation settings and the tasks' identities, which hold that of the last stage."""
    folder: str
    """URI of the folder for the results of the model's tasks, which all evaluations of the model share."""
    model: str
    """URI of a Hugging Face model folder; of a given model also `owner/name@commit`."""
    evaluation: Evaluation
    parent: str
    """Key of the stage job whose model is evaluated; empty for a given model."""
    held_out: tuple[HeldOutSource, ...] = ()
    """The documents of the sweep's sources whose bits per byte are measured."""
    asked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Each task or group as the settings name it -> the tasks that it stands for."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Each of these tasks -> the key of its result, which holds the task's identity."""
    data_commits: Mapping[str, str] = field(default_factory=dict)
    """The commit of each data set of the hub that the tasks read, as the driver found it."""

    @property
    def kind(self) -> Literal["evaluation"]:
        return "evaluation"

    @property
    def key(self) -> str:
        return job_key("evaluation", self.identity)


@dataclass(frozen=True)
class PhaseRow:
    """The tokens of one source that one phase of a stage consumed."""

    planned_tokens: int
    tokens: int
    sequences: int
    difference: int
    """`tokens` less `planned_tokens`: 0 unless something broke."""


@dataclass(frozen=True)
class LedgerRow:
    """The tokens of one source that one stage consumed, counted where they were trained on."""

    source: str
    kind: str
    planned_tokens: int
    tokens: int
    loss_tokens: int
    """Tokens of these that count in the loss: all but padding, prompts and each sequence's first."""
    sequences: int
    epochs: float
    """Passes over the source in this stage and all before it, at this stage's end."""
    unique_tokens: int = 0
    """Tokens of these that neither this stage nor one before it had trained on."""
    difference: int = 0
    """`tokens` less `planned_tokens`: 0 unless something broke."""
    phases: tuple[PhaseRow, ...] = ()
    """The tokens of each phase of the stage, in order."""
    skipped_sequences: int = 0
    """Sequences of steps that were skipped because their loss or gradient was not finite; in no other count."""


@dataclass(frozen=True)
class StageRecord:
    """A finished stage, as `stage.json` keeps it."""

    identity: str
    name: str
    num_steps: int
    num_tokens: int
    final_loss: float
    """Mean loss per counted token over the last tenth of the steps, in nats."""
    wall_seconds: float
    """Spent on training, summed over all attempts."""
    device_seconds: float
    """`wall_seconds` times workers."""
    order_checksum: str
    """Checksum of every (position, source, sequence) trained on; equal for any number of workers."""
    resumed_at: tuple[int, ...] = ()
    """Steps at which the stage was continued from a checkpoint."""
    ledger: tuple[LedgerRow, ...] = ()
    skipped_steps: int = 0
    """Steps among `num_steps` that changed nothing, because their loss or gradient was not finite."""
    held_out_bpb: Mapping[str, float] = field(default_factory=dict)
    """Maps each source to the bits per byte of its held-out text after the last step."""
    trunk_steps: int = 0
    """Steps among `num_steps` that another stage had trained: this one went on from its checkpoint."""
    trunk_tokens: int = 0
    """Tokens of these steps, which the ledger and `num_tokens` count too."""
    trunk_seconds: float = 0.0
    """Part of `device_seconds` that was spent on these steps."""
    trunk_by: str = ""
    """Name of the sweep that trained these steps; empty in records of older versions."""
    trained_by: str = ""
    """Name of the sweep that trained the stage to its end; empty in records of older versions."""


@dataclass(frozen=True)
class Progress:
    """The progress of a running job; sent about once a second."""

    job: str
    step: int = 0
    num_steps: int = 0
    tokens: int = 0
    tokens_per_second: float = 0.0
    loss: float = float("nan")
    code_ratio_planned: float = float("nan")
    """Planned share of code among all tokens until now."""
    code_ratio_real: float = float("nan")
    """Share of code among all tokens trained until now."""
    note: str = ""
    mfu: float = float("nan")
    """Share of the devices' best FLOP/s that the training uses, 0 to 1."""
    data_wait_share: float = float("nan")
    """Share of the last steps' time that was spent waiting for data, 0 to 1."""
    held_out_bpb: Mapping[str, float] = field(default_factory=dict)
    """Maps each source to the bits per byte of its held-out text when last measured."""
    is_elsewhere: bool = False
    """True while another sweep does the job: this one waits for its end."""
    kept_step: int = 0
    """Last step after which a stage has kept a checkpoint for the stages that share its trunk."""
    items: int = 0
    num_items: int = 0
    """Items that an evaluation has scored until now, and all items; 0 until they are known."""


def as_json(record: Any) -> Any:
    """A record as plain JSON values (configuration models included)."""
    if hasattr(record, "model_dump"):
        return record.model_dump(mode="json", exclude_none=True)
    if hasattr(record, "__dataclass_fields__"):
        fields = {name: as_json(getattr(record, name)) for name in record.__dataclass_fields__}
        return {**fields.pop("more", {}), **fields}
    if isinstance(record, Mapping):
        return {str(key): as_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [as_json(value) for value in record]
    return record


def from_json(kind: type[T], data: Any, file: str) -> T:
    """The record that `as_json` wrote into `file`. Raises `DamagedFile` when a field is missing or of another type.

    Fields that only a newer version knows are kept in `more`, if the record has that field.
    """
    try:
        record = _schema(kind).validate_python(data)  # type: ignore[arg-type]  # a type is hashable
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(map(str, first["loc"]))
        raise DamagedFile(file, f"{field_name}: {first['msg'].lower()}" if field_name else first["msg"]) from error
    fields: Mapping[str, Any] = getattr(kind, "__dataclass_fields__", {})
    if isinstance(data, Mapping) and "more" in fields:
        unknown = {name: value for name, value in data.items() if name not in fields}
        record = replace(record, more={**record.more, **unknown})
    return record


@cache
def _schema(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def summed_ledger(records: Sequence[StageRecord]) -> tuple[LedgerRow, ...]:
    """The ledger of a trial: the sum over its stages for each source, in order of appearance. `epochs` is the value at
    the last stage's end. Another trial or an earlier run may have trained a stage."""
    totals: dict[str, LedgerRow] = {}
    for row in (row for record in records for row in record.ledger):
        total = totals.get(row.source)
        summed = {name: getattr(row, name) + (getattr(total, name) if total else 0) for name in _SUMMED}
        totals[row.source] = replace(row, phases=(), **summed)
    return tuple(totals.values())


_SUMMED = ("planned_tokens", "tokens", "loss_tokens", "sequences", "unique_tokens", "difference", "skipped_sequences")
_COUNTS = ("tokens_planned", "trunk_tokens", "trunk_seconds")  # of a trial that was stopped early, or failed
_NO_COLUMNS = ("ledger", "tasks", "model", "rungs", "stopped_by", "more")


@dataclass(frozen=True)
class TrialResult:
    """One trial: `trial.json` while it runs, `result.json` when it has ended, and a row of `trials.parquet`."""

    number: int
    state: str
    """complete, failed, pruned (stopped early), running or waiting."""
    arm: int
    seed: int
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    """Trained tokens per source along the trial's stages, and `total`."""
    ledger: tuple[LedgerRow, ...] = ()
    """The sum of the stages' ledgers."""
    stages: tuple[str, ...] = ()
    """Keys of the trial's stages, in order; none where a given model is evaluated."""
    model: str = ""
    """Identity of the given model; empty for a trial with stages."""
    evaluation: str = ""
    """Key of its evaluation. In older versions also the name of the evaluation's folder, inside the last stage's."""
    tasks: dict[str, dict[str, str]] = field(default_factory=dict)
    """Each task or group as the settings name it -> the tasks that it stands for, each with the key of its result in
    the folder `EVALUATION` of the last stage or of the given model. Empty for trials of older versions."""
    wall_seconds: float = 0.0
    device_seconds: float = 0.0
    deaths: int = 0
    """Deaths of workers under the trial's jobs, as counted by the driver that ended the trial."""
    preemptions: int = 0
    """Times that the jobs' workers were told to leave."""
    error: str | None = None
    phase: Literal["search", "confirm"] = "search"
    """`confirm` for a fresh seed of an arm that the search had chosen."""
    rungs: tuple[Rung, ...] = ()
    """The comparisons of early stopping that the trial's stage took part in, in order."""
    stopped_by: int | None = None
    """Number of the trial, another seed of the same arm, whose comparison stopped this one; None for any other."""
    tokens_planned: int = 0
    """Tokens of all stages of a trial that was stopped early, those that it did not train included."""
    trunk_tokens: int = 0
    """Part of `tokens` that the last stage, in which the trial was stopped early or failed, took over from another
    one; `trunk_seconds` is the same part of `device_seconds`."""
    trunk_seconds: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)
    """Fields that only a newer version knows; kept when the record is written again, and used for nothing."""

    def row(self, metrics: Collection[str] | None = None) -> dict[str, Any]:
        """The row of `trials.parquet`: flat columns `params.pretrain.code_ratio`, `metrics.mean/bpb`, `tokens.prose`,
        `epochs.prose`; with early stopping also `rungs.0.25`, and what stopped the trial in `stopped.*`. `metrics`: the
        only ones that the row has, where its reader needs no others of an evaluation's hundreds."""
        flat = {name: value for name, value in vars(self).items() if name not in _NO_COLUMNS}
        counts = {name: flat.pop(name) for name in _COUNTS}
        flat |= stopping_columns(self.state, self.rungs, self.stopped_by, counts)
        flat |= {f"epochs.{row.source}": row.epochs for row in self.ledger}
        flat["tokens_difference"] = sum(row.difference for row in self.ledger)
        for group in ("params", "metrics", "tokens"):
            values = flat.pop(group)
            names = values if group != "metrics" or metrics is None else [name for name in metrics if name in values]
            flat.update({_column(group, name): values[name] for name in names})
        return flat


@cache
def _column(group: str, name: str) -> str:
    return f"{group}.{name}"  # one text for all rows: texts of their own would be most of what a thousand rows hold
