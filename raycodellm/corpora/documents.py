"""Documents, skips, and the columns of a record that become the text of a document."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from raycodellm.config import Source


class Document(NamedTuple):
    """One text to train on, or one example of instruction data."""

    id: str
    """Name of the file inside the source, and the place in the file."""
    text: str
    """The prompt, for instruction data."""
    response: str | None = None
    meta: Mapping[str, Any] | None = None
    """Values of the columns that the source's settings name (`extra_columns`); `path` for a file of a source tree."""
    notes: tuple[str, ...] = ()
    """Reasons why parts of the record are not in the document. Each note is counted as a `Skip`."""

    @property
    def content(self) -> str:
        """Text, or prompt and response together."""
        return self.text + (self.response or "")


@dataclass(frozen=True, slots=True)
class Skip:
    """A record, file or part of a record that gave no text; counted by reason."""

    reason: str
    count: int = 1
    num_bytes: int = 0
    """UTF-8 bytes of the text that was left out; 0 if no text was read."""


class SkipError(Exception):
    """A record is no document. The message is the reason that is counted."""


Record = tuple[str, Any]
"""(place within the file, the record: a mapping, bytes, text or SkipError)"""


def document_key(seed: int, document: Document) -> bytes:
    """16 bytes that order documents at random by their content, however they were read."""
    return content_digest(document, f"{seed}\n{document.id}\n")


def content_digest(document: Document, prefix: str = "") -> bytes:
    """16 bytes that change with any character of the text or the response, or of a text before both."""
    digest = hashlib.blake2b((prefix + document.text).encode(), digest_size=16)
    if document.response is not None:
        digest.update(b"\0" + document.response.encode())
    return digest.digest()


def extra_columns(source: Source) -> tuple[str, ...]:
    """Columns beside the text that the source's settings name; `Document.meta` has their values, None if missing."""
    columns = (source.score_field, source.license_field)
    return tuple(dict.fromkeys(column for column in columns if column))


def column_text(record: Mapping[str, Any], column: str) -> str:
    """Text of a record's column. Raises SkipError if the column is missing, null, no text or no UTF-8."""
    if column not in record:
        raise SkipError(f"no column {column!r}")
    value = record[column]
    if isinstance(value, str):
        return value
    if value is None:
        raise SkipError("null")
    if isinstance(value, bytes):
        return decode(value)
    raise SkipError(f"column {column!r} is not text")


def decode(data: bytes) -> str:
    """The text of UTF-8 bytes, without a byte order mark. Raises SkipError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SkipError("undecodable bytes") from None


def check_text(text: str) -> str:
    """The text itself. Raises SkipError if the text is empty or UTF-8 cannot hold it."""
    if not text or text.isspace():
        raise SkipError("empty")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say and UTF-8 cannot
            raise SkipError("undecodable bytes") from None
    return text
