"""Makes the token store of one source, or finds it finished."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from functools import partial

from raycodellm.config import Source
from raycodellm.corpora import Benchmark, SourceInputs, builtin_digest, cleaning_identity
from raycodellm.files import Folder
from raycodellm.identity import token_store_identity
from raycodellm.tokens import sizes
from raycodellm.tokens.first_look import no_document
from raycodellm.tokens.manifest import FORMAT_VERSION, MANIFEST, Shard, StoreError, added_counts, write_manifest
from raycodellm.tokens.progress import Report, SourceProgress, progress_of
from raycodellm.tokens.store import TokenStore
from raycodellm.tokens.tokenise import TokeniseJob, decide_cleaning, write_shards
from raycodellm.tokens.tokenizer import finished_tokenizer

CONTAMINATION = "contamination.json"
"""File of a decontaminated store: for each task, how many documents had words of its items, and which words."""
STALE_SECONDS = 3600.0
"""Age after which a temporary file was left by a killed writer, and is not another writer's work."""

logger = logging.getLogger(__name__)


def store_fingerprint(
    source: Source, inputs: SourceInputs, tokenizer_fingerprint: str, seed: int, benchmark: Benchmark | None = None
) -> str:
    """The identity of the source's token store; `benchmark`: the evaluation items that documents are compared with."""
    cleaning, versions = cleaning_identity(source, benchmark), (FORMAT_VERSION, sizes.SHARD_BYTES)
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
    """The source's token store: a finished one is opened, a half-written or damaged one is made again.

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
    folder.delete(MANIFEST)  # while a damaged store is made again it must not look finished
    job = TokeniseJob(source, tokenizer, seed, sizes.num_shards(inputs), folder)
    watch = partial(_report_running, report, name, began)
    with _original_errors():
        decision = decide_cleaning(job, inputs, benchmark, watch)
        shards = list(write_shards(job, inputs, decision, watch))
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
    _remove_stale_files(folder)
    report(progress_of(name, "done", manifest, time.monotonic() - began))
    return TokenStore.open(folder)


def finished_store(folder: Folder) -> TokenStore | None:
    """The finished store, whose files have their sizes; None without one."""
    try:
        return TokenStore.open(folder)
    except (FileNotFoundError, StoreError):
        return None


def undamaged_store(folder: Folder) -> TokenStore | None:
    """The finished store, whose files have their checksums; None when the store must be made, or made again."""
    store = finished_store(folder)
    try:
        if store is not None:
            store.verify_before_use()
    except StoreError as error:
        logger.warning("%s is made again: %s", folder, error)
        return None
    return store


@contextlib.contextmanager
def _original_errors() -> Iterator[None]:
    """Unwraps an error that was raised inside a Ray task, whose message is a page of traces."""
    try:
        yield
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception):
            raise _without_advice(cause) from error
        raise


def _without_advice(error: Exception) -> Exception:
    """The error without Ray Data's advice on retries, in its message or as one more argument."""
    args = [arg.partition("\nFailed to apply UDF")[0] if isinstance(arg, str) else arg for arg in error.args]
    if args and isinstance(args[-1], str) and args[-1].startswith("Failed to apply UDF"):
        args.pop()
    if isinstance(error, OSError):
        return type(error)(*args)  # an OSError takes its parts from the arguments only when it is made
    error.args = tuple(args)
    return error


def _report_running(report: Report, name: str, began: float, documents: int, tokens: int, num_bytes: int) -> None:
    report(SourceProgress(name, "running", documents, tokens, num_bytes, time.monotonic() - began))


def _check_shards(name: str, source: Source, inputs: SourceInputs, shards: list[Shard]) -> None:
    numbers = [shard.number for shard in shards]
    if len(numbers) != len(set(numbers)):
        raise RuntimeError(f"source {name}: a shard was written in two parts ({sorted(numbers)}); nothing was kept")
    if any(shard.num_documents for shard in shards):
        return
    raise no_document(name, source, inputs, added_counts(shard.skipped for shard in shards))


def _remove_stale_files(folder: Folder) -> None:
    """Removes temporary files of writers that were killed."""
    if folder.local is None:
        return
    for path in folder.local.glob(".*"):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue  # its writer has just renamed it
