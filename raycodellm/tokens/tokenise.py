"""Reads, cleans and tokenises the documents of one source and writes its shards, in this process or by Ray Data.

A shard is a range of the documents' keys, ordered by them. The keys are seeded hashes of the documents: a store has the
same bytes whatever the number of workers, tasks or retries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
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
from raycodellm.tokens import sizes
from raycodellm.tokens.manifest import Shard, token_dtype
from raycodellm.tokens.shard_files import write_shard
from raycodellm.tokens.tokenizer import TokenizerInfo, encode_documents, open_encoder

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

PULL_SORT_SHARDS = 200
"""Up to this many shards Ray's older sort is used, with an object per block and shard. The newer sort copes with more
shards, but starts worker processes of its own: 9 s against 1 s for two shards."""

Watch = Callable[[int, int, int], None]
"""Called with the documents, tokens and UTF-8 bytes so far."""


@dataclass(frozen=True)
class TokeniseJob:
    """The settings that all tasks of one source need."""

    source: Source
    tokenizer: TokenizerInfo
    seed: int
    num_shards: int
    folder: Folder

    @property
    def dtype(self) -> np.dtype:
        return token_dtype(self.tokenizer.vocab_size)


def decide_cleaning(
    job: TokeniseJob, inputs: SourceInputs, benchmark: Benchmark | None, watch: Watch
) -> Decision | None:
    """Decides, by a first reading, which documents the source's cleaning leaves out; None where nothing is cleaned."""
    if cleaning_identity(job.source, benchmark) is None:
        return None
    is_small = sizes.is_small(inputs)
    if not is_small:
        quiet_ray_data()
    plan = CleaningPlan(job.source, job.seed, benchmark)
    num_tasks = None if is_small else _num_tasks()
    return survey_documents(plan, inputs, num_tasks, lambda documents: watch(documents, 0, 0))


def write_shards(job: TokeniseJob, inputs: SourceInputs, decision: Decision | None, watch: Watch) -> Iterator[Shard]:
    """Writes the shards of the source's token store into the job's folder, one after the other."""
    make = _one_shard if job.num_shards == 1 else _many_shards
    return make(job, inputs, decision, watch)


def _one_shard(job: TokeniseJob, inputs: SourceInputs, decision: Decision | None, watch: Watch) -> Iterator[Shard]:
    """Orders and writes the only shard in this process."""
    import pyarrow as pa
    import pyarrow.compute as pc

    written: list[pa.Table] = []
    documents = tokens = num_bytes = 0
    batches: Iterable[pa.Table]
    if sizes.is_small(inputs):
        batches = _tokenised_in_process(job, inputs, decision)
    else:
        batches = _tokenised_by_ray(job, inputs, decision).iter_batches(batch_size=None, batch_format="pyarrow")
    for table in batches:
        written.append(table)
        documents += table["skipped"].null_count
        tokens += (pc.sum(pc.binary_length(table["tokens"])).as_py() or 0) // job.dtype.itemsize
        num_bytes += pc.sum(table["num_bytes"].filter(pc.is_null(table["skipped"]))).as_py() or 0
        watch(documents, tokens, num_bytes)
    yield write_shard(job.folder, 0, pa.concat_tables(written), job.dtype, job.source.is_instruct)


def _tokenised_in_process(job: TokeniseJob, inputs: SourceInputs, decision: Decision | None) -> Iterator[pa.Table]:
    rows = read_in_process(job.source, inputs)
    if decision:
        rows = cleaned(rows, decision.codes.get(0, b""), decision.reasons)
    elif keep := _limit(job, inputs):
        rows = (row for row in rows if isinstance(row, Skip) or keep(row))
    for table in document_tables(rows, job.source.is_instruct):
        yield tokenise(table, job.tokenizer, job.seed, job.num_shards)


def _many_shards(job: TokeniseJob, inputs: SourceInputs, decision: Decision | None, watch: Watch) -> Iterator[Shard]:
    """Ray Data brings the rows of each shard into one block, which one task orders and writes."""
    # All rows are tokenised before the sort begins: in one plan Ray would reserve CPUs for the sort, which waits.
    rows = _tokenised_by_ray(job, inputs, decision).materialize()
    if job.num_shards <= PULL_SORT_SHARDS:
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


def _write_block(rows: pa.Table, job: TokeniseJob) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    written = []
    for number in sorted(pc.unique(rows["shard"]).to_pylist()):
        of_shard = rows.filter(pc.equal(rows["shard"], number))
        shard = write_shard(job.folder, number, of_shard, job.dtype, job.source.is_instruct)
        written.append(json.dumps(asdict(shard)))
    return pa.table({"shard": pa.array(written, pa.string())})


def _num_tasks() -> int:
    """Four tasks per CPU of the cluster, so that the CPUs end at about the same time."""
    import ray

    return 4 * int(ray.cluster_resources().get("CPU", 1)) if ray.is_initialized() else 1


def _tokenised_by_ray(job: TokeniseJob, inputs: SourceInputs, decision: Decision | None) -> ray.data.Dataset:
    quiet_ray_data()
    keep = None if decision else _limit(job, inputs)
    documents = read_documents(job.source, inputs, num_tasks=_num_tasks(), keep=keep, decision=decision)
    tokenised = documents.map_batches(partial(_tokenise_block, job=job), batch_size=None, batch_format="pyarrow")
    tokenised.set_name(f"tokens-{job.folder.name}")
    return tokenised


def _tokenise_block(rows: pa.Table, job: TokeniseJob) -> pa.Table:
    # Ray counts one CPU per task: threads of the tokenizer would take the CPUs of other tasks.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return tokenise(rows, job.tokenizer, job.seed, job.num_shards)


def tokenise(rows: pa.Table, info: TokenizerInfo, seed: int, num_shards: int) -> pa.Table:
    """Rows for `write_shard`, made of rows of `read_documents`; their column `shard` numbers the range of keys."""
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


def _limit(job: TokeniseJob, inputs: SourceInputs) -> Keep | None:
    """Decides which documents `limit_documents` keeps: those with the smallest keys, an even sample of the source.

    Reads the whole source; None without a limit.
    """
    limit = job.source.limit_documents
    if limit is None:
        return None
    smallest = partial(_smallest_keys, seed=job.seed, limit=limit)
    batches: Iterable[pa.Table]
    if sizes.is_small(inputs):
        batches = map(smallest, document_tables(read_in_process(job.source, inputs), job.source.is_instruct))
    else:
        keys = read_documents(job.source, inputs, num_tasks=_num_tasks()).map_batches(
            smallest, batch_size=None, batch_format="pyarrow"
        )
        batches = keys.iter_batches(batch_size=None, batch_format="pyarrow")
    kept = np.zeros(0, np.uint64)
    for batch in batches:
        kept = _smallest(np.concatenate([kept, batch["key"].to_numpy()]), limit)
    return partial(_is_kept, seed=job.seed, largest=int(kept.max())) if len(kept) else None


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
