"""Where a model is held while it is evaluated: on each worker's device, or over all GPUs of a node."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raycodellm.config import UserError
from raycodellm.identity import hub_commits
from raycodellm.identity.load_errors import load_errors
from raycodellm.memory_needs import GIB, machine_bytes

_SHARE = 0.9
"""Share of a GPU's free memory that weights may take where the model is sharded; the rest is for activations."""


@dataclass(frozen=True)
class Memory:
    """The memory that a worker finds, in bytes."""

    node: str
    own: float
    """Free memory of the worker's device; all of the machine's where that is the CPU."""
    gpus: tuple[float, ...] = ()
    """Free memory of each GPU that the worker sees; empty on a CPU."""


def memory_of(device: str) -> Memory:
    """The memory of a worker on `device`, such as `cpu` or `cuda:0`."""
    import torch

    if not device.startswith("cuda"):
        return Memory(platform.node(), machine_bytes())
    gpus = tuple(float(torch.cuda.mem_get_info(number)[0]) for number in range(torch.cuda.device_count()))
    return Memory(platform.node(), gpus[torch.device(device).index or 0], gpus)


def sharded_over(weights: float, workers: Sequence[Memory]) -> dict[int, float] | None:
    """Bytes of each GPU over which the first worker shards the model, for all workers; None where every worker's own
    device holds the model. `weights`: bytes of the weights, which are less than the model needs, so that a model that
    is refused cannot fit.

    Raises UserError, with the memory and what would work, where neither is possible.
    """
    if all(weights <= worker.own for worker in workers):
        return None
    least_bytes = min(worker.own for worker in workers)
    needs = f"the model's weights take {weights / GIB:.3g} GiB"
    least_memory = f"{least_bytes / GIB:.3g} GiB"
    first_worker = workers[0]
    if not first_worker.gpus:
        raise UserError(
            f"{needs}, and the machine has {least_memory} of memory; evaluate the model on a machine with more "
            "memory, or on one whose GPUs hold the model together"
        )
    usable = {number: _SHARE * free for number, free in enumerate(first_worker.gpus)}
    usable_bytes = sum(usable.values())
    num_nodes = len({worker.node for worker in workers})
    if num_nodes > 1:
        raise UserError(
            f"{needs}, and a worker's GPU has {least_memory} free; a model is sharded over GPUs of one node, "
            f"but the workers are on {num_nodes} nodes: evaluate the model with `raycodellm eval` on a node whose GPUs "
            "hold it, or use no more scaling.workers than a node has GPUs"
        )
    if weights > usable_bytes:
        raise UserError(
            f"{needs}, and the node's {len(usable)} visible GPUs have {usable_bytes / GIB:.3g} GiB for weights; "
            "evaluate the model on a node with more or larger GPUs"
        )
    return usable


def model_errors(files: str) -> contextlib.AbstractContextManager[None]:
    """Turns an error about the files of a model that is loaded inside the `with` into a UserError."""
    remedy = "give a folder with config.json, weights and tokenizer that transformers loads, or a hub id"
    return load_errors(repr(files), "could not be loaded as a Hugging Face language model", remedy)


def weight_bytes(files: str) -> float:
    """Bytes of the weights of a model folder or of a name on the hub, in the precision that they are kept in. Raises as
    `load_model` does."""
    for kind in ("model*.safetensors", "pytorch_model*.bin"):
        if num_bytes := sum(path.stat().st_size for path in Path(files).glob(kind)):
            return float(num_bytes)
    import torch
    import transformers

    name, pin = hub_commits.loadable(files)
    with model_errors(files):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **pin)
        with torch.device("meta"):
            dtype = config.dtype or torch.float32
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    return float(sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()))


def device_or_default(device: str | None) -> str:
    """`device`, or a GPU if the machine has one."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def whole_bytes(limits: Mapping[int, float]) -> dict[int | str, int]:
    """The limits as transformers takes them, for GPUs alone."""
    return {number: int(size) for number, size in limits.items()}
