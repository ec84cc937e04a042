"""What the engine leaves and takes up again: checkpoints, the optimizer for a next stage, the exported model."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raycodellm import model as models
from raycodellm.config import Scaling, Stage
from raycodellm.engine import checkpoints
from raycodellm.engine.checkpoints import COMPLETE, STATE, DamagedCheckpoint
from raycodellm.engine.core import MOMENTS, Core, StorageError, TrainingError
from raycodellm.engine.settings import World
from raycodellm.files import Folder

_LOSS_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
_WORTH_A_THREAD = 64 * 10**6
"""Bytes per worker from which writing beside the training saves more than the thread costs."""


class _Write:
    """One worker's files of a checkpoint, written by `run`, here or in a thread of its own."""

    def __init__(
        self, folder: Folder, world: World, state: Mapping[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        self.folder, self.world, self.state, self.tensors = folder, world, state, tensors
        self.written: dict[str, list[int]] = {}
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self.run, name="raycodellm-checkpoint", daemon=True)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def run(self) -> None:
        try:
            name = f"shard-{self.world.rank:05d}-of-{self.world.world_size:05d}.safetensors"
            if self.world.rank == 0:
                self.folder.write_json(STATE, self.state)
                self.written[STATE] = checkpoints.size_and_checksum([self.folder.read_bytes(STATE)])
            self.written[name] = checkpoints.write_tensors(self.folder, name, self.tensors)
        except Exception as error:  # travels to the training thread, which raises it on all workers alike
            self.error = error
        finally:
            self.tensors = {}

    def problem(self) -> str | None:
        if self.error is None:
            return None
        if isinstance(self.error, OSError):
            return checkpoints.explain_write(self.folder, self.error)
        return f"the checkpoint {self.folder} could not be written: {type(self.error).__name__}: {self.error}"


class Saving(Core):
    """The part of the engine that knows files."""

    def __init__(self, model: nn.Module, stage: Stage, scaling: Scaling, world: World, num_micro_batches: int) -> None:
        super().__init__(model, stage, scaling, world, num_micro_batches)
        self._write: _Write | None = None
        self._average: dict[str, torch.Tensor] = {}
        """On rank 0, in host memory: running mean of the float32 weights."""
        self._averaged = 0

    # ---- checkpoints

    def save(self, folder: Folder, client_state: Mapping[str, Any], in_background: bool | None = False) -> None:
        """Writes a checkpoint into `folder`; it is complete, or it has no COMPLETE marker and `restore` refuses it.

        Each worker writes its share of the parameters. In the background the weights and moments are copied now and
        written by a thread while training goes on; `finish_save` completes it. None decides by size. Raises
        TrainingError on all workers when one could not write; what was written before stays usable.
        """
        self.finish_save()
        tensors = self._shard(("weight", *MOMENTS))
        if self._world.rank == 0:
            tensors |= {f"average/{name}": value.clone() for name, value in self._average.items()}
        self._begin_write(folder, tensors, client_state)
        if in_background is None:
            in_background = max(self.gather(self._write.num_bytes)) > _WORTH_A_THREAD
        if in_background:
            self._write.thread.start()
        else:
            self._write.run()
            self.finish_save()

    def _begin_write(self, folder: Folder, tensors: dict[str, torch.Tensor], client_state: Mapping[str, Any]) -> None:
        if self._world.rank == 0:
            folder.delete(COMPLETE)  # of a damaged checkpoint at the same step
        state = {"engine": self._small_state(), "client": dict(client_state)}
        self._write = _Write(folder, self._world, state, tensors)

    @property
    def save_ended(self) -> bool:
        """Whether this worker has a checkpoint in the background that its thread is through with."""
        return self._write is not None and not self._write.thread.is_alive()

    def finish_save(self) -> Folder | None:
        """Waits for the checkpoint in the background, if there is one, and marks it complete; its folder.

        Raises TrainingError on all workers when one of them could not write its part.
        """
        write, self._write = self._write, None
        if write is None:
            return None
        if write.thread.ident is not None:
            write.thread.join()
        told = self.gather((write.written, write.problem()))
        failed = [message for _, message in told if message is not None]
        if failed:
            raise StorageError(failed[0]) from write.error
        problem: str | None = None
        cause: OSError | None = None
        if self._world.rank == 0:
            files = {name: value for files, _ in told for name, value in files.items()}
            try:
                write.folder.write_json(COMPLETE, {"files": files})
            except OSError as error:
                problem, cause = checkpoints.explain_write(write.folder, error), error
        problem = self.gather(problem)[0]
        if problem is not None:
            raise StorageError(problem) from cause
        return write.folder

    def _small_state(self) -> dict[str, Any]:
        steps = [int(state["step"]) for state in self._adam.state.values() if "step" in state]
        holder = self._loss_scale_holder()
        scale = {name: float(getattr(holder, name)) for name in _LOSS_SCALE if hasattr(holder, name)}
        return {"optimizer_steps": max(steps, default=0), "loss_scale": scale, "averaged": self._averaged}

    def _shard(self, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Weights and moments of the parameters that this worker writes, copied to host memory."""
        self._find_moments()
        mine: dict[str, torch.Tensor] = {}
        for number, (name, parameter) in enumerate(self._parameters()):
            for kind in kinds:
                value = self._full(parameter, None if kind == "weight" else kind)
                if number % self._world.world_size == self._world.rank:
                    mine[f"{kind}/{name}"] = _on_host(value)
        return mine

    def restore(self, folder: Folder) -> dict[str, Any]:
        """Continues from a checkpoint, whatever number of workers wrote it; returns its client state.

        Raises DamagedCheckpoint on all workers alike, before anything is changed.
        """
        saved = self._take(folder, ("weight", *MOMENTS))
        for name, value in saved["engine"]["loss_scale"].items():
            holder = self._loss_scale_holder()
            setattr(holder, name, type(getattr(holder, name))(value))
        return saved["client"]

    def _take(self, folder: Folder, kinds: tuple[str, ...]) -> dict[str, Any]:
        problem = checkpoints.damage(folder) if self._world.rank == 0 else None
        problem = self.gather(problem)[0]
        if problem is not None:
            raise DamagedCheckpoint(f"checkpoint {folder}: {problem}")
        saved = folder.read_json(STATE)
        with checkpoints.opened_tensors(folder) as tensors:
            self._check_names(tensors, kinds, folder)
            self._find_moments()
            for name, parameter in self._parameters():
                for kind in kinds:
                    value = tensors[f"{kind}/{name}"].get_tensor(f"{kind}/{name}")
                    self._set_full(parameter, value, None if kind == "weight" else kind)
            if "weight" in kinds:
                self._averaged = saved["engine"].get("averaged", 0)
                averages = [key for key in tensors if key.startswith("average/") and self._world.rank == 0]
                self._average = {key.removeprefix("average/"): tensors[key].get_tensor(key) for key in averages}
        for state in self._adam.state.values():
            state["step"].fill_(saved["engine"]["optimizer_steps"])
        return saved

    def _check_names(self, tensors: Mapping[str, Any], kinds: tuple[str, ...], folder: Folder) -> None:
        missing = [name for name, _ in self._parameters() if f"{kinds[0]}/{name}" not in tensors]
        if missing:
            raise TrainingError(f"checkpoint {folder} is of another model: it has no parameter {missing[0]!r}")

    # ---- the optimizer's state, for the next stage

    def save_optimizer(self, folder: Folder) -> None:
        """Writes Adam's moments and step count, complete or without a marker. Raises TrainingError on all workers."""
        self.finish_save()
        self._begin_write(folder, self._shard(MOMENTS), {})
        self._write.run()
        self.finish_save()

    def load_optimizer(self, folder: Folder) -> None:
        """Starts from what `save_optimizer` of another stage wrote. Raises DamagedCheckpoint on all workers alike."""
        self._take(folder, MOMENTS)

    # ---- the mean of some weights

    @torch.no_grad()
    def add_to_average(self) -> None:
        """Takes the present weights into the mean that `export` writes in their place."""
        self._averaged += 1
        for name, parameter in self._parameters():
            value = self._full(parameter)
            if self._world.rank == 0:
                if name not in self._average:
                    self._average[name] = _on_host(value)
                else:
                    self._average[name].lerp_(value.detach().to("cpu", torch.float32), 1.0 / self._averaged)

    # ---- the finished model

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """On rank 0 what `export` writes, float32 in host memory; a collective, before anything that rank 0 alone does.

        The weights are the optimizer's, also when trained in 16 bits: the next stage starts from exactly what this
        one reached; or their mean, where `add_to_average` has been called.
        """
        weights: dict[str, torch.Tensor] = {}
        for name, parameter in self._parameters():
            value = self._average.get(name) if self._averaged else self._full(parameter)
            if self._world.rank == 0:  # which holds the mean
                weights[name] = _on_host(value)
        return weights

    def export(self, directory: Path, weights: dict[str, torch.Tensor], tokenizer: Folder | None = None) -> None:
        """Writes a Hugging Face model folder: the weights, configuration, the tokenizer's files; on rank 0 alone.

        Raises OSError when they cannot be written.
        """
        for name, buffer in self._hf.state_dict().items():
            if name not in weights and not isinstance(_attribute(self._hf, name), nn.Parameter):
                weights = {**weights, name: buffer.detach().cpu()}
        models.quiet_transformers()
        with checkpoints.as_os_error(directory):
            self._hf.save_pretrained(directory, state_dict=weights)
        for path in directory.glob("*.safetensors"):
            path.chmod(0o644)
        self._hf.config.dtype = "float32"  # transformers has written the dtype that was trained in
        self._hf.config.save_pretrained(directory)
        if tokenizer is not None:
            tokenizer.download(directory)

    def _drop_write(self) -> None:
        """Lets a thread that still writes come to its end, without the other workers."""
        if self._write is not None and self._write.thread.ident is not None:
            self._write.thread.join()
        self._write = None


def _on_host(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to("cpu", torch.float32, copy=True).contiguous()


def _attribute(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module
