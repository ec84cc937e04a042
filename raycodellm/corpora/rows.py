"""Rows become documents: what the columns of a row mean, unless a format such as `instruct` says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raycodellm.config import Source
from raycodellm.corpora.documents import Document, SkipError, check_text, column_text, extra_columns

ToDocument = Callable[[str, Mapping[str, Any]], Document]
"""(document id, row) to document; raises SkipError."""


@dataclass(frozen=True)
class RowReader:
    """How the rows of Parquet, Arrow and JSON files become documents."""

    document_maker: Callable[[Source], ToDocument]
    """How the rows of a source become documents."""
    columns: Callable[[Source], frozenset[str] | None]
    """Columns that are read; None for all of them."""
    reads_other_text: bool = False
    """True if all other columns that hold text are read too: the unused ones are counted."""
    not_an_object: str = "not an object"
    """Reason that is counted for a record that is no row."""
    needs: str = ""
    """Content that a row must have, to be named when files without rows are refused; empty if these are fine too."""
    identity: Callable[[Source], Mapping[str, Any]] = field(default=lambda source: {})
    """Settings that change the documents, for the store's identity; with a version once the reader has changed."""


def _text_fields(source: Source) -> tuple[str, ...]:
    return (source.text_field,) if isinstance(source.text_field, str) else source.text_field


def _document_maker(source: Source) -> ToDocument:
    fields = _text_fields(source)

    def from_column(name: str, row: Mapping[str, Any]) -> Document:
        return Document(name, check_text(column_text(row, fields[0])))

    def from_columns(name: str, row: Mapping[str, Any]) -> Document:
        nulls = [field for field in fields if field in row and row[field] is None]
        texts = [column_text(row, field) for field in fields if field not in nulls]
        if not texts:
            raise SkipError(f"null in all of {', '.join(map(repr, fields))}")
        notes = tuple(f"null in column {field!r}, the others kept" for field in nulls)
        return Document(name, check_text("\n".join(texts)), notes=notes)

    return from_column if len(fields) == 1 else from_columns


def _identity(source: Source) -> dict[str, Any]:
    is_single = isinstance(source.text_field, str)
    return {"text_field": source.text_field, **({} if is_single else {"nulls": 2})}


TEXT_ROWS = RowReader(
    _document_maker,
    columns=lambda source: frozenset({*extra_columns(source), *_text_fields(source)}),
    identity=_identity,
)
"""The text of a row is in the columns `text_field`."""
