"""The optimizer: which weights decay, and the learning rate of each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from raycodellm.config import Stage
from raycodellm.model import layer_of

_FACTOR = "rate_factor"
"""Key of a parameter group: its learning rate divided by the stage's."""


def make_optimizer(model: nn.Module, stage: Stage, rate_factors: Mapping[str, float]) -> torch.optim.AdamW:
    """torch's own fused AdamW: nothing to compile on a CPU or GPU. Weights decay; norms and biases do not.

    `rate_factors`: factor of the learning rate by the name of a weight's layer; 1 for the others. Each step takes the
    share rate x decay of the stage's settings off every weight, whatever its factor: the width of a model changes how
    far a gradient moves a weight, not how long a weight is remembered (the `mup` package of Yang et al. does the same).
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = (parameter.ndim < 2, rate_factors.get(layer_of(name), 1.0))
            groups.setdefault(kind, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": 0.0 if is_vector else stage.optimizer.weight_decay / factor,
                _FACTOR: factor,
            }
            for (is_vector, factor), parameters in sorted(groups.items(), key=lambda group: group[0])
        ],
        lr=0.0,  # set at each step
        betas=stage.optimizer.betas,
        eps=stage.optimizer.epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets each group's rate: the stage's `learning_rate` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group[_FACTOR]
