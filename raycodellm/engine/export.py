"""The finished model as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from raycodellm import model as models
from raycodellm.engine.adapter import DeepSpeedAdapter
from raycodellm.engine.average import WeightAverage, on_host
from raycodellm.engine.checkpoint_files import as_os_error
from raycodellm.engine.world import World
from raycodellm.files import Folder


def whole_weights(adapter: DeepSpeedAdapter, average: WeightAverage, world: World) -> dict[str, torch.Tensor]:
    """On rank 0, the weights to export, float32 in host memory; empty on other ranks. A collective.

    They are the optimizer's weights, also when the model is trained in 16 bits, so that the next stage starts from
    exactly what this one reached. Where weights were averaged, they are the mean.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in adapter.parameters():
        value = None if average.count else adapter.get_whole(parameter)
        if world.rank == 0:  # which alone holds the mean
            weights[name] = on_host(average.weights[name] if value is None else value)
    return weights


def export_model(model: Any, directory: Path, weights: dict[str, torch.Tensor], tokenizer: Folder | None) -> None:
    """Writes a Hugging Face model folder: the weights, the configuration and the tokenizer's files; on rank 0 alone.

    Raises OSError when a file cannot be written.
    """
    for name, buffer in model.state_dict().items():
        if name not in weights and not isinstance(_attribute(model, name), nn.Parameter):
            weights = {**weights, name: buffer.detach().cpu()}
    models.quiet_transformers()
    with as_os_error(directory):
        model.save_pretrained(directory, state_dict=weights)
    for path in directory.glob("*.safetensors"):
        path.chmod(0o644)
    model.config.dtype = "float32"  # transformers has written the dtype that was trained in
    model.config.save_pretrained(directory)
    if tokenizer is not None:
        tokenizer.download(directory)


def _attribute(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module
