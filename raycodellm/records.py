"""What passes between the parts: jobs that ask for work and records that say what happened, as plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raycodellm.config import CODE_KINDS, Evaluation, Model, Scaling, Stage

RECIPE_VERSION = 1
"""Raised whenever a change of the training code changes the weights that equal settings give."""


@dataclass(frozen=True)
class SourceSlice:
    """One source as a stage draws from it."""

    name: str
    kind: str
    store: str
    """URI of its token store."""
    num_sequences: int
    """Sequences of the stage's length that the token store holds: one epoch."""
    start: int
    """Sequences that the stages before this one drew from it."""

    @property
    def is_code(self) -> bool:
        return self.kind in CODE_KINDS


@dataclass(frozen=True)
class StageJob:
    """One stage to train. Everything but `scaling` and the URIs decides the weights."""

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

    @property
    def key(self) -> str:
        return f"{self.stage.name}-{self.identity}"


@dataclass(frozen=True)
class EvaluationJob:
    """One exported model to evaluate."""

    identity: str
    """Of the model's last stage and the evaluation settings."""
    folder: str
    """URI of the folder that takes `metrics.json` and `items.parquet`."""
    model: str
    """URI of a Hugging Face model folder."""
    evaluation: Evaluation
    parent: str
    """Key of the stage job whose model is evaluated."""

    @property
    def key(self) -> str:
        return f"evaluation-{self.identity}"


@dataclass(frozen=True)
class LedgerRow:
    """What one stage really consumed of one source, counted where it was trained on."""

    source: str
    kind: str
    planned_tokens: int
    tokens: int
    loss_tokens: int
    """Of these, the tokens that count in the loss (all but padding, prompts and each sequence's first)."""
    sequences: int
    epochs: float
    """Passes over the source in this stage and all before it, at this stage's end."""


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
    """Spent training, summed over all attempts that led to this result."""
    device_seconds: float
    """`wall_seconds` times workers."""
    order_checksum: str
    """Of every (position, source, sequence) trained on; equal for equal orders, whatever the number of workers."""
    resumed_at: tuple[int, ...] = ()
    """Steps at which the stage was continued from a checkpoint."""
    ledger: tuple[LedgerRow, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Where a running job is; sent about once a second."""

    job: str
    step: int = 0
    num_steps: int = 0
    tokens: int = 0
    tokens_per_second: float = 0.0
    loss: float = float("nan")
    code_ratio_planned: float = float("nan")
    code_ratio_real: float = float("nan")
    note: str = ""


def as_json(record: Any) -> Any:
    """A record as plain JSON values (configuration models included)."""
    if hasattr(record, "model_dump"):
        return record.model_dump(mode="json", exclude_none=True)
    if hasattr(record, "__dataclass_fields__"):
        return {name: as_json(getattr(record, name)) for name in record.__dataclass_fields__}
    if isinstance(record, Mapping):
        return {str(key): as_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [as_json(value) for value in record]
    return record


def stage_record(data: Mapping[str, Any]) -> StageRecord:
    """The record that `as_json` wrote."""
    known = {name: data[name] for name in StageRecord.__dataclass_fields__ if name in data}
    known["ledger"] = tuple(LedgerRow(**row) for row in data.get("ledger", ()))
    known["resumed_at"] = tuple(data.get("resumed_at", ()))
    return StageRecord(**known)


@dataclass(frozen=True)
class TrialResult:
    """One row of `trials.parquet`. `state`: complete, failed, running or waiting."""

    number: int
    state: str
    arm: int
    seed: int
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    """Trained tokens per source along the trial's stages, and `total`."""
    stages: tuple[str, ...] = ()
    """Keys of the trial's stages, in order."""
    wall_seconds: float = 0.0
    device_seconds: float = 0.0
    error: str | None = None

    def row(self) -> dict[str, Any]:
        """Flat columns: `params.pretrain.code_ratio`, `metrics.mean/bpb`, `tokens.prose`."""
        flat = asdict(self)
        for group in ("params", "metrics", "tokens"):
            flat.update({f"{group}.{name}": value for name, value in flat.pop(group).items()})
        return flat
