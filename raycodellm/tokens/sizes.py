"""The approximate size of a source's text, which decides where and in how many shards it is tokenised."""

from __future__ import annotations

from raycodellm.corpora import SourceInputs, text_bytes

SHARD_BYTES = 64 << 20
"""Bytes of text per shard, about: some 20 million tokens, so that one task can order and write a shard in memory."""
IN_PROCESS_BYTES = 8 << 20
"""Sources up to this size are tokenised in this process: Ray's first tasks wait for Python processes to import, and all
four builtin sources take 4 s here against 13 s in tasks (2 busy cores). The store is the same, byte for byte."""


def num_shards(inputs: SourceInputs) -> int:
    """Shards of the source's token store; the last ones may turn out empty."""
    return max(1, -(-text_bytes(inputs) // SHARD_BYTES))


def is_small(inputs: SourceInputs) -> bool:
    """True if the source is tokenised in this process."""
    return inputs.is_builtin or (inputs.num_bytes <= IN_PROCESS_BYTES and text_bytes(inputs) <= SHARD_BYTES)
