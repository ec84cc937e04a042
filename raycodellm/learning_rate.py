"""The learning rate of every step, by arithmetic that needs no torch.

Every step trains. A warm-up step has the rate that the warm-up reaches at the step's end, so the first step's rate is
over 0. A decay step has the rate at the step's beginning, so the last step's rate is over `final * peak`, which is
reached when the stage has ended. The decays equal those of transformers and torch, step by step; a warm-up there begins
with a step of rate 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from raycodellm.config import LearningRate


def learning_rate_at(settings: LearningRate, step: int, num_steps: int, start_rate: float | None = None) -> float:
    """Rate of optimizer step `step` (0 is the first); at `step` = `num_steps`, the rate that the stage ended with.

    The rate rises on a straight line to the peak over the first `warmup` of the steps. wsd then holds the peak, and
    falls on a straight line over the last `decay` of the steps. `start_rate`, the rate that the parent stage ended
    with, replaces the warm-up: the rate goes from there to `final * peak`, and never rises.
    """
    if start_rate is not None:
        final_share = min(1.0, settings.final * settings.peak / start_rate)
        settings = settings.model_copy(
            update={"peak": start_rate, "warmup": 0.0, "warmup_steps": None, "final": final_share}
        )
    warm_steps = _warm_steps(settings, num_steps)
    if step + 1 < warm_steps and step < num_steps:
        return settings.peak * (step + 1) / warm_steps
    start = _decay_start(settings, num_steps)
    if settings.schedule == "constant" or step <= start or start >= num_steps:
        return settings.peak
    share_left = (num_steps - step) / (num_steps - start)
    if settings.schedule == "cosine":
        # Equals (1 + cos) / 2, which in floats is 0 already where this is 1e-17.
        share_left = math.sin(math.pi / 2.0 * share_left) ** 2
    return settings.peak * (settings.final + (1.0 - settings.final) * share_left)


def start_rate(settings: LearningRate, parents_last: float | None) -> float | None:
    """Rate at which a stage begins in place of a warm-up; None where the stage warms up."""
    return parents_last if settings.boundary == "continue" else None


class TrunkRate(NamedTuple):
    """The rate of a stage's first steps: a warm-up, and then one rate until the decay begins."""

    peak: float
    warm: float
    """Steps of the warm-up."""
    num_steps: int
    """Steps that have this rate, warm-up included."""


def trunk_rate(settings: LearningRate, num_steps: int, start_rate: float | None = None) -> TrunkRate | None:
    """The rate that a stage shares with stages of another length or another decay: two stages of equal `peak` and
    `warm` have equal rates, bit for bit, in as many steps as both have. None for a rate that falls all the time.
    `start_rate` as in `learning_rate_at`."""
    if settings.schedule not in ("constant", "wsd"):
        return None
    peak, warm_steps = (settings.peak, _warm_steps(settings, num_steps)) if start_rate is None else (start_rate, 0.0)
    if settings.schedule == "constant":
        return TrunkRate(peak, warm_steps, num_steps)
    start = max(warm_steps, (1.0 - settings.decay) * num_steps)
    return TrunkRate(peak, warm_steps, min(num_steps, math.floor(start) + 1))


def _warm_steps(settings: LearningRate, num_steps: int) -> float:
    return settings.warmup * num_steps if settings.warmup_steps is None else float(settings.warmup_steps)


def _decay_start(settings: LearningRate, num_steps: int) -> float:
    """The last step that has the peak, where the decay leaves one."""
    warm_steps = _warm_steps(settings, num_steps)
    return max(warm_steps, (1.0 - settings.decay) * num_steps) if settings.schedule == "wsd" else warm_steps
