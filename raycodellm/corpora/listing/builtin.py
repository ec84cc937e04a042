"""The builtin corpora: their names, what identifies them, and their documents."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from raycodellm.config import Source, UserError
from raycodellm.corpora import formal_language
from raycodellm.corpora.documents import Document
from raycodellm.corpora.inputs import InputFile, SourceInputs
from raycodellm.corpora.python_library import Row, library, library_digest
from raycodellm.corpora.registry import BUILTIN, reading_identity
from raycodellm.files import fingerprint


@dataclass(frozen=True)
class Builtin:
    """A corpus that needs no files."""

    rows: Callable[..., Iterable[Row]]
    """Gives (id, text) or (id, prompt, response); with `num_examples`, (prompt, response) for a `seed`."""
    instruct: bool = False
    num_examples: int | None = None
    """Examples that are drawn with a seed from an endless generator; None if the corpus is the same for every seed."""
    num_bytes: int = 0
    """About the bytes of text that CPython 3.11, 3.12 and 3.13 give, known without parsing their libraries."""
    digest: Callable[[], str] = library_digest
    """Identifies the documents of a corpus that is the same for every seed, without making them."""


def _task_examples(seed: int, num_examples: int) -> Iterable[Row]:
    # Imported by name: the tasks are a later layer.
    return importlib.import_module("raycodellm.tasks").training_examples(seed=seed, num_examples=num_examples)


BUILTINS = {
    "python-prose": Builtin(lambda: library().prose, num_bytes=2_000_000),
    "python-code": Builtin(lambda: library().code, num_bytes=7_000_000),
    "python-instruct": Builtin(lambda: library().instruct, instruct=True, num_bytes=2_300_000),
    "tasks-instruct": Builtin(_task_examples, instruct=True, num_examples=2_000),
    "formal-language": Builtin(formal_language.documents, num_bytes=4_000_000, digest=formal_language.digest),
}
PROBED = 200
"""Examples that identify the version of a generator. To make all of them would take over a second at each start."""


def list_builtin(source: Source, seed: int) -> SourceInputs:
    """The inputs of a builtin source. Raises UserError for an unknown name or a kind that does not fit."""
    name = source.path.removeprefix(BUILTIN) if isinstance(source.path, str) else ""
    if name not in BUILTINS:
        names = ", ".join(f"{BUILTIN}{key}" for key in BUILTINS)
        raise UserError(f"{source.path}: no such builtin source; use one of {names}, each as a source of its own")
    builtin = BUILTINS[name]
    if source.is_instruct and not builtin.instruct:
        raise UserError(f"{source.path}: has no prompts and responses; use kind text or code instead of {source.kind}")
    if builtin.num_examples is None:
        seed, identity, num_bytes = 0, builtin.digest(), builtin.num_bytes
    else:
        rows = list(builtin.rows(seed=seed, num_examples=PROBED))
        num_bytes = sum(len(text.encode()) for row in rows for text in row) * builtin.num_examples // len(rows)
        identity = fingerprint([builtin.num_examples, rows])
    identity_parts = {**reading_identity(source, None, ()), "builtin": name, "content": identity, "seed": seed}
    file = InputFile(f"{BUILTIN}{name}", num_bytes, identity, name)
    return SourceInputs(fingerprint(identity_parts), (file,), num_bytes, "builtin", seed)


def builtin_documents(source: Source, inputs: SourceInputs) -> tuple[Document, ...]:
    """All documents of a builtin source; pairs as one text if the source's kind is no instruction data."""
    name = inputs.files[0].name
    rows: Iterable[Row] = _rows(name, inputs.seed)
    if BUILTINS[name].num_examples:
        rows = ((f"{name}:{number}", *row) for number, row in enumerate(rows))
    documents = tuple(Document(row[0], row[1], row[2] if len(row) == 3 else None) for row in rows)
    return documents if source.is_instruct else tuple(Document(document.id, document.content) for document in documents)


def builtin_digest(inputs: SourceInputs) -> str:
    """16 hex digits of the documents that a builtin source gives on this machine; empty for any other source."""
    return rows_digest(_rows(inputs.files[0].name, inputs.seed)) if inputs.is_builtin else ""


def rows_digest(rows: Iterable[Sequence[str]]) -> str:
    """16 hex digits that change with the id, the text or the place of any document."""
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        for text in row:
            data = text.encode(errors="surrogatepass")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        digest.update(b"\xff" * 8)  # ends a row: no text is that long
    return digest.hexdigest()


@lru_cache(maxsize=8)
def _rows(name: str, seed: int) -> tuple[Row, ...]:
    """The rows of a corpus, kept in memory."""
    builtin = BUILTINS[name]
    arguments = {"seed": seed, "num_examples": builtin.num_examples} if builtin.num_examples else {}
    return tuple(builtin.rows(**arguments))
