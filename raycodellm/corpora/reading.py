"""Byte ranges of files become documents: pure, streaming, and the same however a file was cut into ranges.

Nothing is lost silently: whatever is not turned into a document becomes a `Skip` with its reason.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from raycodellm.config import Source
from raycodellm.corpora.columns import arrow_columns, read_arrow, read_parquet
from raycodellm.corpora.commits import read_commits
from raycodellm.corpora.finding import BUILTINS, SourceInputs, builtin_rows
from raycodellm.corpora.lines import (
    LARGEST_TEXT,
    MIB,
    WINDOW_BYTES,
    Part,
    compression,
    open_part,
    read_jsonl,
    read_notebook,
    read_source,
    read_text,
)
from raycodellm.corpora.records import (
    Document,
    Record,
    Skip,
    SkipError,
    document_key,
    document_maker,
    extra_columns,
)

__all__ = [
    "MIB",
    "Document",
    "Part",
    "Skip",
    "builtin_documents",
    "columns_found",
    "document_key",
    "extra_columns",
    "is_read_whole",
    "plan_parts",
    "read_part",
]


def builtin_documents(name: str, seed: int) -> tuple[Document, ...]:
    """All documents of a builtin source, as pairs where it has pairs."""
    width = 3 if BUILTINS[name].instruct else 2
    rows = enumerate(builtin_rows(name, seed))
    return tuple(Document(*(row if len(row) == width else (f"{name}:{number}", *row))) for number, row in rows)


def plan_parts(source: Source, inputs: SourceInputs, part_bytes: int) -> Iterator[Part]:
    """All files, cut into byte ranges of `part_bytes` where the format allows; the same documents for any cut."""
    whole_text = inputs.format == "text" and source.documents == "file"
    for file in inputs.files:
        whole = is_read_whole(file.uri, inputs.format) or (whole_text and file.num_bytes <= LARGEST_TEXT)
        step = max(file.num_bytes, 1) if whole else WINDOW_BYTES if whole_text else part_bytes
        for start in range(0, max(file.num_bytes, 1), step):
            yield Part(file.uri, file.name, file.num_bytes, start, min(start + step, max(file.num_bytes, 1)))


def is_read_whole(uri: str, format: str) -> bool:
    """A compressed file has no place to start but its beginning, nor has a remote Arrow stream; source code and
    notebooks are one document."""
    return format in ("source", "notebook") or (format == "arrow" and "://" in uri) or compression(uri) is not None


def read_part(part: Part, source: Source, format: str) -> Iterator[Document | Skip]:
    """The documents that begin in the part, in order, and what could not be read. Ids name the file and the place.

    A damaged file gives what stands before the damage and a skip. Raises OSError when storage fails and RuntimeError
    when the file is not the one that was listed.
    """
    make, with_path = document_maker(source), format == "source"
    try:
        for place, record in _READERS[format](part, source):
            try:
                if isinstance(record, SkipError):
                    raise record
                document = make(f"{part.name}{place}", record)
            except SkipError as skip:
                yield Skip(str(skip))
            else:
                notes, document = document.notes, document._replace(notes=())
                yield document._replace(meta={"path": part.name}) if with_path else document
                yield from map(Skip, notes)
    except (OSError, ValueError, EOFError) as error:
        if _is_failure(error, part):
            raise
        if part.start == 0:  # once per file, however many parts it was cut into
            yield Skip("unreadable file")


def _is_failure(error: Exception, part: Part) -> bool:
    """Damage has no error number; a failing disk or network has one, or is remote, and must stop the run."""
    if not isinstance(error, OSError) or isinstance(error, PermissionError):
        return False
    return error.errno is not None or ("://" in part.uri and not _DAMAGE.search(str(error)))


_DAMAGE = re.compile(
    r"(zlib|ZSTD|bz2) .*failed|Truncated compressed stream|[Ii]nvalid (flatbuffers|IPC)|Expected to read"
)
"""What pyarrow says of damaged data with the error class of storage."""
_Reader = Callable[[Part, Source], Iterator[Record]]
_READERS: dict[str, _Reader] = {
    "jsonl": read_jsonl,
    "parquet": partial(read_parquet, is_failure=_is_failure),
    "arrow": read_arrow,
    "text": read_text,
    "source": read_source,
    "notebook": read_notebook,
    "commits": read_commits,
}


def columns_found(source: Source, inputs: SourceInputs) -> str:
    """Names of the columns in the first file that can be read, for the message about a wrong `text_field`."""
    for part in plan_parts(source, inputs, WINDOW_BYTES):
        try:
            return _columns_of(part, source, inputs.format)
        except (OSError, ValueError, EOFError):
            continue  # this file is counted as unreadable in the same message
    return "none"


def _columns_of(part: Part, source: Source, format: str) -> str:
    if format == "parquet":
        import pyarrow.parquet as pq

        with open_part(part) as file:
            return ", ".join(pq.ParquetFile(file).schema_arrow.names)
    if format == "arrow":
        return ", ".join(arrow_columns(part))
    names: dict[str, None] = {}
    for _, record in itertools.islice(read_jsonl(part, source), 10):
        names.update(dict.fromkeys(record if isinstance(record, Mapping) else ()))
    return ", ".join(names)
