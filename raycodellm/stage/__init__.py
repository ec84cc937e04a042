"""One stage in one worker group, from wherever it stopped to its end. Runs with and without Ray.

What a stage leaves in its folder: `stage.json` (settings first, the record at the end), `checkpoint/step-000123/` while
it trains (the two newest), then `model/`, `ledger.parquet`, `metrics.parquet` and, last, `DONE`. A finished stage needs
no checkpoint, so `checkpoint/` is removed. Everything that the record says is counted from the batches that were
trained on; it travels in the checkpoint, so that a stage continued any number of times counts each sequence once.
"""

from raycodellm.engine import TrainingError, World
from raycodellm.stage.metrics import order_checksum
from raycodellm.stage.training import open_stores, train_stage

__all__ = ["TrainingError", "World", "open_stores", "order_checksum", "train_stage"]
