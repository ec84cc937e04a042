"""Turns documents into token stores: each source is read, tokenised and shuffled once per storage, by Ray Data.

`prepare` makes the stores of a whole sweep, and finds finished ones by their fingerprints. A store is ordered by a
seeded hash of each document: its bytes on disk do not depend on the number of workers, tasks or retries.
"""

from raycodellm.tokens.build import prepare_store, store_fingerprint
from raycodellm.tokens.documents import Reading
from raycodellm.tokens.manifest import Manifest, Shard, StoreError
from raycodellm.tokens.packing import PackingReport
from raycodellm.tokens.progress import SourceProgress
from raycodellm.tokens.store import PackedStore, TokenStore
from raycodellm.tokens.sweep_data import (
    TOKENIZERS,
    TOKENS,
    Prepared,
    SourceSize,
    asks_for_items,
    file_warnings,
    inspect,
    packing_reports,
    prepare,
    store_folder,
    tokenizer_folder,
    warnings_of,
)
from raycodellm.tokens.tokenizer import (
    TokenizerInfo,
    build_tokenizer,
    finished_tokenizer,
    open_tokenizer,
    tokenizer_at_hand,
    tokenizer_fingerprint,
)

__all__ = [
    "TOKENIZERS",
    "TOKENS",
    "Manifest",
    "PackedStore",
    "PackingReport",
    "Prepared",
    "Reading",
    "Shard",
    "SourceProgress",
    "SourceSize",
    "StoreError",
    "TokenStore",
    "TokenizerInfo",
    "asks_for_items",
    "build_tokenizer",
    "file_warnings",
    "finished_tokenizer",
    "inspect",
    "open_tokenizer",
    "packing_reports",
    "prepare",
    "prepare_store",
    "store_fingerprint",
    "store_folder",
    "tokenizer_at_hand",
    "tokenizer_fingerprint",
    "tokenizer_folder",
    "warnings_of",
]
