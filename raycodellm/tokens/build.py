"""One source becomes a token store: read, cleaned, tokenised, shuffled and written, here or by Ray Data."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from raycodellm.config import Source
from raycodellm.corpora import (
    Benchmark,
    CleaningPlan,
    Decision,
    Document,
    Keep,
    Skip,
    SourceInputs,
    builtin_digest,
    cleaned,
    cleaning_identity,
    document_key,
    document_tables,
    quiet_ray_data,
    read_documents,
    read_in_process,
    survey_documents,
)
from raycodellm.files import Folder
from raycodellm.identity import token_store_identity
from raycodellm.tokens.first_look import no_document
from raycodellm.tokens.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    Shard,
    StoreError,
    token_dtype,
    write_manifest,
)
from raycodellm.tokens.store import TokenStore, write_shard
from raycodellm.tokens.tokenizer import TokenizerInfo, encode_documents, finished_tokenizer, open_encoder

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

SHARD_BYTES = 64 << 20
"""Of text per shard, about: some 20 million tokens, so that one task can order and write it in memory."""
HERE_BYTES = 8 << 20
"""Smaller sources are tokenised in this process: Ray's first tasks wait for Python processes to import, and all four
builtin sources take 4 s here against 13 s through tasks (2 busy cores). The store is the same, byte for byte."""
CONTAMINATION = "contamination.json"
"""In a store's folder: how many documents had words of each task's items, and which, where it was asked for."""
PULLED_SHARDS = 200
"""Up to here Ray's older sort is used, an object per block and shard. The newer one copes with more, but starts worker
processes of its own: 9 s against 1 s for two shards."""
STALE_SECONDS = 3600.0
"""Age after which a temporary file is what a killed writer left, and not another writer's work."""
_TEXT_PER_BYTE = {"parquet": 3}
"""By format; 1 for the others."""
_COMPRESSED_TEXT_PER_BYTE = 4


@dataclass(frozen=True)
class SourceProgress:
    """How far one source is. The tokenizer is reported under the name `tokenizer`."""

    source: str
    state: str
    """running, done or reused"""
    documents: int = 0
    tokens: int = 0
    num_bytes: int = 0
    """UTF-8 bytes of the documents so far."""
    seconds: float = 0.0


Report = Callable[[SourceProgress], None]
logger = logging.getLogger(__name__)


def store_fingerprint(
    source: Source, inputs: SourceInputs, tokenizer_fingerprint: str, seed: int, benchmark: Benchmark | None = None
) -> str:
    cleaning, versions = cleaning_identity(source, benchmark), (FORMAT_VERSION, SHARD_BYTES)
    return token_store_identity(source.kind, inputs.fingerprint, tokenizer_fingerprint, seed, cleaning, versions)


def prepare_store(
    name: str,
    source: Source,
    inputs: SourceInputs,
    tokenizer_folder: Folder,
    tokenizer_fingerprint: str,
    seed: int,
    folder: Folder,
    progress: Report | None = None,
    benchmark: Benchmark | None = None,
) -> TokenStore:
    """The source's token store: opened where it is finished, else made; a half-written or damaged one is made again.

    Raises UserError when the source holds no document, with the reasons counted.
    """
    report = progress or (lambda _: None)
    began = time.monotonic()
    store = undamaged_store(folder)
    if store:
        report(progress_of(name, "reused", store.manifest, 0.0))
        return store
    tokenizer = finished_tokenizer(tokenizer_folder)
    if tokenizer is None:
        raise FileNotFoundError(f"{tokenizer_folder}: no finished tokenizer")
    folder.make()
    folder.delete(MANIFEST)  # of a damaged store: while it is made again it must not look finished
    job = _Job(source, tokenizer, seed, max(1, -(-text_bytes(inputs) // SHARD_BYTES)), folder)
    watched = partial(_report_running, report, name, began)
    with _original_errors():
        decision = _decide(job, inputs, benchmark, watched)
        make = _one_shard if job.num_shards == 1 else _many_shards
        shards = list(make(job, inputs, watched, decision))
    _check_shards(name, source, inputs, shards)
    if decision and decision.findings:
        folder.write_json(CONTAMINATION, decision.findings)
    manifest = write_manifest(
        folder,
        shards,
        name=name,
        kind=source.kind,
        fingerprint=store_fingerprint(source, inputs, tokenizer_fingerprint, seed, benchmark),
        source_fingerprint=inputs.fingerprint,
        tokenizer_fingerprint=tokenizer_fingerprint,
        seed=seed,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        content_digest=builtin_digest(inputs),
    )
    _clean(folder)
    report(progress_of(name, "done", manifest, time.monotonic() - began))
    return TokenStore.open(folder)


@contextlib.contextmanager
def _original_errors() -> Iterator[None]:
    """An error raised inside a Ray task arrives wrapped, its message a page of traces; the error itself goes on."""
    try:
        yield
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception):
            raise _without_advice(cause) from error
        raise


def _without_advice(error: Exception) -> Exception:
    """Ray Data adds to an error's message, or as one more argument, how its own retries are set."""
    args = [arg.partition("\nFailed to apply UDF")[0] if isinstance(arg, str) else arg for arg in error.args]
    if args and isinstance(args[-1], str) and args[-1].startswith("Failed to apply UDF"):
        args.pop()
    if isinstance(error, OSError):
        return type(error)(*args)  # its parts are taken from the arguments when it is made, and only then
    error.args = tuple(args)
    return error


def finished_store(folder: Folder) -> TokenStore | None:
    try:
        return TokenStore.open(folder)
    except (FileNotFoundError, StoreError):
        return None


def undamaged_store(folder: Folder) -> TokenStore | None:
    """The finished store, where its files still have their checksums; None where it is to be made, or made again."""
    store = finished_store(folder)
    try:
        if store is not None:
            store.verify_before_use()
    except StoreError as error:
        logger.warning("%s is made again: %s", folder, error)
        return None
    return store


def progress_of(name: str, state: str, manifest: Manifest, seconds: float) -> SourceProgress:
    return SourceProgress(name, state, manifest.num_documents, manifest.num_tokens, manifest.num_bytes, seconds)


def _report_running(report: Report, name: str, began: float, documents: int, tokens: int, num_bytes: int) -> None:
    report(SourceProgress(name, "running", documents, tokens, num_bytes, time.monotonic() - began))


def _check_shards(name: str, source: Source, inputs: SourceInputs, shards: list[Shard]) -> None:
    numbers = [shard.number for shard in shards]
    if len(numbers) != len(set(numbers)):
        raise RuntimeError(f"source {name}: a shard was written in two parts ({sorted(numbers)}); nothing was kept")
    if any(shard.num_documents for shard in shards):
        return
    raise no_document(name, source, inputs, {reason: n for shard in shards for reason, n in shard.skipped.items()})


def _clean(folder: Folder) -> None:
    """Removes temporary files of writers that were killed."""
    if folder.local is None:
        return
    for path in folder.local.glob(".*"):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue  # its writer has just renamed it


# ------------------------------------------------------------------------------------------------------ Ray Data


@dataclass(frozen=True)
class _Job:
    """What the tasks of one source need to know."""

    source: Source
    tokenizer: TokenizerInfo
    seed: int
    num_shards: int
    folder: Folder

    @property
    def dtype(self) -> np.dtype:
        return token_dtype(self.tokenizer.vocab_size)


_Watch = Callable[[int, int, int], None]


def _decide(job: _Job, inputs: SourceInputs, benchmark: Benchmark | None, watch: _Watch) -> Decision | None:
    """Which documents the source's cleaning leaves out, found by a first reading; None where nothing is cleaned."""
    if cleaning_identity(job.source, benchmark) is None:
        return None
    here = _is_small(inputs)
    if not here:
        quiet_ray_data()
    plan = CleaningPlan(job.source, job.seed, benchmark)
    return survey_documents(plan, inputs, None if here else _num_tasks(), lambda documents: watch(documents, 0, 0))


def _one_shard(job: _Job, inputs: SourceInputs, watch: _Watch, decision: Decision | None) -> Iterator[Shard]:
    """A small source is ordered and written here, without further tasks."""
    import pyarrow as pa
    import pyarrow.compute as pc

    written: list[pa.Table] = []
    documents = tokens = num_bytes = 0
    if _is_small(inputs):
        batches = _tokenised_here(job, inputs, decision)
    else:
        batches = _tokenised(job, inputs, decision).iter_batches(batch_size=None, batch_format="pyarrow")
    for table in batches:
        written.append(table)
        documents += table["skipped"].null_count
        tokens += (pc.sum(pc.binary_length(table["tokens"])).as_py() or 0) // job.dtype.itemsize
        num_bytes += pc.sum(table["num_bytes"].filter(pc.is_null(table["skipped"]))).as_py() or 0
        watch(documents, tokens, num_bytes)
    yield write_shard(job.folder, 0, pa.concat_tables(written), job.dtype, job.source.is_instruct)


def text_bytes(inputs: SourceInputs) -> int:
    """About how much text the files hold."""
    total = 0
    for file in inputs.files:
        packed = file.uri.lower().endswith((".gz", ".zst", ".bz2"))
        total += file.num_bytes * (_COMPRESSED_TEXT_PER_BYTE if packed else _TEXT_PER_BYTE.get(inputs.format, 1))
    return total


def _is_small(inputs: SourceInputs) -> bool:
    return inputs.num_bytes <= HERE_BYTES and text_bytes(inputs) <= SHARD_BYTES


def _tokenised_here(job: _Job, inputs: SourceInputs, decision: Decision | None) -> Iterator[pa.Table]:
    rows = read_in_process(job.source, inputs)
    if decision:
        rows = cleaned(rows, decision.codes.get(0, b""), decision.reasons)
    elif keep := _limit(job, inputs):
        rows = (row for row in rows if isinstance(row, Skip) or keep(row))
    for table in document_tables(rows, job.source.is_instruct):
        yield tokenise(table, job.tokenizer, job.seed, job.num_shards)


def _many_shards(job: _Job, inputs: SourceInputs, watch: _Watch, decision: Decision | None) -> Iterator[Shard]:
    """Ray Data brings the rows of each shard, a range of keys, into one block; one task orders and writes it."""
    # Worked out whole before it is sorted: in one plan a share of the CPUs would be kept for the sort, which waits.
    rows = _tokenised(job, inputs, decision).materialize()
    if job.num_shards <= PULLED_SHARDS:
        rows.context.shuffle_strategy = "sort_shuffle_pull_based"
    rows = rows.sort("shard", boundaries=list(range(1, job.num_shards)))
    written = rows.map_batches(partial(_write_block, job=job), batch_size=None, batch_format="pyarrow")
    documents = tokens = num_bytes = 0
    for batch in written.iter_batches(batch_size=None, batch_format="pyarrow"):
        for fields in map(json.loads, batch["shard"].to_pylist()):
            shard = Shard(**fields)
            documents += shard.num_documents
            tokens += shard.num_tokens
            num_bytes += shard.num_bytes
            watch(documents, tokens, num_bytes)
            yield shard


def _write_block(rows: pa.Table, job: _Job) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    written = []
    for number in sorted(pc.unique(rows["shard"]).to_pylist()):
        of_shard = rows.filter(pc.equal(rows["shard"], number))
        shard = write_shard(job.folder, number, of_shard, job.dtype, job.source.is_instruct)
        written.append(json.dumps(asdict(shard)))
    return pa.table({"shard": pa.array(written, pa.string())})


def _num_tasks() -> int:
    """Four per CPU of the cluster, so that they end at about the same time."""
    import ray

    return 4 * int(ray.cluster_resources().get("CPU", 1)) if ray.is_initialized() else 1


def _tokenised(job: _Job, inputs: SourceInputs, decision: Decision | None) -> ray.data.Dataset:
    quiet_ray_data()
    keep = None if decision else _limit(job, inputs)
    documents = read_documents(job.source, inputs, num_tasks=_num_tasks(), keep=keep, decision=decision)
    return documents.map_batches(partial(_tokenise_block, job=job), batch_size=None, batch_format="pyarrow")


def _tokenise_block(rows: pa.Table, job: _Job) -> pa.Table:
    # One task is one CPU to Ray: threads of the tokenizer's own would take those of the other tasks.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return tokenise(rows, job.tokenizer, job.seed, job.num_shards)


def tokenise(rows: pa.Table, info: TokenizerInfo, seed: int, num_shards: int) -> pa.Table:
    """Rows of `read_documents` become rows for `write_shard`, with `shard`: which range of keys, of `num_shards`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    documents = _documents(rows)
    skips = rows.filter(pc.is_valid(rows["skipped"]))
    none, zeros = [b""] * len(skips), [0] * len(skips)
    tokens, prompts = encode_documents(open_encoder(info), documents, info.eos_id)
    keys = [document_key(seed, document) for document in documents]
    shards = [int.from_bytes(key[:8]) * num_shards >> 64 for key in keys]
    return pa.table(
        {
            "shard": pa.array(shards + zeros, pa.int64()),
            "key": pa.array(keys + none, pa.binary()),
            "tokens": pa.array(tokens + none, pa.large_binary()),
            "num_prompt": pa.array(prompts + zeros, pa.int32()),
            "num_bytes": pa.array(
                [len(document.content.encode()) for document in documents] + skips["num_bytes"].to_pylist(), pa.int64()
            ),
            "skipped": pa.array([None] * len(documents) + skips["skipped"].to_pylist(), pa.string()),
            "count": pa.array([0] * len(documents) + skips["count"].to_pylist(), pa.int64()),
        }
    )


def _documents(rows: pa.Table) -> list[Document]:
    import pyarrow.compute as pc

    rows = rows.filter(pc.is_null(rows["skipped"]))
    names = [name for name in ("document", "text", "prompt", "response") if name in rows.column_names]
    return [Document(*fields) for fields in zip(*(rows[name].to_pylist() for name in names), strict=True)]


def _limit(job: _Job, inputs: SourceInputs) -> Keep | None:
    """What `limit_documents` keeps: the documents with the smallest keys, an even sample of all that are there."""
    limit = job.source.limit_documents
    if limit is None:
        return None
    smallest = partial(_smallest_keys, seed=job.seed, limit=limit)
    if _is_small(inputs):
        batches = map(smallest, document_tables(read_in_process(job.source, inputs), job.source.is_instruct))
    else:
        keys = read_documents(job.source, inputs, num_tasks=_num_tasks()).map_batches(
            smallest, batch_size=None, batch_format="pyarrow"
        )
        batches = keys.iter_batches(batch_size=None, batch_format="pyarrow")
    found = np.zeros(0, np.uint64)
    for batch in batches:
        found = _smallest(np.concatenate([found, batch["key"].to_numpy()]), limit)
    return partial(_is_kept, seed=job.seed, largest=int(found.max())) if len(found) else None


def _smallest_keys(rows: pa.Table, seed: int, limit: int) -> pa.Table:
    import pyarrow as pa

    keys = np.array([_short_key(seed, document) for document in _documents(rows)], np.uint64)
    return pa.table({"key": _smallest(keys, limit)})


def _smallest(keys: np.ndarray, limit: int) -> np.ndarray:
    return keys if len(keys) <= limit else np.partition(keys, limit - 1)[:limit]


def _short_key(seed: int, document: Document) -> int:
    return int.from_bytes(document_key(seed, document)[:8])


def _is_kept(document: Document, seed: int, largest: int) -> bool:
    return _short_key(seed, document) <= largest
