"""The counts of a stage's training: the tally, the rows of metrics, the ledger. Plain numbers, no device.

All counts come from the batches that were trained on, and travel in the checkpoint: a stage continued any number of
times counts each sequence once.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raycodellm import mixture
from raycodellm.records import LedgerRow, PhaseRow, StageJob

if TYPE_CHECKING:
    import pyarrow as pa

    from raycodellm.engine import StepResult

_HELD_OUT = "bpb/"
"""Beginning of the columns of metrics.parquet that hold bits per byte of held-out text, per source."""
_MEDIAN_STEPS = 64
"""Steps whose losses make the running median."""
_FEWEST_MEDIAN_STEPS = 16
"""Steps before the median is used."""
_EXPLODING_STEPS = 3
"""Steps over the limit in a row that make an explosion; a single bad batch makes none."""


@dataclass
class Tally:
    """Counts of the stage's training so far: plain numbers that travel in the checkpoint.

    All are summed over workers, except `checksum`: each worker's is of its own rows until a checkpoint sums them.
    """

    step: int
    """Steps trained, skipped steps included."""
    phases: list[list[int]]
    """Sequences trained, per phase of the stage and source."""
    loss_tokens: list[int]
    """Tokens that counted in the loss, per source."""
    checksum: int
    """`order_checksum` of the rows trained."""
    window: dict[str, Any]
    """Sums since the last row of metrics, see `empty_window`."""
    rows: list[dict[str, float]]
    """Rows of metrics.parquet."""
    last_loss: list[float]
    """Loss sum in nats, and counted tokens, over the last tenth of the stage's steps."""
    resumed_at: list[int]
    """Steps at which the stage continued from a checkpoint."""
    wall_seconds: float
    skipped: list[int] = field(default_factory=list)
    """Sequences per source that were drawn in steps that changed nothing."""
    skipped_steps: int = 0
    recent: list[float] = field(default_factory=list)
    """Losses of the last steps that were not over the limit, in nats per token."""
    over_limit: int = 0
    """Steps in a row whose loss was over the limit."""
    trunk_steps: int = 0
    """Steps that another stage of the same trunk has trained, and the seconds and tokens below."""
    trunk_seconds: float = 0.0
    trunk_tokens: int = 0
    trunk_by: str = ""
    """Name of the sweep that kept these steps; empty where an older version did."""
    kept_by: str = ""
    """Name of the sweep that keeps this tally for other stages of the trunk; empty in every other one."""

    def branched(self, tokens: int) -> Tally:
        """The tally of a stage that goes on from a checkpoint of another stage of its trunk, whose tally this is.
        `tokens`: trained until here. What only tells of the other stage begins anew."""
        return replace(
            self,
            last_loss=[0.0, 0.0],
            resumed_at=[],
            trunk_steps=self.step,
            trunk_seconds=self.wall_seconds,
            trunk_tokens=tokens,
            trunk_by=self.kept_by,
            kept_by="",
        )

    @classmethod
    def empty(cls, num_sources: int, num_phases: int = 1) -> Tally:
        phases = [[0] * num_sources for _ in range(num_phases)]
        window = empty_window(num_sources)
        return cls(0, phases, [0] * num_sources, 0, window, [], [0.0, 0.0], [], 0.0, skipped=[0] * num_sources)

    @property
    def sequences(self) -> list[int]:
        """Sequences trained, per source."""
        return [sum(of_source) for of_source in zip(*self.phases, strict=True)]

    @property
    def drawn(self) -> list[int]:
        """Sequences per source, those of skipped steps included: the plan continues after them."""
        return elementwise_sum(self.sequences, self.skipped)

    def add_step(self, result: StepResult, drawn: Sequence[Sequence[int]], checksum: int, num_steps: int) -> None:
        """Counts a step. `drawn`: sequences of all workers, per phase and source; `checksum`: of this worker's rows;
        `num_steps`: of the whole stage."""
        self.step += 1
        self.checksum = (self.checksum + checksum) % 2**64
        self.phases = [elementwise_sum(total, counts) for total, counts in zip(self.phases, drawn, strict=True)]
        self.loss_tokens = elementwise_sum(self.loss_tokens, result.loss_tokens.tolist())
        if self.step > num_steps - -(-num_steps // 10):
            self.last_loss[0] += float(result.loss_sums.sum())
            self.last_loss[1] += float(result.loss_tokens.sum())
        window = self.window
        window["loss_sums"] = elementwise_sum(window["loss_sums"], result.loss_sums.tolist())
        window["loss_tokens"] = elementwise_sum(window["loss_tokens"], result.loss_tokens.tolist())
        window["sequences"] = elementwise_sum(window["sequences"], [sum(column) for column in zip(*drawn, strict=True)])
        if result.applied:  # with fp16 a gradient may have overflowed
            window["grad_norm"] += result.grad_norm
            window["applied"] += 1

    def add_skipped_step(self, drawn: Sequence[Sequence[int]]) -> None:
        """Counts a step that changed nothing, apart from the others; `drawn` as for `add_step`."""
        self.step += 1
        self.skipped_steps += 1
        self.skipped = elementwise_sum(self.skipped, [sum(column) for column in zip(*drawn, strict=True)])

    def add_times(self, seconds: float, wait_seconds: float, blocks_ready: int) -> None:
        """Adds a step's duration, its wait for data, and the blocks that were ready when it asked for data."""
        self.window["wait_seconds"] += wait_seconds
        self.window["blocks_ready"] += blocks_ready
        self.window["steps"] += 1
        self.window["seconds"] += seconds
        self.wall_seconds += seconds

    def observe_loss(self, loss: float, limit: float, vocab_size: int) -> float | None:
        """Takes in a step's loss, in nats per token; returns the median that it exceeds when the loss explodes.

        A loss is over the limit when it exceeds both `limit` times the running median and the loss of guessing all
        tokens alike: a schedule may turn to text that the model does not know yet, but even then the loss is no higher
        than that of knowing nothing. `limit` 0 turns the check off.
        """
        if not limit:
            return None
        median = statistics.median(self.recent) if len(self.recent) >= _FEWEST_MEDIAN_STEPS else math.inf
        if loss > limit * median and loss > math.log(vocab_size):
            self.over_limit += 1
            return median if self.over_limit >= _EXPLODING_STEPS else None
        self.over_limit = 0
        self.recent = [*self.recent, loss][-_MEDIAN_STEPS:]
        return None


def empty_window(num_sources: int) -> dict[str, Any]:
    """The sums over the steps of one row of metrics; lists are per source."""
    sums = {name: [0] * num_sources for name in ("loss_sums", "loss_tokens", "sequences")}
    return {**sums, "applied": 0, "grad_norm": 0.0, "seconds": 0.0, "wait_seconds": 0.0, "blocks_ready": 0, "steps": 0}


def order_checksum(position: np.ndarray, source: np.ndarray, sequence: np.ndarray, names: tuple[str, ...]) -> int:
    """Sum modulo 2^64 of a hash of each (position, source's name, sequence).

    The position inside the hash makes the sum depend on the order of the data; as a sum it does not depend on which
    worker counts which row.
    """
    keys = [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") for name in names]
    with np.errstate(over="ignore"):
        mixed = _scrambled(np.asarray(position, dtype=np.uint64))
        mixed = _scrambled(mixed + np.asarray(keys, dtype=np.uint64)[np.asarray(source, dtype=np.int64)])
        mixed = _scrambled(mixed + np.asarray(sequence, dtype=np.uint64))
        return int(mixed.sum(dtype=np.uint64))


def _scrambled(value: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def row(tally: Tally, job: StageJob, speed: Mapping[str, float], scheduled: float, planned: float) -> dict[str, float]:
    """One row of metrics.parquet: means over the steps since the row before; losses in nats per counted token.

    `speed`: learning_rate, flops_per_token of training, peak_flops of all devices together, memory_bytes.
    `scheduled`: the schedule's code ratio at this point of the stage, to compare with the window's. `planned`: the
    schedule's code ratio of all data until here, to compare with the real one until here.
    """
    window, length = tally.window, job.stage.sequence_length
    rate = ratio(sum(window["sequences"]) * length, window["seconds"])
    is_code = [source.is_code for source in job.sources]
    values: dict[str, float] = {
        "step": tally.step,
        "tokens": sum(tally.sequences) * length,
        "loss": ratio(sum(window["loss_sums"]), sum(window["loss_tokens"])),
        "learning_rate": speed["learning_rate"],
        "grad_norm": ratio(window["grad_norm"], window["applied"]),
        "tokens_per_second": rate,
        "mfu": ratio(rate * speed["flops_per_token"], speed["peak_flops"]),
        "memory_bytes": speed["memory_bytes"],
        "skipped_steps": tally.skipped_steps,
        "data_wait_seconds": window["wait_seconds"],
        "data_wait_share": ratio(window["wait_seconds"], window["seconds"]),
        "data_blocks_ready": ratio(window["blocks_ready"], window["steps"]),
        "code_ratio_planned": planned,
        "code_ratio_real": code_ratio(tally.sequences, is_code),
        "code_ratio_scheduled": scheduled,
        "code_ratio_window": code_ratio(window["sequences"], is_code),
    }
    for index, source in enumerate(job.sources):
        values[f"loss/{source.name}"] = ratio(window["loss_sums"][index], window["loss_tokens"][index])
        values[f"tokens/{source.name}"] = tally.sequences[index] * length
    return values


def data_wait_share(tally: Tally) -> float:
    """Share of the time that went into waiting for data: since the last row of metrics, or in that row."""
    if tally.window["seconds"]:
        return ratio(tally.window["wait_seconds"], tally.window["seconds"])
    return tally.rows[-1]["data_wait_share"] if tally.rows else math.nan


def newest_held_out(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Per source: bits per byte of held-out text, from the newest row of metrics that measured any."""
    for row in reversed(rows):
        names = (name for name, value in row.items() if name.startswith(_HELD_OUT) and not math.isnan(value))
        if measurements := {name.removeprefix(_HELD_OUT): row[name] for name in names}:
            return measurements
    return {}


def code_ratio(sequences: Sequence[int], is_code: Sequence[bool]) -> float:
    """Share of sequences that come from code sources; both arguments are per source."""
    return ratio(float(np.asarray(sequences)[np.asarray(is_code)].sum()), float(sum(sequences)))


def ledger(job: StageJob, tally: Tally, planned: Sequence[Sequence[int]] | None = None) -> tuple[LedgerRow, ...]:
    """Tokens, epochs and phases of each source, planned and trained. `planned`: sequences per phase and source; those
    of the whole stage when left out."""
    length, planned = job.stage.sequence_length, planned or mixture.planned_by_phase(job)
    rows = []
    for index, source in enumerate(job.sources):
        phases = tuple(
            PhaseRow(
                planned_row[index] * length,
                trained_row[index] * length,
                trained_row[index],
                (trained_row[index] - planned_row[index]) * length,
            )
            for planned_row, trained_row in zip(planned, tally.phases, strict=True)
        )
        sequences = sum(phase.sequences for phase in phases)
        end = source.num_sequences_consumed + sequences
        rows.append(
            LedgerRow(
                source=source.name,
                kind=source.kind,
                planned_tokens=sum(phase.planned_tokens for phase in phases),
                tokens=sequences * length,
                loss_tokens=tally.loss_tokens[index],
                sequences=sequences,
                epochs=ratio(end, source.num_sequences, empty=0.0),
                unique_tokens=max(0, min(end, source.num_sequences) - source.num_sequences_consumed) * length,
                difference=sum(phase.difference for phase in phases),
                phases=phases,
                skipped_sequences=tally.skipped[index],
            )
        )
    return tuple(rows)


def elementwise_sum(old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    """The element-wise sum."""
    return [left + right for left, right in zip(old, new, strict=True)]


def ratio(part: float, whole: float, empty: float = float("nan")) -> float:
    """part / whole; `empty` where whole is 0."""
    return float(part) / float(whole) if whole else empty


def ledger_table(rows: Sequence[LedgerRow]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(ledger_row) for ledger_row in rows])


_WHOLE_NUMBERS = ("step", "tokens", "memory_bytes", "skipped_steps")


def metrics_table(rows: Sequence[Mapping[str, float]]) -> pa.Table:
    import pyarrow as pa

    columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    integer_columns = {name for name in columns if name in _WHOLE_NUMBERS or name.startswith("tokens/")}
    return pa.table(
        {
            name: pa.array(values, pa.int64() if name in integer_columns else pa.float64())
            for name, values in columns.items()
        }
    )
