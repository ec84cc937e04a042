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
import pyarrow as pa

from raycodellm.config import Source
from raycodellm.corpora import (
    Benchmark,
    CleaningPlan,
    Decision,
    Document,
    Skip,
    SourceInputs,
    cleaned,
    cleaning_identity,
    document_key,
    grouped,
    read_in_process,
    read_in_tasks,
    survey_documents,
)
from raycodellm.files import Folder
from raycodellm.tokens import sizes
from raycodellm.tokens.manifest import Shard, token_dtype
from raycodellm.tokens.shard_files import write_shard
from raycodellm.tokens.tokenizer import TokenizerInfo, encode_documents, open_encoder

if TYPE_CHECKING:
    import ray.data

TABLE_CHARACTERS = 2 << 20
"""Characters of text that are tokenised together, at most, unless one document has more."""
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
    """Decides, by a first reading, which documents the source's cleaning and its limit leave out; None without both."""
    if cleaning_identity(job.source, benchmark) is None and job.source.limit_documents is None:
        return None
    plan = CleaningPlan(job.source, job.seed, benchmark)
    num_tasks = None if sizes.is_small(inputs) else _num_tasks()
    return survey_documents(plan, inputs, num_tasks, lambda documents: watch(documents, 0, 0))


def write_shards(job: TokeniseJob, inputs: SourceInputs, decision: Decision | None, watch: Watch) -> Iterator[Shard]:
    """Writes the shards of the source's token store into the job's folder, one after the other."""
    make = _one_shard if job.num_shards == 1 else _many_shards
    return make(job, inputs, decision, watch)


def _one_shard(job: TokeniseJob, inputs: SourceInputs, decision: Decision | None, watch: Watch) -> Iterator[Shard]:
    """Orders and writes the only shard in this process."""
    import pyarrow.compute as pc

    tables: list[pa.Table] = []
    num_documents = num_tokens = num_bytes = 0
    batches: Iterable[pa.Table]
    if sizes.is_small(inputs):
        batches = _tokenised_in_process(job, inputs, decision)
    else:
        batches = _tokenised_by_ray(job, inputs, decision).iter_batches(batch_size=None, batch_format="pyarrow")
    for table in batches:
        tables.append(table)
        num_documents += table["skipped"].null_count
        num_tokens += (pc.sum(pc.binary_length(table["tokens"])).as_py() or 0) // job.dtype.itemsize
        num_bytes += pc.sum(table["num_bytes"].filter(pc.is_null(table["skipped"]))).as_py() or 0
        watch(num_documents, num_tokens, num_bytes)
    yield write_shard(job.folder, 0, pa.concat_tables(tables), job.dtype, job.source.is_instruct)


def _tokenised_in_process(job: TokeniseJob, inputs: SourceInputs, decision: Decision | None) -> Iterator[pa.Table]:
    rows = read_in_process(job.source, inputs)
    return tokenised(cleaned(rows, decision.codes.get(0, b""), decision.reasons) if decision else rows, job)


def _many_shards(job: TokeniseJob, inputs: SourceInputs, decision: Decision | None, watch: Watch) -> Iterator[Shard]:
    """Ray Data brings the rows of each shard into one block, which one task orders and writes."""
    # All rows are tokenised before the sort begins: in one plan Ray would reserve CPUs for the sort, which waits.
    rows = _tokenised_by_ray(job, inputs, decision).materialize()
    if job.num_shards <= PULL_SORT_SHARDS:
        rows.context.shuffle_strategy = "sort_shuffle_pull_based"
    rows = rows.sort("shard", boundaries=list(range(1, job.num_shards)))
    shard_tables = rows.map_batches(partial(_write_block, job=job), batch_size=None, batch_format="pyarrow")
    num_documents = num_tokens = num_bytes = 0
    for batch in shard_tables.iter_batches(batch_size=None, batch_format="pyarrow"):
        for fields in map(json.loads, batch["shard"].to_pylist()):
            shard = Shard(**fields)
            num_documents += shard.num_documents
            num_tokens += shard.num_tokens
            num_bytes += shard.num_bytes
            watch(num_documents, num_tokens, num_bytes)
            yield shard


def _write_block(rows: pa.Table, job: TokeniseJob) -> pa.Table:
    import pyarrow.compute as pc

    shards = []
    for number in sorted(pc.unique(rows["shard"]).to_pylist()):
        of_shard = rows.filter(pc.equal(rows["shard"], number))
        shard = write_shard(job.folder, number, of_shard, job.dtype, job.source.is_instruct)
        shards.append(json.dumps(asdict(shard)))
    return pa.table({"shard": pa.array(shards, pa.string())})


def _num_tasks() -> int:
    """Four tasks per CPU of the cluster, so that the CPUs end at about the same time."""
    import ray

    return 4 * int(ray.cluster_resources().get("CPU", 1)) if ray.is_initialized() else 1


def _tokenised_by_ray(job: TokeniseJob, inputs: SourceInputs, decision: Decision | None) -> ray.data.Dataset:
    rows = read_in_tasks(job.source, inputs, _num_tasks(), partial(_tokenised_in_task, job=job), decision)
    rows.set_name(f"tokens-{job.folder.name}")
    return rows


def _tokenised_in_task(unit: int, rows: Iterable[Document | Skip], job: TokeniseJob) -> Iterator[pa.Table]:
    # Ray counts one CPU per task: threads of the tokenizer would take the CPUs of other tasks.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return tokenised(rows, job)


def tokenised(rows: Iterable[Document | Skip], job: TokeniseJob) -> Iterator[pa.Table]:
    """Rows for `write_shard`, with a column `shard` that numbers the range of keys; the last table counts the skips."""
    skips: dict[str, Skip] = {}

    def documents() -> Iterator[Document]:
        for row in rows:
            if isinstance(row, Document):
                yield row
            else:
                total = skips.get(row.reason, Skip(row.reason, 0))
                skips[row.reason] = Skip(row.reason, total.count + row.count, total.num_bytes + row.num_bytes)

    previous: list[Document] = []
    for group in grouped(documents(), lambda document: len(document.content), TABLE_CHARACTERS):
        if previous:
            yield _table(previous, [], job)
        previous = group
    yield _table(previous, list(skips.values()), job)


def _table(documents: list[Document], skips: list[Skip], job: TokeniseJob) -> pa.Table:
    none, zeros = [None] * len(documents), [0] * len(skips)
    tokens, prompts = encode_documents(open_encoder(job.tokenizer), documents, job.tokenizer.eos_id)
    keys = [document_key(job.seed, document) for document in documents]
    sizes_of = [len(document.content.encode()) for document in documents] + [skip.num_bytes for skip in skips]
    return pa.table(
        {
            "shard": pa.array([int.from_bytes(key[:8]) * job.num_shards >> 64 for key in keys] + zeros, pa.int64()),
            "key": pa.array(keys + [b""] * len(skips), pa.binary()),
            "tokens": pa.array(tokens + [b""] * len(skips), pa.large_binary()),
            "num_prompt": pa.array(prompts + zeros, pa.int32()),
            "num_bytes": pa.array(sizes_of, pa.int64()),
            "skipped": pa.array(none + [skip.reason for skip in skips], pa.string()),
            "count": pa.array([0] * len(documents) + [skip.count for skip in skips], pa.int64()),
        }
    )
