"""One record (a row, a JSON object, a file's bytes) becomes one document, or a reason why not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from raycodellm.config import Source
from raycodellm.corpora.finding import reads_pairs
from raycodellm.corpora.pairs import COLUMNS, NoPairError, pair_of, spoken
from raycodellm.corpora.qa_threads import NoQuestionError, question_and_answers, question_document


class Document(NamedTuple):
    id: str
    text: str
    """The prompt, for instruction data."""
    response: str | None = None
    meta: Mapping[str, Any] | None = None
    """Other columns of the record, which the source's settings ask for (`extra_columns`); of source code, `path`."""
    notes: tuple[str, ...] = ()
    """Parts of the record that are not in the document; each is counted as a `Skip`."""

    @property
    def content(self) -> str:
        return self.text + (self.response or "")


class Skip(NamedTuple):
    """Something that gave no document, or not the one it might have; counted by reason."""

    reason: str
    count: int = 1
    num_bytes: int = 0
    """UTF-8 bytes of the text that was left out, where it was there."""


class SkipError(Exception):
    """A record is no document; the argument is the reason that is counted."""


Record = tuple[str, Any]
"""(place within the file, the record: mapping, bytes, text or SkipError)"""
Make = Callable[[str, Any], Document]
"""(document id, record) to document; raises SkipError."""


def document_key(seed: int, document: Document) -> bytes:
    """16 bytes that order documents at random, by what they are: the same however they were read."""
    digest = hashlib.blake2b(f"{seed}\n{document.id}\n".encode(), digest_size=16)
    digest.update(document.text.encode())
    if document.response is not None:
        digest.update(b"\0" + document.response.encode())
    return digest.digest()


def extra_columns(source: Source) -> tuple[str, ...]:
    """Columns beside the text that the source's settings name; `Document.meta` has their values, JSONL and Parquet.

    A record without such a column has None there.
    """
    named = (getattr(source, setting, None) for setting in ("score_field", "license_field"))
    return tuple(dict.fromkeys(column for column in named if column))


def text_fields(source: Source) -> tuple[str, ...]:
    return (source.text_field,) if isinstance(source.text_field, str) else source.text_field


def wanted_columns(source: Source) -> frozenset[str] | None:
    """Columns that can matter for this source; None for all of them."""
    if source.format == "qa":
        return None
    extra = frozenset(extra_columns(source))
    if not reads_pairs(source):
        return extra.union(text_fields(source))
    return extra.union(COLUMNS)


def document_maker(source: Source) -> Make:
    """How this source's records become documents."""
    if source.format == "qa":
        convert = _qa_pair if source.is_instruct else _qa_document
    else:
        convert = _pair_document if reads_pairs(source) else _plain_document
    fields, extra = text_fields(source), extra_columns(source)

    def make(name: str, record: Any) -> Document:
        if isinstance(record, dict):
            document = convert(name, record, source, fields)
            return document._replace(meta={column: record.get(column) for column in extra}) if extra else document
        if isinstance(record, bytes):
            return Document(name, check_text(decode(record)))
        if isinstance(record, str):
            return Document(name, check_text(record))
        raise SkipError("no prompt and response" if convert is _pair_document else "not an object")

    return make


def _plain_document(name: str, record: Mapping[str, Any], source: Source, fields: Sequence[str]) -> Document:
    if len(fields) == 1:
        return Document(name, check_text(_column(record, fields[0])))
    texts = [_column(record, field) for field in fields if field not in record or record[field] is not None]
    if not texts:
        raise SkipError(f"null in all of {', '.join(map(repr, fields))}")
    nulls = (field for field in fields if field in record and record[field] is None)
    notes = tuple(f"null in column {field!r}, the others kept" for field in nulls)
    return Document(name, check_text("\n".join(texts)), notes=notes)


def _pair_document(name: str, record: Mapping[str, Any], source: Source, fields: Sequence[str]) -> Document:
    try:
        prompt, response, notes = pair_of(record, _column, extra_columns(source))
    except NoPairError as error:
        raise SkipError(str(error)) from None
    return _finish_pair(name, prompt, response, source, notes)


def _qa_document(name: str, record: Mapping[str, Any], source: Source, fields: Sequence[str]) -> Document:
    try:
        return Document(name, check_text(question_document(record)))
    except NoQuestionError as error:
        raise SkipError(str(error)) from None


def _qa_pair(name: str, record: Mapping[str, Any], source: Source, fields: Sequence[str]) -> Document:
    """For instruct kinds: the question and its best answer."""
    try:
        question, answers = question_and_answers(record)
    except NoQuestionError as error:
        raise SkipError(str(error)) from None
    return _finish_pair(name, f"User:{spoken(question)}\nAssistant:", answers[0], source)


def _finish_pair(name: str, prompt: str, response: str, source: Source, notes: tuple[str, ...] = ()) -> Document:
    check_text(response)
    if prompt and not prompt[-1].isspace() and not response[0].isspace():
        response = " " + response
    document = Document(name, check_text(prompt), response, notes=notes)
    return document if source.is_instruct else Document(name, document.content, notes=notes)


def _column(record: Mapping[str, Any], field: str) -> str:
    if field not in record:
        raise SkipError(f"no column {field!r}")
    value = record[field]
    if isinstance(value, str):
        return value
    if value is None:
        raise SkipError("null")
    if isinstance(value, bytes):
        return decode(value)
    raise SkipError(f"column {field!r} is not text")


def decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SkipError("undecodable bytes") from None


def check_text(text: str) -> str:
    if not text or text.isspace():
        raise SkipError("empty")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say and UTF-8 cannot
            raise SkipError("undecodable bytes") from None
    return text
