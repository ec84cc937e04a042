"""Byte ranges of files become documents: pure, streaming, and the same however a file was cut into ranges.

Nothing is lost silently: whatever is not turned into a document becomes a `Skip` with its reason.

Instruction data, as plain text: rows of `prompt` and `completion` (or `response`) are taken as they stand, with one
space between them where neither side has white space. `instruction`/`input`/`output`, `question`/`answer`
and `messages` are written as turns, which the tokenizer's chat template writes alike:

    System: …
    User: …
    Assistant: …
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raycodellm.config import Source
from raycodellm.corpora.finding import BUILTINS, COMPRESSIONS, SourceInputs, builtin_rows, open_bucket, reads_pairs

if TYPE_CHECKING:
    import pyarrow as pa

MIB = 1 << 20
WINDOW_BYTES = 16 * MIB
"""A longer plain text file becomes one document per window of this size, cut at line ends."""
LONGEST_LINE = 64 * MIB
LARGEST_SOURCE_FILE = MIB


class Part(NamedTuple):
    """A byte range of a file: whatever begins in it belongs to it."""

    uri: str
    name: str
    num_bytes: int
    start: int
    stop: int


class Document(NamedTuple):
    id: str
    text: str
    """The prompt, for instruction data."""
    response: str | None = None

    @property
    def content(self) -> str:
        return self.text + (self.response or "")


class Skip(NamedTuple):
    reason: str
    count: int = 1


class _SkipError(Exception):
    """A record is no document; the argument is the reason that is counted."""


def document_key(seed: int, document: Document) -> bytes:
    """16 bytes that order documents at random, by what they are: the same however they were read."""
    digest = hashlib.blake2b(f"{seed}\n{document.id}\n".encode(), digest_size=16)
    digest.update(document.text.encode())
    if document.response is not None:
        digest.update(b"\0" + document.response.encode())
    return digest.digest()


def builtin_documents(name: str, seed: int) -> tuple[Document, ...]:
    """All documents of a builtin source, as pairs where it has pairs."""
    width = 3 if BUILTINS[name].instruct else 2
    rows = enumerate(builtin_rows(name, seed))
    return tuple(Document(*(row if len(row) == width else (f"{name}:{number}", *row))) for number, row in rows)


def plan_parts(source: Source, inputs: SourceInputs, part_bytes: int) -> Iterator[Part]:
    """All files, cut into byte ranges of `part_bytes` where the format allows; the same documents for any cut."""
    whole_text = inputs.format == "text" and source.documents == "file"
    for file in inputs.files:
        whole = is_read_whole(file.uri, inputs.format)
        step = max(file.num_bytes, 1) if whole else WINDOW_BYTES if whole_text else part_bytes
        for start in range(0, max(file.num_bytes, 1), step):
            yield Part(file.uri, file.name, file.num_bytes, start, min(start + step, max(file.num_bytes, 1)))


def is_read_whole(uri: str, format: str) -> bool:
    """A compressed file has no place to start but its beginning, and source code is one document."""
    return format == "source" or _compression(uri) is not None


def read_part(part: Part, source: Source, format: str) -> Iterator[Document | Skip]:
    """The documents that begin in the part, in order, and what could not be read. Ids name the file and the place.

    A damaged local file gives what stands before the damage and a skip. Raises OSError when storage fails and
    RuntimeError when the file is not the one that was listed.
    """
    records = {"jsonl": _read_jsonl, "parquet": _read_parquet, "text": _read_text, "source": _read_source}[format]
    try:
        for place, record in records(part, source):
            try:
                if isinstance(record, _SkipError):
                    raise record
                yield _document(f"{part.name}{place}", record, source)
            except _SkipError as skip:
                yield Skip(str(skip))
    except (OSError, ValueError, EOFError) as error:
        if _is_failure(error, part):
            raise
        if part.start == 0:  # once per file, however many parts it was cut into
            yield Skip("unreadable file")


def _is_failure(error: Exception, part: Part) -> bool:
    """Damage has no error number; a failing disk or network has one, or is remote, and must stop the run."""
    if not isinstance(error, OSError) or isinstance(error, PermissionError):
        return False
    return error.errno is not None or "://" in part.uri


_Record = tuple[str, Any]
"""(place within the file, the record: mapping, text, bytes or _SkipError)"""


def _document(name: str, record: Any, source: Source) -> Document:
    if isinstance(record, Mapping):
        if reads_pairs(source):
            return _finish_pairs(name, *_pair(record), source)
        fields = (source.text_field,) if isinstance(source.text_field, str) else source.text_field
        return Document(name, _text("\n".join(_column(record, field) for field in fields)))
    if isinstance(record, bytes):
        return Document(name, _text(_decode(record)))
    raise _SkipError("not an object" if not reads_pairs(source) else "no prompt and response")


def _finish_pairs(name: str, prompt: str, response: str, source: Source) -> Document:
    _text(response)
    if prompt and not prompt[-1].isspace() and not response[0].isspace():
        response = " " + response
    document = Document(name, _text(prompt), response)
    return document if source.is_instruct else Document(name, document.content)


def _column(record: Mapping[str, Any], field: str) -> str:
    if field not in record:
        raise _SkipError(f"no column {field!r}")
    value = record[field]
    if value is None:
        raise _SkipError("null")
    if isinstance(value, bytes):
        return _decode(value)
    if not isinstance(value, str):
        raise _SkipError(f"column {field!r} is not text")
    return value


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _SkipError("undecodable bytes") from None


def _text(text: str) -> str:
    if not text.strip():
        raise _SkipError("empty")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say and UTF-8 cannot
        raise _SkipError("undecodable bytes") from None
    return text


_PAIRS = (("prompt", "completion"), ("prompt", "response"))
_TURNS = (("instruction", "output"), ("instruction", "response"), ("question", "answer"))
_SPEAKERS = {"system": "System", "user": "User", "human": "User", "assistant": "Assistant", "gpt": "Assistant"}


def _pair(record: Mapping[str, Any]) -> tuple[str, str]:
    """(prompt, response) of a record of instruction data; see the head of this module."""
    for prompt, response in _PAIRS:
        if prompt in record and response in record:
            return _column(record, prompt), _column(record, response)
    for request, response in _TURNS:
        if request in record and response in record:
            text = _column(record, request)
            if record.get("input"):
                text += "\n" + _column(record, "input")
            return f"User: {text}\nAssistant:", " " + _column(record, response).lstrip()
    turns = record.get("messages") or record.get("conversations")
    if isinstance(turns, (list, tuple)):
        return _conversation(turns)
    raise _SkipError("no prompt and response")


def _conversation(turns: Sequence[Any]) -> tuple[str, str]:
    """The last assistant turn is the response, everything before it the prompt."""
    said = []
    for turn in turns:
        turn = turn if isinstance(turn, Mapping) else {}
        speaker = _SPEAKERS.get(str(turn.get("role", turn.get("from"))))
        content = turn.get("content", turn.get("value"))
        if speaker is None or not isinstance(content, str):
            raise _SkipError("messages without role and content")
        said.append((speaker, content.strip()))
    while said and said[-1][0] != "Assistant":
        said.pop()
    if len(said) < 2:
        raise _SkipError("messages without an answer")
    prompt = "".join(f"{speaker}: {content}\n" for speaker, content in said[:-1])
    return prompt + "Assistant:", " " + said[-1][1]


def _compression(uri: str) -> str | None:
    return COMPRESSIONS.get(os.path.splitext(uri.lower())[1])


def _open(part: Part) -> pa.NativeFile:
    import pyarrow as pa

    if "://" in part.uri:
        filesystem, path = open_bucket(part.uri)
        file = filesystem.open_input_file(path)
    else:
        file = pa.OSFile(os.fsencode(part.uri))
    if file.size() != part.num_bytes:
        raise RuntimeError(f"{part.uri}: has {file.size()} bytes, had {part.num_bytes} when listed: changed while read")
    return file


def _lines(part: Part) -> Iterator[tuple[int, bytes]]:
    """(place, line without its end) of the lines that begin in the part, and of those after it: the caller stops.

    Memory is bounded by `LONGEST_LINE`; a longer line comes as `_TOO_LONG`.
    """
    import pyarrow as pa

    with _open(part) as file:
        compression = _compression(part.uri)
        stream = pa.CompressedInputStream(file, compression) if compression else file
        place, skipping = part.start, part.start > 0
        if skipping:  # from one byte earlier: what is left of the line before ends the first line read, and is dropped
            place -= 1
            file.seek(place)
        rest, too_long = b"", False
        while chunk := stream.read(min(MIB, part.stop - part.start + 4096)):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if not skipping:
                    yield place, _TOO_LONG if too_long else line
                place += len(line) + 1
                skipping = too_long = False
            if len(rest) > LONGEST_LINE:
                place, rest, too_long = place + len(rest), b"", True
        if (rest or too_long) and not skipping:
            yield place, _TOO_LONG if too_long else rest


_TOO_LONG = b"\xff line too long"


def _own_lines(part: Part) -> Iterator[tuple[int, bytes]]:
    everything = _compression(part.uri) is not None
    for place, line in _lines(part):
        if place >= part.stop and not everything:
            return
        yield place, line


def _read_jsonl(part: Part, source: Source) -> Iterator[_Record]:
    for place, line in _own_lines(part):
        if line is _TOO_LONG:
            yield f":{place}", _SkipError(f"line over {LONGEST_LINE // MIB} MiB")
        elif line.strip():
            try:
                yield f":{place}", json.loads(_decode(line))
            except _SkipError as skip:
                yield f":{place}", skip
            except (ValueError, RecursionError):
                yield f":{place}", _SkipError("broken JSON")


def _read_text(part: Part, source: Source) -> Iterator[_Record]:
    whole = part.num_bytes <= WINDOW_BYTES and source.documents == "file" and not _compression(part.uri)
    for place, lines in _paragraphs(part) if source.documents == "paragraphs" else _windows(part):
        text = b"\n".join(line.removesuffix(b"\r") for line in lines)
        yield "" if whole else f":{place}", text.strip(b"\n")


def _windows(part: Part) -> Iterator[tuple[int, list[bytes]]]:
    """The lines that begin in each `WINDOW_BYTES` of the file."""
    if part.num_bytes == 0:
        yield 0, []
    for _, group in itertools.groupby(_own_lines(part), key=lambda item: item[0] // WINDOW_BYTES):
        places, lines = zip(*group, strict=True)
        yield places[0], list(lines)


def _paragraphs(part: Part) -> Iterator[tuple[int, list[bytes]]]:
    """Blocks between blank lines; a block belongs to the part in which the last blank line before it begins."""
    block: list[bytes] = []
    inside, began = part.start == 0, part.start
    for place, line in _lines(part):
        if line.strip():
            if inside:
                began = began if block else place
                block.append(line)
            continue
        if block:
            yield began, block
            block = []
        inside = True
        if place >= part.stop and not _compression(part.uri):
            return
    if block:
        yield began, block


def _read_source(part: Part, source: Source) -> Iterator[_Record]:
    if part.num_bytes > LARGEST_SOURCE_FILE:
        yield "", _SkipError(f"source file over {LARGEST_SOURCE_FILE // MIB} MiB")
        return
    with _open(part) as file:
        data = file.read()
    if b"\0" in data[:8192]:
        yield "", _SkipError("binary")
    elif _is_minified(part.name, data):
        yield "", _SkipError("minified")
    else:
        yield "", data.replace(b"\r\n", b"\n")


def _is_minified(name: str, data: bytes) -> bool:
    stem, extension = os.path.splitext(name.lower())
    if extension not in (".js", ".mjs", ".cjs", ".css"):
        return False
    return stem.endswith(".min") or len(data) > 500 * (data.count(b"\n") + 1)


def _read_parquet(part: Part, source: Source) -> Iterator[_Record]:
    """Row groups number k of n belong to the part that holds byte k/n of the file: known without the footer."""
    import pyarrow.parquet as pq

    with _open(part) as file:
        parquet = pq.ParquetFile(file)
        groups = parquet.num_row_groups
        wanted = _wanted_columns(source)
        columns = None if wanted is None else [name for name in parquet.schema_arrow.names if name in wanted]
        row = 0
        for group in range(groups):
            if part.start <= group * part.num_bytes // groups < part.stop:
                try:
                    yield from _group_rows(parquet, group, columns, row)
                except (OSError, ValueError) as error:
                    if _is_failure(error, part):
                        raise
                    yield f":{row}", _SkipError("unreadable row group")  # the next group may be sound
            row += parquet.metadata.row_group(group).num_rows


def _group_rows(parquet: Any, group: int, columns: list[str] | None, row: int) -> Iterator[_Record]:
    for batch in parquet.iter_batches(batch_size=512, row_groups=[group], columns=columns):
        records = batch.to_pylist() if batch.num_columns else [{}] * batch.num_rows
        for record in records:
            yield f":{row}", record
            row += 1


def _wanted_columns(source: Source) -> frozenset[str] | None:
    if not reads_pairs(source):
        return frozenset((source.text_field,) if isinstance(source.text_field, str) else source.text_field)
    pairs = {name for pair in _PAIRS + _TURNS for name in pair}
    return frozenset(pairs | {"input", "messages", "conversations"})


def columns_found(source: Source, inputs: SourceInputs) -> str:
    """Names of the columns in the first file, for the message about a wrong `text_field`."""
    part = next(plan_parts(source, inputs, WINDOW_BYTES))
    if inputs.format == "parquet":
        import pyarrow.parquet as pq

        with _open(part) as file:
            return ", ".join(pq.ParquetFile(file).schema_arrow.names)
    names: dict[str, None] = {}
    for _, record in itertools.islice(_read_jsonl(part, source), 10):
        names.update(dict.fromkeys(record if isinstance(record, Mapping) else ()))
    return ", ".join(names)
