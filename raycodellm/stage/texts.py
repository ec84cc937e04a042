"""The texts that a finished stage was trained on, as its model saw them: sequence by sequence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from raycodellm import mixture
from raycodellm.files import Folder
from raycodellm.records import StageJob
from raycodellm.stage.setup import StageTokenStore, open_stores

_BLOCK_TOKENS = 1 << 20
"""Tokens that are read and decoded together."""


def trained_texts(job: StageJob, rank: int = 0, world_size: int = 1, skip: int = 0) -> Iterator[list[str]]:
    """The texts of the stage's sequences in lists of some megabytes; each worker gets a share of the lists. `skip`:
    lists at the beginning of the worker's share that are left out.

    A text ends where a document ends or where its sequence ends: a run of words that two sequences share was never in
    one context. Sequences that the stage drew a second time are left out, as far as whole epochs tell.
    """
    from raycodellm.tokens.tokenizer import open_tokenizer

    plan, stores = mixture.make_plan(job), open_stores(job)
    tokenizer = open_tokenizer(Folder(job.tokenizer))
    size = max(1, _BLOCK_TOKENS // job.stage.sequence_length)
    for start in range((rank + skip * world_size) * size, plan.num_sequences, world_size * size):
        rows = plan.rows(start, min(start + size, plan.num_sequences))
        pieces: list[list[int]] = []
        for place, (source, store) in enumerate(zip(job.sources, stores, strict=True)):
            # The stage's second epoch over a source is whole before its third begins.
            last_epoch = source.num_sequences_consumed // max(1, source.num_sequences) + 1
            sequences = np.unique(rows.sequence[(rows.source == place) & (rows.epoch <= last_epoch)])
            pieces += _documents(store, sequences, job.stage.sequence_length)
        yield tokenizer.decode_batch(pieces)


def _documents(store: StageTokenStore, sequences: np.ndarray, length: int) -> list[list[int]]:
    """The tokens of the sequences, cut at the ends of documents."""
    if not len(sequences):
        return []
    tokens, _ = store.read(sequences, length)
    ends = np.flatnonzero((tokens == store.manifest.eos_id).ravel())
    cuts = np.union1d(ends, np.arange(0, tokens.size, length))
    return [piece.tolist() for piece in np.split(tokens.ravel(), cuts) if len(piece) > 1]
