"""Faults that end a stage: losses that are not finite or explode, sequences longer than the model's context."""

from __future__ import annotations

from collections.abc import Sequence

from raycodellm.config import UserError
from raycodellm.engine import StepResult, TrainingError
from raycodellm.records import StageJob
from raycodellm.stage.metrics import Tally, ratio


def not_finite(job: StageJob, step: int, result: StepResult, rows: Sequence[tuple[int, int, int]]) -> TrainingError:
    """The error of a step whose loss or gradient is not finite.

    `rows`: (position, source's index, sequence) of each row whose loss is not finite; empty when only the gradient is
    not finite.
    """
    culprit = "the loss" if rows else "the gradient"
    places = ", ".join(
        f"position {position} ({job.sources[source].name} sequence {sequence})"
        for position, source, sequence in rows[:5]
    )
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    detail = f" at {places}{more}" if rows else f" (norm {result.grad_norm}, losses finite)"
    return TrainingError(
        f"stage {job.stage.name!r}, step {step}: {culprit} is not finite{detail}; learning rate "
        f"{result.learning_rate:.3g}. A lower learning_rate.peak, a longer warmup, a smaller optimizer.gradient_clip "
        "or numerics.precision: fp32 would help; if it is always the same sequence, look at that text, or set "
        "faults.on_nan: skip_batch"
    )


def require_no_explosion(job: StageJob, tally: Tally, result: StepResult) -> None:
    """Takes the step's loss into the tally; raises TrainingError when the loss explodes."""
    loss = ratio(float(result.loss_sums.sum()), float(result.loss_tokens.sum()))
    median = tally.observe_loss(loss, job.stage.faults.loss_limit, job.vocab_size)
    if median is not None:
        raise TrainingError(
            f"stage {job.stage.name!r}, step {tally.step - 1}: the loss explodes: {loss:.3g} nats per "
            f"token, {loss / median:.1f} times the median of the steps before ({median:.3g}); learning rate "
            f"{result.learning_rate:.3g}. A lower learning_rate.peak, a longer warmup or a smaller "
            f"optimizer.gradient_clip would help; faults.loss_limit, {job.stage.faults.loss_limit:g} here, is the "
            "multiple of the median that fails a stage; 0 turns the check off"
        )


def require_training(job: StageJob, tally: Tally) -> None:
    """Raises TrainingError where all steps of a finished stage were skipped: its model would be the one it began
    with."""
    if tally.skipped_steps == job.stage.num_steps:
        raise TrainingError(
            f"stage {job.stage.name!r}: none of its {tally.skipped_steps} steps changed the weights, since each had a "
            "loss or gradient that is not finite; faults.on_nan: fail names the sequences of the first one"
        )


def require_context(job: StageJob, longest: int | None) -> None:
    """Raises UserError when the stage's sequences are longer than `longest`, the model's context in tokens."""
    if longest is not None and job.stage.sequence_length > longest:
        raise UserError(
            f"stages.{job.stage.name}.sequence_length: found {job.stage.sequence_length}, but the model takes at most "
            f"{longest} tokens; use {longest} or less, or a model with a longer context"
        )
