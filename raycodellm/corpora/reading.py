"""Files become documents: pure, streaming, and the same documents however the files were cut into parts.

Every record becomes a document or a `Skip` with its reason, so that no loss is silent.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from raycodellm.config import Source
from raycodellm.corpora.content import is_failure
from raycodellm.corpora.documents import Document, Skip, SkipError, check_text, decode, extra_columns
from raycodellm.corpora.inputs import MIB, Part, SourceInputs
from raycodellm.corpora.listing.builtin import builtin_documents
from raycodellm.corpora.registry import known_format, row_reader

READ_BYTES = 32 * MIB
"""Bytes of files per part, at most: larger files are cut."""


def read_in_process(source: Source, inputs: SourceInputs) -> Iterator[Document | Skip]:
    """All documents and skips of a source, in order, read in this process.

    For kinds that are no instruction data, prompt and response are one text.
    """
    if inputs.is_builtin:
        yield from builtin_documents(source, inputs)
        return
    yield from itertools.starmap(Skip, inputs.excluded)
    for part in plan_parts(source, inputs, READ_BYTES):
        yield from read_part(part, source, inputs.format)


def plan_parts(source: Source, inputs: SourceInputs, part_bytes: int) -> Iterator[Part]:
    """All files, cut into parts of `part_bytes` if the format allows that."""
    format = known_format(inputs.format)
    for file in inputs.files:
        num_bytes = max(file.num_bytes, 1)
        step = num_bytes if format.is_read_whole(file.uri) else format.part_bytes(source, num_bytes, part_bytes)
        for start in range(0, num_bytes, step):
            yield file.part(start, min(start + step, num_bytes))


def read_part(part: Part, source: Source, format_name: str) -> Iterator[Document | Skip]:
    """The documents that begin in the part, in order, and skips. Ids name the file and the place in the file.

    A damaged file gives the documents before the damage and a skip. Raises OSError if the storage fails, and
    RuntimeError if the file has changed since it was listed.
    """
    format, to_document = known_format(format_name), _document_maker(source)
    assert format.read, format_name
    num_records = 0
    try:
        for place, record in format.read(part, source):
            num_records += 1
            try:
                document = to_document(f"{part.name}{place}", record)
            except SkipError as skip:
                yield Skip(str(skip))
                continue
            if format.is_file_tree:
                document = document._replace(meta={"path": part.name})
            yield document._replace(notes=()) if document.notes else document
            yield from map(Skip, document.notes)
    except SkipError as skip:
        yield Skip(str(skip))
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        if is_failure(error, part):
            raise
        if part.start == 0:  # a file that cannot be opened is counted once, however many parts it was cut into
            yield Skip("unreadable file")
        elif num_records:
            yield Skip("unreadable part of a file")


def _document_maker(source: Source) -> Callable[[str, Any], Document]:
    """A function of document id and record that returns the document; raises SkipError if the record is none."""
    rows, extra = row_reader(source), extra_columns(source)

    def to_document(name: str, record: Any) -> Document:
        if isinstance(record, dict):
            document = rows.to_document(source, name, record)
            return document._replace(meta={column: record.get(column) for column in extra}) if extra else document
        if isinstance(record, bytes):
            return Document(name, check_text(decode(record)))
        if isinstance(record, str):
            return Document(name, check_text(record))
        raise record if isinstance(record, SkipError) else SkipError(rows.not_an_object)

    return to_document


def columns_found(source: Source, inputs: SourceInputs) -> str:
    """Names of the columns in the first file that can be read, for the message about a wrong `text_field`."""
    columns = None if inputs.is_builtin else known_format(inputs.format).columns
    if columns is None:
        return "none"
    for part in plan_parts(source, inputs, READ_BYTES):
        try:
            return ", ".join(columns(part, source))
        except (SkipError, OSError, ValueError, EOFError, pa.ArrowException):
            continue  # the same message counts this file as unreadable
    return "none"
