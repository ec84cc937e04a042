"""The data of a whole sweep: makes its tokenizer and token stores, or says how large they will be."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from raycodellm.config import Source, Sweep, Unreachable, UserError
from raycodellm.corpora import (
    LISTED_BEFORE,
    Benchmark,
    SourceInputs,
    benchmark_of,
    document_bytes,
    sample_texts,
    source_fingerprint,
    text_bytes,
    too_short_warnings,
)
from raycodellm.files import Folder, fingerprint
from raycodellm.retrying import patiently
from raycodellm.tokens.build import finished_store, prepare_store, store_fingerprint, undamaged_store
from raycodellm.tokens.first_look import look_into
from raycodellm.tokens.packing import PackingReport
from raycodellm.tokens.parallel import make_at_once
from raycodellm.tokens.progress import Report, SourceProgress, progress_of
from raycodellm.tokens.store import TokenStore
from raycodellm.tokens.tokenizer import TokenizerInfo, build_tokenizer, finished_tokenizer, tokenizer_fingerprint

TOKENS, TOKENIZERS = "tokens", "tokenizers"
"""Folders of a storage for token stores and for tokenizers."""
UNKNOWN_TOKENS = 10**15
"""Stands for the tokens of a source whose size is not known: more than any stage draws."""

Items = Mapping[str, Sequence[str]]
"""The texts (prompt and right answer) of each evaluation task's items, by task."""


@dataclass(frozen=True)
class Prepared:
    """A sweep's data, ready to train on."""

    tokenizer_folder: Folder
    """Has no meaning, like the next two fields, if the sweep has no sources."""
    tokenizer_fingerprint: str
    vocab_size: int
    stores: dict[str, TokenStore]
    warnings: tuple[str, ...] = ()
    """Warnings about the evaluation items, as `warnings_of` gives them."""


@dataclass(frozen=True)
class SourceSize:
    """The size of a source: exact when its store is finished, else estimated from its bytes."""

    num_tokens: int
    num_bytes: int
    is_estimate: bool
    folder: Folder
    """Folder of its token store, which may not exist yet."""
    store: TokenStore | None = None
    """The finished token store, or None."""
    fingerprint: str = ""
    """Identity of its token store."""
    tokenizer_fingerprint: str = ""
    """Identity of the tokenizer that its token store is made with."""
    is_known: bool = True
    """False for a source that this machine does not reach: its tokens are then UNKNOWN_TOKENS."""
    is_instruct: bool = False
    """True for a source of examples."""
    inputs: SourceInputs | None = None
    """Its files; None where this machine does not reach them."""


def asks_for_items(sweep: Sweep) -> bool:
    """True if a source is cleaned of evaluation items: `prepare` and `inspect` then need the items' texts."""
    return any(_ngram(sweep.complete_source(name)) for name in sweep.sources)


def prepare(sweep: Sweep, storage: Folder, progress: Report | None = None, items: Items | None = None) -> Prepared:
    """Makes the tokenizer and the token stores that do not exist yet, up to four stores at once.

    Starts Ray Data only when a store must be made. `items` are needed where `asks_for_items`. The tokenizer is trained
    on the uncleaned sources: cleaning decides only which documents models are trained on. Raises UserError for sources
    that cannot be read.
    """
    if not sweep.sources:
        return Prepared(storage / TOKENIZERS, "", 0, {})
    report = progress or (lambda _: None)
    benchmarks = _benchmarks(sweep, items)
    inputs = {name: _patient_inputs(name, source, sweep.seed) for name, source in sweep.sources.items()}
    tokenizer_identity, store_identities = _identities(sweep, inputs, benchmarks)
    folders = _folders(storage, store_identities)
    existing = {name: patiently(partial(undamaged_store, folder), "a token store") for name, folder in folders.items()}
    finished = {name: store for name, store in existing.items() if store}
    for name, store in finished.items():
        report(progress_of(name, "reused", store.manifest, 0.0))
    missing = look_into(
        {name: (source, inputs[name]) for name, source in sweep.sources.items() if name not in finished}
    )
    tokenizer_target = tokenizer_folder(storage, tokenizer_identity)
    tokenizer = patiently(lambda: _prepare_tokenizer(sweep, inputs, tokenizer_target, report), "the tokenizer")
    settings = (tokenizer.folder, tokenizer_identity, sweep.seed)

    def make(name: str, report: Report) -> TokenStore:
        source, folder = sweep.complete_source(name), folders[name]
        start = partial(prepare_store, name, source, inputs[name], *settings, folder, report, benchmarks[name])
        # A store that was begun when the storage fell silent is made again from its first document.
        return patiently(start, f"source {name}")

    stores = {**finished, **make_at_once(list(missing), make, report)}
    ordered_stores = {name: stores[name] for name in sweep.sources}
    warnings = tuple(_warnings(benchmarks))
    return Prepared(tokenizer.folder, tokenizer_identity, tokenizer.vocab_size, ordered_stores, warnings)


def inspect(
    sweep: Sweep, storage: Folder, items: Items | None = None, *, elsewhere: bool = False
) -> dict[str, SourceSize]:
    """The size of every source, without starting Ray. Reads a few documents of sources with `limit_documents`.

    An estimate does not know how much cleaning leaves out. `items` as for `prepare`. `elsewhere`: the sweep is for
    another machine, so that a source that this one does not reach is not refused.
    """
    if not sweep.sources:
        return {}
    reachable = {name: _inputs_here(name, source, sweep.seed, elsewhere) for name, source in sweep.sources.items()}
    inputs = {
        name: source_inputs or _placeholder_inputs(sweep.sources[name]) for name, source_inputs in reachable.items()
    }
    tokenizer_identity, store_identities = _identities(sweep, inputs, _benchmarks(sweep, items), elsewhere=elsewhere)
    folders = _folders(storage, store_identities)
    tokenizer = finished_tokenizer(tokenizer_folder(storage, tokenizer_identity))
    training = sweep.tokenizer_of_sources.train
    vocab_size = tokenizer.vocab_size if tokenizer else training.vocab_size if training else 50_000
    sizes = {}
    unfinished = (name for name in sweep.sources if reachable[name] and not finished_store(folders[name]))
    look_into({name: (sweep.sources[name], inputs[name]) for name in unfinished})
    for name, source in sweep.sources.items():
        store = finished_store(folders[name])
        if store:
            size = (store.manifest.num_tokens, store.manifest.num_bytes, False)
        elif not reachable[name]:
            size = (UNKNOWN_TOKENS, 0, True)
        else:
            num_bytes = text_bytes(inputs[name])
            if source.limit_documents:
                num_bytes = min(num_bytes, int(source.limit_documents * document_bytes(source, inputs[name])))
            size = (int(num_bytes / _bytes_per_token(vocab_size)), num_bytes, True)
        is_known = store is not None or reachable[name] is not None
        identities = (store_identities[name], tokenizer_identity)
        sizes[name] = SourceSize(
            *size, folders[name], store, *identities, is_known, source.is_instruct, inputs=reachable[name]
        )
    return sizes


def warnings_of(sweep: Sweep, items: Items | None = None) -> list[str]:
    """Warnings about a sweep's data that may surprise the user and do not stop the sweep."""
    warnings = _warnings(_benchmarks(sweep, items))
    if sweep.tokenizer and sweep.tokenizer.train and len(sweep.sources) > 1:
        count = len(sweep.sources)
        warnings.append(
            f"the tokenizer is trained on all {count} sources: a change to one of them makes all {count} token stores "
            "again; tokenizer.pretrained keeps the others"
        )
    return warnings


def file_warnings(sweep: Sweep, sizes: Mapping[str, SourceSize]) -> list[str]:
    """Warnings about files that a source names twice, or that two sources of one stage read alike. `sizes`: from
    `inspect`."""
    inputs = {name: one.inputs for name, one in sizes.items() if one.inputs is not None}
    warnings = []
    for name, of_source in inputs.items():
        if number := dict(of_source.excluded).get(LISTED_BEFORE):
            warnings.append(f"sources.{name}: files that two of its paths name: {number:,}; each is read once")
    pairs = dict.fromkeys(
        pair for stage in sweep.stages for pair in itertools.combinations(sweep.drawn_sources(stage), 2)
    )
    for one, other in pairs:
        if not (one in inputs and other in inputs and _read_alike(sweep.sources[one], sweep.sources[other])):
            continue
        shared = {file.uri for file in inputs[one].files} & {file.uri for file in inputs[other].files}
        if shared:
            warnings.append(
                f"sources {one} and {other} share {len(shared):,} {'files' if len(shared) > 1 else 'file'}, such as "
                f"{min(shared)}: a stage that draws from both trains on the same documents twice"
            )
    return warnings


def _read_alike(one: Source, other: Source) -> bool:
    """True if two sources take the same documents of a file that both have."""
    return all(getattr(one, key) == getattr(other, key) for key in ("text_field", "documents", "score_field", "take"))


def _warnings(benchmarks: Mapping[str, Benchmark | None]) -> list[str]:
    return list(
        dict.fromkeys(line for benchmark in benchmarks.values() if benchmark for line in too_short_warnings(benchmark))
    )


def packing_reports(sweep: Sweep, name: str, store: TokenStore) -> list[PackingReport]:
    """Tokens dropped and padded and documents split in an epoch of a source, for each way that the stages pack it."""
    stages = [stage for stage in sweep.stages if name in sweep.drawn_sources(stage)]
    ways = dict.fromkeys((stage.sequence_length, stage.packing) for stage in stages)
    return [store.packing_report(*way) for way in ways]


def _ngram(source: Source) -> int | None:
    """Length, in words, of the runs of words that are compared with evaluation items; None without decontamination."""
    decontaminate = source.cleaning.decontaminate if source.cleaning else None
    return decontaminate.ngram if decontaminate and decontaminate.enabled else None


def _benchmarks(sweep: Sweep, items: Items | None) -> dict[str, Benchmark | None]:
    """The evaluation items that each source's documents are compared with; None for no comparison."""
    ngram_of = {name: _ngram(sweep.complete_source(name)) for name in sweep.sources}
    if any(ngram_of.values()) and items is None:
        raise ValueError("cleaning.decontaminate needs the texts of the evaluation's items")
    benchmarks = {ngram: benchmark_of(items or {}, ngram) for ngram in set(ngram_of.values()) if ngram}
    return {name: benchmarks[ngram] if ngram else None for name, ngram in ngram_of.items()}


def _patient_inputs(name: str, source: Source, seed: int) -> SourceInputs:
    return patiently(lambda: _source_inputs(name, source, seed), f"source {name}")


def _source_inputs(name: str, source: Source, seed: int) -> SourceInputs:
    try:
        return source_fingerprint(source, seed)
    except UserError as error:
        raise type(error)(f"sources.{name}: {error}") from error


def _inputs_here(name: str, source: Source, seed: int, elsewhere: bool) -> SourceInputs | None:
    """The source's inputs; None for a source that only another machine may reach."""
    try:
        return _source_inputs(name, source, seed)
    except Unreachable:
        if not elsewhere:
            raise
        return None


def _placeholder_inputs(source: Source) -> SourceInputs:
    """Stands for the inputs of a source that this machine does not reach: no files, known by their address."""
    return SourceInputs(fingerprint(source.model_dump(mode="json")), (), 0, "not reached")


def _identities(
    sweep: Sweep,
    inputs: Mapping[str, SourceInputs],
    benchmarks: Mapping[str, Benchmark | None],
    *,
    elsewhere: bool = False,
) -> tuple[str, dict[str, str]]:
    """(identity of the tokenizer, identity of each source's token store)"""
    tokenizer = sweep.tokenizer_of_sources
    try:
        tokenizer_identity = tokenizer_fingerprint(tokenizer, inputs.values(), sweep.seed)
    except Unreachable:
        if not elsewhere:
            raise
        tokenizer_identity = fingerprint(tokenizer.model_dump(mode="json"))
    store_identities = {
        name: store_fingerprint(
            sweep.complete_source(name), inputs[name], tokenizer_identity, sweep.seed, benchmarks[name]
        )
        for name in sweep.sources
    }
    return tokenizer_identity, store_identities


def store_folder(storage: Folder, name: str, identity: str) -> Folder:
    """The folder of the token store of the source `name`. `identity`: the store's."""
    return storage / TOKENS / f"{name}-{identity}"


def tokenizer_folder(storage: Folder, identity: str) -> Folder:
    """The folder of the tokenizer with this identity."""
    return storage / TOKENIZERS / identity


def _folders(storage: Folder, store_identities: Mapping[str, str]) -> dict[str, Folder]:
    return {name: store_folder(storage, name, identity) for name, identity in store_identities.items()}


def _prepare_tokenizer(sweep: Sweep, inputs: dict[str, SourceInputs], folder: Folder, report: Report) -> TokenizerInfo:
    existing = finished_tokenizer(folder)
    if existing:
        return existing
    began = time.monotonic()
    report(SourceProgress("tokenizer", "running"))
    settings = sweep.tokenizer_of_sources
    num_bytes = settings.train.sample_bytes if settings.train else 0
    sources = [(source, inputs[name]) for name, source in sweep.sources.items()]
    tokenizer = build_tokenizer(settings, sample_texts(sources, num_bytes, sweep.seed), folder)
    report(SourceProgress("tokenizer", "done", seconds=time.monotonic() - began))
    return tokenizer


def _bytes_per_token(vocab_size: int) -> float:
    """3.5 at 4,096 entries (measured on Python and English); the growth with the vocabulary is a rule of thumb."""
    return 0.29 * math.log2(vocab_size)
