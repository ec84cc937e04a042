"""`micro_batch: auto`: the most sequences per forward pass that fit into memory.

On a GPU by trying: doubling, then bisection, each try a whole optimizer step of an engine that is thrown away after it.
On a CPU, where full memory kills the process, from the bytes that a forward pass keeps for the way back.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable

import torch
from torch import nn

from raycodellm.config import Scaling, Stage
from raycodellm.engine import devices
from raycodellm.engine.core import gather
from raycodellm.engine.loss import TrainedModel
from raycodellm.engine.settings import World
from raycodellm.engine.training import Engine

_FILLED = 0.92
"""Share of a GPU's memory that a try may reserve: what is left holds fragments, and the libraries' own."""
_CPU_SHARE = 0.6
"""Share of the free host memory that activations may take."""
_ON_THE_WAY_BACK = 1.5
"""Bytes in use at most, per byte kept for the way back."""
_found: dict[str, int] = {}
"""Of this process: a warm slot takes many jobs of one shape."""


def find_micro_batch(
    make_model: Callable[[], nn.Module], shape: str, stage: Stage, scaling: Scaling, world: World
) -> int:
    """Sequences per forward pass: at most the worker's share of a batch, and for all workers the least that any found,
    made even: where 28 of 32 fit, two passes of 16 take as many launches as 28 and 4, and less memory.

    A collective. `make_model` gives a new model each time, so nothing of what is tried reaches the training; models
    of one `shape` take one size. Raises OutOfMemory when not even one sequence fits.
    """
    most = -(-stage.batch_sequences // world.world_size)
    settings = [scaling.deepspeed.model_dump(), stage.numerics.model_dump()]
    key = json.dumps([shape, stage.sequence_length, most, settings, world.world_size, world.device])
    if key not in _found:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            if world.device_type == "cuda":
                with contextlib.closing(_Trials(make_model, stage, scaling, world)) as trials:
                    found = largest_that_fits(trials.fits, most)
            else:
                found = min(most, _rows_for(free_for_activations(world), *bytes_kept(make_model(), stage, scaling)))
        if found < 1:
            raise devices.OutOfMemory(devices.out_of_memory_message(world, 1, "not even one sequence fits"))
        _found[key] = evened(min(gather(world, found)), most)
    return _found[key]


def evened(rows: int, most: int) -> int:
    """The fewest rows per pass that need no more passes over `most` rows than `rows` do."""
    return -(-most // -(-most // rows))


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest of 0..most for which `fits` holds, where it holds for all smaller ones too; 0 is never asked."""
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, high * 2
    high = min(high, most + 1)  # does not fit, or is not wanted
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class _Trials:
    """Engines that train one step on made-up tokens; every worker asks for the same sizes, and all or none fits."""

    def __init__(self, make_model: Callable[[], nn.Module], stage: Stage, scaling: Scaling, world: World) -> None:
        one = scaling.deepspeed.model_copy(update={"micro_batch": 1})
        self.make_model, self.stage, self.world = make_model, stage, world
        self.scaling = scaling.model_copy(update={"deepspeed": one})
        self.engine: Engine | None = None
        self.peaks: dict[int, int] = {}
        self.total = 0.0
        if world.device_type == "cuda":
            total = torch.cuda.get_device_properties(world.device).total_memory
            self.total = total * devices.device_share(scaling.gpus_per_worker)

    def fits(self, rows: int) -> bool:
        # Running out of memory on one worker alone would leave the others waiting for it, so it is foreseen if it can.
        fit = self._foreseen(rows) <= _FILLED * self.total and self._try(rows)
        fit = min(gather(self.world, fit))
        if not fit:
            self.close()  # half a backward pass is no state to go on from, on any worker
        return fit

    def _foreseen(self, rows: int) -> float:
        """Peak bytes on any worker, on the line through the two largest sizes that were tried."""
        peak = 0.0
        if len(self.peaks) > 1:
            (one, low), (two, high) = sorted(self.peaks.items())[-2:]
            peak = high + (high - low) / (two - one) * (rows - two)
        return max(gather(self.world, peak))

    def _try(self, rows: int) -> bool:
        if self.engine is None:
            self.engine = Engine.create(
                self.make_model(),
                self.stage,
                self.scaling,
                self.world,
                num_sources=1,
                num_micro_batches=1,
                seed=0,
            )
        torch.cuda.reset_peak_memory_stats(self.world.device)
        try:
            self.engine.try_rows(rows)
        except devices.OutOfMemory:
            return False
        self.peaks[rows] = torch.cuda.max_memory_reserved(self.world.device)
        return self.peaks[rows] <= _FILLED * self.total

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None


def bytes_kept(model: nn.Module, stage: Stage, scaling: Scaling) -> tuple[float, float]:
    """Bytes that a forward pass keeps for the way back: per sequence, and besides."""
    if scaling.deepspeed.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    trained = TrainedModel(model).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in trained.parameters()}

    def kept(rows: int) -> int:
        found: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        tokens = torch.zeros(rows, stage.sequence_length, dtype=torch.int64)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outcome = trained(tokens, tokens)
        del outcome
        return sum(found.values())

    one, two = kept(1), kept(2)
    per_row = max(1.0, float(two - one))
    # Gradients, Adam's two moments and DeepSpeed's own copy are made only when training begins.
    state = 16.0 * sum(parameter.numel() for parameter in trained.parameters())
    return per_row, one - per_row + state


def _rows_for(free: float, per_row: float, besides: float) -> int:
    return int((free - besides) / (_ON_THE_WAY_BACK * per_row))


def free_for_activations(world: World) -> float:
    """Bytes of host memory that one worker may fill, shared with the workers beside it."""
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", world.world_size))
    return _CPU_SHARE * devices.free_bytes() / max(1, beside)
