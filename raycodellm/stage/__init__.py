"""Trains one stage in one worker group, from where it stopped to its end, with or without Ray.

A stage's folder holds `stage.json` (settings first, the record at the end), `checkpoint/step-000123/` while it trains
(the two newest), then `model/`, `ledger.parquet`, `metrics.parquet` and, last, `DONE`. A finished stage needs no
checkpoint, so `checkpoint/` is removed. All numbers of the record are counted from the batches that were trained on.
The counts travel in the checkpoint: a stage continued any number of times counts each sequence once.
"""

from raycodellm.engine import TrainingError, World
from raycodellm.stage.loop import train_stage
from raycodellm.stage.metrics import order_checksum
from raycodellm.stage.setup import open_stores
from raycodellm.stage.texts import trained_texts

__all__ = ["TrainingError", "World", "open_stores", "order_checksum", "train_stage", "trained_texts"]
