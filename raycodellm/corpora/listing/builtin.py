"""The builtin corpora: their names, what identifies them, and their documents."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from raycodellm.config import Source, UserError
from raycodellm.corpora.documents import Document
from raycodellm.corpora.inputs import InputFile, SourceInputs
from raycodellm.corpora.python_library import content_digest
from raycodellm.corpora.registry import BUILTIN, reading_identity
from raycodellm.files import fingerprint


@dataclass(frozen=True)
class Builtin:
    """A corpus that needs no files. Functions are named `module:function`: some are in modules of later layers."""

    documents: str
    """Function that yields (id, text), or ([id,] prompt, response)."""
    instruct: bool = False
    digest: str | None = None
    """Function that returns a hash of the content; if None, the first `PROBED` examples are hashed."""
    num_examples: int | None = None
    """Examples that are drawn with a seed from an endless generator; None if the corpus is the same for every seed."""
    num_bytes: int = 0
    """About the bytes of text that CPython 3.11 gives, known without parsing its library."""


_LIBRARY = "raycodellm.corpora.python_library"
_DIGEST = f"{_LIBRARY}:library_digest"
BUILTINS = {
    "python-prose": Builtin(f"{_LIBRARY}:python_prose", digest=_DIGEST, num_bytes=2_000_000),
    "python-code": Builtin(f"{_LIBRARY}:python_code", digest=_DIGEST, num_bytes=7_000_000),
    "python-instruct": Builtin(f"{_LIBRARY}:python_instruct", instruct=True, digest=_DIGEST, num_bytes=2_300_000),
    "tasks-instruct": Builtin("raycodellm.tasks:training_examples", instruct=True, num_examples=2_000),
}
PROBED = 200
"""Examples that identify the version of a generator. To make all of them would take over a second at each start."""


def list_builtin(source: Source, seed: int) -> SourceInputs:
    """The inputs of a builtin source. Raises UserError for an unknown name or a kind that does not fit."""
    name = source.path.removeprefix(BUILTIN) if isinstance(source.path, str) else ""
    if name not in BUILTINS:
        known = ", ".join(f"{BUILTIN}{known}" for known in BUILTINS)
        raise UserError(f"{source.path}: no such builtin source; use one of {known}, each as a source of its own")
    builtin = BUILTINS[name]
    if source.is_instruct and not builtin.instruct:
        raise UserError(f"{source.path}: has no prompts and responses; use kind text or code instead of {source.kind}")
    seed = seed if builtin.num_examples else 0
    if builtin.digest:
        identity, num_bytes = _function(builtin.digest)(), builtin.num_bytes
    else:
        rows = list(_function(builtin.documents)(seed=seed, num_examples=PROBED))
        probed_bytes = sum(len(text.encode()) for row in rows for text in row)
        num_bytes = probed_bytes * (builtin.num_examples or 0) // len(rows)
        identity = fingerprint([builtin.num_examples, rows])
    known_by = {**reading_identity(source, None, ()), "builtin": name, "content": identity, "seed": seed}
    file = InputFile(f"{BUILTIN}{name}", num_bytes, identity, name)
    return SourceInputs(fingerprint(known_by), (file,), num_bytes, "builtin", seed)


def builtin_documents(source: Source, inputs: SourceInputs) -> tuple[Document, ...]:
    """All documents of a builtin source; pairs as one text if the source's kind is no instruction data."""
    name = inputs.files[0].name
    width = 3 if BUILTINS[name].instruct else 2
    rows = enumerate(_rows(name, inputs.seed))
    named = (row if len(row) == width else (f"{name}:{number}", *row) for number, row in rows)
    documents = (Document(row[0], row[1], row[2] if width == 3 else None) for row in named)
    if source.is_instruct:
        return tuple(documents)
    return tuple(Document(document.id, document.content) for document in documents)


def builtin_digest(inputs: SourceInputs) -> str:
    """16 hex digits of the documents that a builtin source gives on this machine; empty for any other source."""
    return content_digest(_rows(inputs.files[0].name, inputs.seed)) if inputs.is_builtin else ""


@lru_cache(maxsize=8)
def _rows(name: str, seed: int) -> tuple[tuple[str, ...], ...]:
    """The rows that the corpus's function yields. Kept in memory, since parsing Python's library takes two seconds."""
    builtin = BUILTINS[name]
    arguments = {"seed": seed, "num_examples": builtin.num_examples} if builtin.num_examples else {}
    return tuple(_function(builtin.documents)(**arguments))


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
