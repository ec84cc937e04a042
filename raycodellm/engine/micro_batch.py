"""`micro_batch: auto`: the most sequences per forward pass that fit into memory.

On a GPU sizes are tried: doubling, then bisection, each a whole optimizer step of an engine that is thrown away. On a
CPU, where full memory kills the process, the size follows from the bytes that a forward pass keeps for the backward
pass.
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
from raycodellm.engine.errors import OutOfMemory
from raycodellm.engine.loss import TrainedModel
from raycodellm.engine.step import Engine
from raycodellm.engine.world import World, gather

_FILLED = 0.92
"""Share of a GPU's memory that a try may reserve; the rest holds fragments and the libraries' own memory."""
_CPU_SHARE = 0.6
"""Share of the free host memory that activations may take."""
_PEAK_PER_KEPT_BYTE = 1.5
"""Peak bytes in use per byte kept for the backward pass."""
_known_sizes: dict[str, int] = {}
"""The sizes that this process has found, by shape: a warm slot takes many jobs of one shape."""


def find_micro_batch(
    make_model: Callable[[], nn.Module], shape: str, stage: Stage, scaling: Scaling, world: World
) -> int:
    """Sequences per forward pass: the least that fits on any worker, at most a worker's share of a batch.

    Passes are made even: where 28 of 32 sequences fit, two passes of 16 cost as many launches as 28 and 4, and less
    memory. A collective. `make_model` gives a new model for each try, so that trying changes nothing of the training;
    models of one `shape` get one size. Raises OutOfMemory when not even one sequence fits.
    """
    rows_per_worker = -(-stage.batch_sequences // world.world_size)
    settings = [scaling.deepspeed.model_dump(), stage.numerics.model_dump()]
    key = json.dumps([shape, stage.sequence_length, rows_per_worker, settings, world.world_size, world.device])
    if key not in _known_sizes:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            if world.device_type == "cuda":
                with contextlib.closing(_Trials(make_model, stage, scaling, world)) as trials:
                    rows = largest_that_fits(trials.fits, rows_per_worker)
            else:
                rows = min(
                    rows_per_worker, _rows_for(free_for_activations(world), *bytes_kept(make_model(), stage, scaling))
                )
        if rows < 1:
            raise OutOfMemory(devices.out_of_memory_message(world, 1, "not even one sequence fits"))
        _known_sizes[key] = even_passes(min(gather(world, rows)), rows_per_worker)
    return _known_sizes[key]


def even_passes(rows: int, total_rows: int) -> int:
    """The fewest rows per pass that need no more passes over `total_rows` than `rows` do."""
    return -(-total_rows // -(-total_rows // rows))


def largest_that_fits(fits: Callable[[int], bool], largest: int) -> int:
    """The largest of 0..most that `fits`, where all smaller numbers fit too; `fits` is never asked about 0."""
    low, high = 0, 1
    while high <= largest and fits(high):
        low, high = high, high * 2
    high = min(high, largest + 1)  # does not fit, or is not allowed
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class _Trials:
    """Tries sizes with engines that train on made-up tokens; all workers try the same sizes and get one answer."""

    def __init__(self, make_model: Callable[[], nn.Module], stage: Stage, scaling: Scaling, world: World) -> None:
        deepspeed = scaling.deepspeed.model_copy(update={"micro_batch": 1})
        self.make_model, self.stage, self.world = make_model, stage, world
        self.scaling = scaling.model_copy(update={"deepspeed": deepspeed})
        self.engine: Engine | None = None
        self.peaks: dict[int, int] = {}
        self.total = 0.0
        if world.device_type == "cuda":
            total = torch.cuda.get_device_properties(world.device).total_memory
            self.total = total * devices.device_share(scaling.gpus_per_worker)

    def fits(self, rows: int) -> bool:
        # A worker that alone runs out of memory leaves the others waiting, so a size that cannot fit is not tried.
        does_fit = self._expected_peak(rows) <= _FILLED * self.total and self._try(rows)
        does_fit = min(gather(self.world, does_fit))
        if not does_fit:
            self.close()  # no worker can go on from half a backward pass
        return does_fit

    def _expected_peak(self, rows: int) -> float:
        """Peak bytes expected on any worker, by the line through the two largest sizes that were tried."""
        peak = 0.0
        if len(self.peaks) > 1:
            (fewer, low), (more, high) = sorted(self.peaks.items())[-2:]
            peak = high + (high - low) / (more - fewer) * (rows - more)
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
        except OutOfMemory:
            return False
        self.peaks[rows] = torch.cuda.max_memory_reserved(self.world.device)
        return self.peaks[rows] <= _FILLED * self.total

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None


def bytes_kept(model: nn.Module, stage: Stage, scaling: Scaling) -> tuple[float, float]:
    """Bytes that a forward pass keeps for the backward pass: per sequence, and for any number of sequences."""
    if scaling.deepspeed.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    trained = TrainedModel(model).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in trained.parameters()}

    def kept_bytes(rows: int) -> int:
        num_bytes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                num_bytes[storage.data_ptr()] = storage.nbytes()
            return tensor

        tokens = torch.zeros(rows, stage.sequence_length, dtype=torch.int64)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outcome = trained(tokens, tokens)
        del outcome
        return sum(num_bytes.values())

    of_one, of_two = kept_bytes(1), kept_bytes(2)
    per_row = max(1.0, float(of_two - of_one))
    # Gradients, Adam's two moments and DeepSpeed's own copy are allocated only when training begins.
    state = 16.0 * sum(parameter.numel() for parameter in trained.parameters())
    return per_row, of_one - per_row + state


def _rows_for(free_bytes: float, bytes_per_row: float, fixed_bytes: float) -> int:
    return int((free_bytes - fixed_bytes) / (_PEAK_PER_KEPT_BYTE * bytes_per_row))


def free_for_activations(world: World) -> float:
    """Bytes of host memory that this worker's activations may take, next to the other workers of its node."""
    workers_here = int(os.environ.get("LOCAL_WORLD_SIZE", world.world_size))
    return _CPU_SHARE * devices.free_bytes() / max(1, workers_here)
