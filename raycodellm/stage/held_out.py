"""Measures, while a stage trains, the bits per byte of text that no stage of the trial trains on, per source.

The measured sequences come from whole documents that the stages' view of each token store leaves out
(`tokens.documents`). If these documents hold more sequences than are measured, the measured ones are evenly spread over
them. Bits per byte compare models with different tokenizers. The bytes are those of the tokens that count in the loss:
exact for byte-level tokenizers, the store's mean for others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from raycodellm import ingest
from raycodellm.config import Stage
from raycodellm.engine import Engine, World
from raycodellm.files import Folder
from raycodellm.records import StageJob

if TYPE_CHECKING:
    import torch

    from raycodellm.tokens import Manifest


class StageTokenStore(ingest.Store, Protocol):
    """A token store as a stage uses it: `tokens.PackedStore` and its cached form."""

    @property
    def manifest(self) -> Manifest: ...

    def num_sequences(self, sequence_length: int) -> int: ...

    def measured(self) -> StageTokenStore:
        """The documents that are held out of this store."""


@dataclass(frozen=True)
class _Batch:
    """Rows of one forward pass, as `Engine.evaluate` takes them."""

    micro_batches: list[dict[str, torch.Tensor]]
    source: np.ndarray


def is_due(stage: Stage, step: int) -> bool:
    """True if a measurement follows the first `step` steps.

    Depends on the step alone, so that a continued stage measures where an uninterrupted one does.
    """
    if stage.held_out is None or step == 0:
        return False
    interval_tokens = stage.held_out.every_tokens
    return (
        step == stage.num_steps
        or (step - 1) * stage.batch_tokens // interval_tokens < step * stage.batch_tokens // interval_tokens
    )


class HeldOut:
    """This worker's share of the measured sequences: number i belongs to worker i mod the number of workers."""

    def __init__(self, job: StageJob, stores: Sequence[StageTokenStore], world: World, rows_per_pass: int) -> None:
        self.job, self.stores, self.world, self.rows_per_pass = job, stores, world, rows_per_pass
        self._batches_and_bytes: tuple[list[_Batch], np.ndarray] | None = None

    def measure(self, engine: Engine) -> dict[str, float]:
        """Bits per byte of each source; not a number for a source without held-out sequences. A collective."""
        if self._batches_and_bytes is None:
            self._batches_and_bytes = self._read_batches(engine)
        batches, num_bytes = self._batches_and_bytes
        nats = np.zeros(len(self.job.sources))
        for batch in batches:
            nats += engine.evaluate(batch)[0]
        with np.errstate(invalid="ignore", divide="ignore"):
            bits = nats / math.log(2.0) / num_bytes
        return {source.name: float(value) for source, value in zip(self.job.sources, bits, strict=True)}

    def _read_batches(self, engine: Engine) -> tuple[list[_Batch], np.ndarray]:
        """(this worker's batches, float64[sources] bytes of all workers' counted tokens)"""
        length = self.job.stage.sequence_length
        stores = [store.measured() for store in self.stores]
        source, sequence = self._own_sequences(stores, length)
        position = np.arange(len(source))
        block = ingest.read_rows(stores, (position, source, sequence), length)
        tokens = np.asarray(block.tokens, dtype=np.int64)
        mask = np.ones(tokens.shape, dtype=bool) if block.loss_mask is None else np.array(block.loss_mask)
        num_bytes = engine.sum_over_workers(self._bytes_of(tokens, mask, source).tolist())
        return list(self._batches(tokens, mask, source)), np.array(num_bytes)

    def _own_sequences(self, stores: Sequence[StageTokenStore], length: int) -> tuple[np.ndarray, np.ndarray]:
        """int64[rows] each: source's index and sequence of this worker's measured sequences."""
        numbers: list[tuple[int, int]] = []
        for index, (source_slice, store) in enumerate(zip(self.job.sources, stores, strict=True)):
            if count := source_slice.held_out_sequences:
                available = store.num_sequences(length)
                numbers += [(index, place * available // count) for place in range(count)]
        own_numbers = np.array(numbers, dtype=np.int64).reshape(-1, 2)[self.world.rank :: self.world.world_size]
        return own_numbers[:, 0], own_numbers[:, 1]

    def _bytes_of(self, tokens: np.ndarray, mask: np.ndarray, source: np.ndarray) -> np.ndarray:
        """float64[sources]: bytes of the counted tokens; a sequence's first token is not predicted, so never counts."""
        table = token_bytes(Folder(self.job.tokenizer))
        num_bytes = np.zeros(len(self.job.sources))
        for index, store in enumerate(self.stores):
            rows = source == index
            counted_ids = tokens[rows][:, 1:][mask[rows][:, 1:]]
            if table is not None:
                num_bytes[index] = table[counted_ids].sum()
            elif len(counted_ids):
                num_bytes[index] = len(counted_ids) * store.manifest.num_bytes / store.manifest.num_tokens
        return num_bytes

    def _batches(self, tokens: np.ndarray, mask: np.ndarray, source: np.ndarray) -> Iterator[_Batch]:
        """Batches, equally many on every worker so that their exchanges pair up; the last may have no rows."""
        import torch

        total = sum(part.held_out_sequences for part in self.job.sources)
        passes = math.ceil(math.ceil(total / self.world.world_size) / self.rows_per_pass)
        labels = np.where(mask, tokens, ingest.IGNORED)
        for number in range(passes):
            part = slice(number * self.rows_per_pass, (number + 1) * self.rows_per_pass)
            tensors = {"tokens": torch.from_numpy(tokens[part]), "labels": torch.from_numpy(labels[part])}
            yield _Batch([tensors], source[part])


def token_bytes(tokenizer: Folder) -> np.ndarray | None:
    """int64[ids]: UTF-8 bytes of each token, 0 for special tokens; None when the tokenizer is not byte-level.

    A byte-level tokenizer writes each byte as one character, so a token's characters are its bytes.
    """
    from tokenizers import decoders

    from raycodellm.tokens.tokenizer import open_tokenizer

    opened = open_tokenizer(tokenizer)
    if not isinstance(opened.decoder, decoders.ByteLevel):
        return None
    entries = opened.get_vocab(with_added_tokens=True)
    table = np.zeros(max(entries.values()) + 1, dtype=np.int64)
    special = opened.get_added_tokens_decoder()
    for text, number in entries.items():
        if number not in special:
            table[number] = len(text)
        elif not special[number].special:
            table[number] = len(text.encode())
    return table
