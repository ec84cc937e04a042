"""The door to DeepSpeed: one training step, a checkpoint that any number of workers continues, and the exported model.

The code path is the same for CPU and GPU, ZeRO 0 to 3, fp32, bf16 and fp16. Three choices carry the rest:

* A step's gradient is that of the mean loss over all counted tokens of the whole batch. DeepSpeed averages over
  workers, so each micro batch's summed loss is scaled by workers / counted tokens of the step. The number of workers
  and micro batches therefore changes only rounding, with masked tokens too.
* Output layer and cross entropy are one operation that computes its gradient in the forward pass, a block of rows at a
  time: no matrix of tokens x vocabulary is ever kept. On one core this trains the tiny preset 1.6 times as fast.
* A checkpoint holds float32 weights and optimizer state by parameter name, not DeepSpeed's partitions: exact, and
  readable with another number of workers, another ZeRO stage, another precision.
"""

from raycodellm.engine.checkpoint_files import COMPLETE
from raycodellm.engine.deepspeed_settings import deepspeed_config
from raycodellm.engine.devices import limit_memory, memory_bytes, peak_flops
from raycodellm.engine.errors import DamagedCheckpoint, OutOfMemory, StorageError, TrainingError
from raycodellm.engine.micro_batch import find_micro_batch
from raycodellm.engine.step import Engine, PendingStep, StepResult
from raycodellm.engine.world import World, gather, init_process

__all__ = [
    "COMPLETE",
    "DamagedCheckpoint",
    "Engine",
    "OutOfMemory",
    "PendingStep",
    "StepResult",
    "StorageError",
    "TrainingError",
    "World",
    "deepspeed_config",
    "find_micro_batch",
    "gather",
    "init_process",
    "limit_memory",
    "memory_bytes",
    "peak_flops",
]
