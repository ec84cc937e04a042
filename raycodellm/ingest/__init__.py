"""From the plan to batches: each worker reads its own rows of the plan, ahead of the training that takes them.

Step k of B sequences trains the positions [k B, (k+1) B); position p belongs to worker p mod the number of workers. So
the order of a stage's data is the plan's for any number of workers, and a stage continues by starting at a later
position. `blocks.read_rows`, a pure function, reads the rows; `readers` calls it in this process or in Ray Data tasks.
Imports here stay light: every process that runs a read task pays for them.
"""

from raycodellm.ingest.blocks import Block, Store, read_rows
from raycodellm.ingest.cache import cached, filling
from raycodellm.ingest.readers import preload
from raycodellm.ingest.step_batches import IGNORED, StepBatch, micro_batches_per_step, steps

__all__ = [
    "IGNORED",
    "Block",
    "StepBatch",
    "Store",
    "cached",
    "filling",
    "micro_batches_per_step",
    "preload",
    "read_rows",
    "steps",
]
