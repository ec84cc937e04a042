"""The learning rate of every step, as arithmetic: who asks need not import torch, which takes seconds."""

from __future__ import annotations

import math

from raycodellm.config import LearningRate


def learning_rate_at(settings: LearningRate, step: int, num_steps: int, start_rate: float | None = None) -> float:
    """Rate of optimizer step `step` (0 first); exactly `final * peak` at the last one, except for `constant`.

    It rises on a straight line to the peak, over the first `warmup` of the steps. wsd then holds the peak, and falls on
    a straight line over the last `decay` of the steps. With `start_rate`, the rate that the parent stage ended with,
    there is no warm-up: the schedule goes from there to `final * peak`, and never rises.
    """
    if start_rate is not None:
        if start_rate == 0.0:
            return 0.0
        last = min(1.0, settings.final * settings.peak / start_rate)
        settings = settings.model_copy(update={"peak": start_rate, "warmup": 0.0, "final": last})
    done, warm = step + 1, settings.warmup * num_steps
    if done < warm:
        return settings.peak * done / warm
    start = max(warm, (1.0 - settings.decay) * num_steps) if settings.schedule == "wsd" else warm
    x = min(1.0, (done - start) / (num_steps - start)) if start < num_steps else 0.0
    if settings.schedule == "constant" or x <= 0.0:
        return settings.peak
    left = (1.0 + math.cos(math.pi * x)) / 2.0 if settings.schedule == "cosine" else 1.0 - x
    return settings.peak * (settings.final + (1.0 - settings.final) * left)


def start_rate(settings: LearningRate, parents_last: float | None) -> float | None:
    """Where a stage's rate begins: None for a warm-up of its own."""
    return parents_last if settings.boundary == "continue" else None
