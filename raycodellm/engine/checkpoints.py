"""Checkpoints of an engine: written here or in a thread beside the training, and restored by any number of workers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch

from raycodellm.engine import checkpoint_files
from raycodellm.engine.adapter import MOMENTS, WEIGHT, DeepSpeedAdapter
from raycodellm.engine.average import WeightAverage, on_host
from raycodellm.engine.checkpoint_files import COMPLETE, STATE
from raycodellm.engine.errors import DamagedCheckpoint, StorageError, TrainingError
from raycodellm.engine.world import World, gather
from raycodellm.files import Folder

_BACKGROUND_BYTES = 64 * 10**6
"""Bytes per worker from which writing beside the training saves more than the thread costs."""
_AVERAGE = "average/"


class _ShardWrite:
    """The writing of one worker's files of a checkpoint: `run` writes them, here or in `thread`."""

    def __init__(
        self, folder: Folder, world: World, state: Mapping[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        self.folder, self.world, self.state, self.tensors = folder, world, state, tensors
        self.written: dict[str, list[int]] = {}
        """[bytes, checksum] of each written file, by name."""
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
                self.written[STATE] = checkpoint_files.size_and_checksum([self.folder.read_bytes(STATE)])
            self.written[name] = checkpoint_files.write_tensors(self.folder, name, self.tensors)
        except Exception as error:  # travels to the training thread, which raises it on all workers alike
            self.error = error
        finally:
            self.tensors = {}

    def wait(self) -> None:
        """Waits for the thread, where one was started."""
        if self.thread.ident is not None:
            self.thread.join()

    def problem(self) -> str | None:
        """Why the files could not be written; None when all are written."""
        if self.error is None:
            return None
        if isinstance(self.error, OSError):
            return checkpoint_files.explain_write(self.folder, self.error)
        return f"the checkpoint {self.folder} could not be written: {type(self.error).__name__}: {self.error}"


class CheckpointWriter:
    """Saves and restores an engine's weights, moments, counters and mean weights. Every method is a collective."""

    def __init__(self, adapter: DeepSpeedAdapter, average: WeightAverage, world: World) -> None:
        self._adapter, self._average, self._world = adapter, average, world
        self._write: _ShardWrite | None = None
        """The checkpoint that is being written."""

    def save(self, folder: Folder, client_state: Mapping[str, Any], in_background: bool | None = False) -> None:
        """Writes a checkpoint into `folder`; without its COMPLETE marker `restore` refuses the folder.

        Each worker writes its share of the parameters. In the background, weights and moments are copied now and
        written by a thread while training goes on; `finish` completes the checkpoint. `in_background` None decides by
        size. `client_state` is plain data that `restore` returns. Raises TrainingError on all workers when one could
        not write; older checkpoints stay usable.
        """
        self.finish()
        tensors = self._own_tensors((WEIGHT, *MOMENTS))
        if self._world.rank == 0:
            tensors |= {f"{_AVERAGE}{name}": value.clone() for name, value in self._average.weights.items()}
        write = self._begin_write(folder, tensors, client_state)
        if in_background is None:
            in_background = max(gather(self._world, write.num_bytes)) > _BACKGROUND_BYTES
        if in_background:
            write.thread.start()
        else:
            write.run()
            self.finish()

    def save_optimizer(self, folder: Folder) -> None:
        """Writes Adam's moments and step count for the next stage. Raises TrainingError on all workers."""
        self.finish()
        self._begin_write(folder, self._own_tensors(MOMENTS), {}).run()
        self.finish()

    @property
    def is_written(self) -> bool:
        """True if this worker's thread has ended its part of the checkpoint in the background; not a collective."""
        return self._write is not None and not self._write.thread.is_alive()

    def finish(self) -> Folder | None:
        """Waits for the checkpoint in the background and marks it complete; returns its folder, None without one.

        Raises TrainingError on all workers when one of them could not write its part.
        """
        write, self._write = self._write, None
        if write is None:
            return None
        write.wait()
        parts = gather(self._world, (write.written, write.problem()))
        problems = [problem for _, problem in parts if problem is not None]
        if problems:
            raise StorageError(problems[0]) from write.error
        problem: str | None = None
        cause: OSError | None = None
        if self._world.rank == 0:
            files = {name: value for shard_files, _ in parts for name, value in shard_files.items()}
            try:
                write.folder.write_json(COMPLETE, {"files": files})
            except OSError as error:
                problem, cause = checkpoint_files.explain_write(write.folder, error), error
        problem = gather(self._world, problem)[0]
        if problem is not None:
            raise StorageError(problem) from cause
        return write.folder

    def abandon(self) -> None:
        """Lets a thread that still writes end, without marking the checkpoint; not a collective."""
        if self._write is not None:
            self._write.wait()
        self._write = None

    def _begin_write(
        self, folder: Folder, tensors: dict[str, torch.Tensor], client_state: Mapping[str, Any]
    ) -> _ShardWrite:
        if self._world.rank == 0:
            folder.delete(COMPLETE)  # the marker of a damaged checkpoint of the same step
        counters = {**self._adapter.counters(), "averaged": self._average.count}
        state = {"engine": counters, "client": dict(client_state)}
        self._write = _ShardWrite(folder, self._world, state, tensors)
        return self._write

    def _own_tensors(self, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Weights and moments of the parameters that this worker writes, copied to host memory."""
        self._adapter.prepare_moments()
        shard: dict[str, torch.Tensor] = {}
        for number, (name, parameter) in enumerate(self._adapter.parameters()):
            for kind in kinds:
                value = self._adapter.get_whole(parameter, kind)
                if number % self._world.world_size == self._world.rank:
                    shard[f"{kind}/{name}"] = on_host(value)
        return shard

    def restore(self, folder: Folder) -> dict[str, Any]:
        """Continues from a checkpoint, whatever number of workers wrote it; returns its client state.

        Raises DamagedCheckpoint on all workers alike, before anything is changed.
        """
        saved = self._load(folder, (WEIGHT, *MOMENTS))
        self._adapter.set_loss_scale(saved["engine"]["loss_scale"])
        return saved["client"]

    def load_optimizer(self, folder: Folder) -> None:
        """Takes the state that `save_optimizer` of another stage wrote. Raises DamagedCheckpoint on all workers."""
        self._load(folder, MOMENTS)

    def _load(self, folder: Folder, kinds: tuple[str, ...]) -> dict[str, Any]:
        damage = checkpoint_files.find_damage(folder) if self._world.rank == 0 else None
        damage = gather(self._world, damage)[0]
        if damage is not None:
            raise DamagedCheckpoint(f"checkpoint {folder}: {damage}")
        saved = folder.read_json(STATE)
        with checkpoint_files.open_tensors(folder) as files:
            self._require_same_model(files, kinds[0], folder)
            self._adapter.prepare_moments()
            for name, parameter in self._adapter.parameters():
                for kind in kinds:
                    value = files[f"{kind}/{name}"].get_tensor(f"{kind}/{name}")
                    self._adapter.set_whole(parameter, value, kind)
            if WEIGHT in kinds:
                keys = [key for key in files if key.startswith(_AVERAGE) and self._world.rank == 0]
                averages = {key.removeprefix(_AVERAGE): files[key].get_tensor(key) for key in keys}
                self._average.restore(saved["engine"].get("averaged", 0), averages)
        self._adapter.set_optimizer_steps(saved["engine"]["optimizer_steps"])
        return saved

    def _require_same_model(self, files: Mapping[str, Any], kind: str, folder: Folder) -> None:
        missing_names = [name for name, _ in self._adapter.parameters() if f"{kind}/{name}" not in files]
        if missing_names:
            raise TrainingError(f"checkpoint {folder} is of another model: it has no parameter {missing_names[0]!r}")
