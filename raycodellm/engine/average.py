"""The running mean of the weights of some steps, which the exported model then has."""

from __future__ import annotations

import torch

from raycodellm.engine.adapter import DeepSpeedAdapter
from raycodellm.engine.world import World


class WeightAverage:
    """The mean of the float32 weights that were added so far."""

    def __init__(self, adapter: DeepSpeedAdapter, world: World) -> None:
        self._adapter, self._world = adapter, world
        self.count = 0
        """Times that the weights were added."""
        self.weights: dict[str, torch.Tensor] = {}
        """On rank 0, in host memory: the mean of each parameter, by name."""

    @torch.no_grad()
    def add(self) -> None:
        """Takes the present weights into the mean. A collective."""
        self.count += 1
        for name, parameter in self._adapter.parameters():
            value = self._adapter.get_whole(parameter)
            if self._world.rank == 0:
                if name not in self.weights:
                    self.weights[name] = on_host(value)
                else:
                    self.weights[name].lerp_(value.detach().to("cpu", torch.float32), 1.0 / self.count)

    def restore(self, count: int, weights: dict[str, torch.Tensor]) -> None:
        """Goes on from a mean of `count` additions; `weights` is empty on all ranks but 0."""
        self.count, self.weights = count, weights


def on_host(value: torch.Tensor) -> torch.Tensor:
    """A float32 copy in host memory."""
    return value.detach().to("cpu", torch.float32, copy=True).contiguous()
