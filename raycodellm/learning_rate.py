"""The learning rate of every step, as arithmetic: who asks need not import torch, which takes seconds.

Every step trains. A warm-up's step has the rate that the warm-up has reached at its end, so the first step's is over 0;
a decay's step has the rate that the decay has come to at its beginning, so the last step's is over `final * peak`,
which is reached only when the stage has ended. The decays are those of transformers and torch, step by step; a warm-up
there begins with a step of rate 0.
"""

from __future__ import annotations

import math

from raycodellm.config import LearningRate


def learning_rate_at(settings: LearningRate, step: int, num_steps: int, start_rate: float | None = None) -> float:
    """Rate of optimizer step `step` (0 first); with `step` = `num_steps`, the rate that the stage ended with.

    It rises on a straight line to the peak, over the first `warmup` of the steps. wsd then holds the peak, and falls on
    a straight line over the last `decay` of the steps. With `start_rate`, the rate that the parent stage ended with,
    there is no warm-up: the schedule goes from there to `final * peak`, and never rises.
    """
    if start_rate is not None:
        last = min(1.0, settings.final * settings.peak / start_rate)
        settings = settings.model_copy(update={"peak": start_rate, "warmup": 0.0, "final": last})
    warm = settings.warmup * num_steps
    if step + 1 < warm and step < num_steps:
        return settings.peak * (step + 1) / warm
    start = max(warm, (1.0 - settings.decay) * num_steps) if settings.schedule == "wsd" else warm
    if settings.schedule == "constant" or step <= start or start >= num_steps:
        return settings.peak
    left = (num_steps - step) / (num_steps - start)
    if settings.schedule == "cosine":
        left = math.sin(math.pi / 2.0 * left) ** 2  # (1 + cos) / 2, which is 0 in floats when this is still 1e-17
    return settings.peak * (settings.final + (1.0 - settings.final) * left)


def start_rate(settings: LearningRate, parents_last: float | None) -> float | None:
    """Where a stage's rate begins: None for a warm-up of its own."""
    return parents_last if settings.boundary == "continue" else None
