"""JSON lines, and `.json` files that are one array: a record is a line or an element of the array."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping

import orjson

from raycodellm.config import Source
from raycodellm.corpora.content import own_lines, pieces
from raycodellm.corpora.documents import Record, SkipError, decode
from raycodellm.corpora.inputs import Part, extension
from raycodellm.corpora.json_arrays import array_values, is_array
from raycodellm.corpora.registry import Format


def read_jsonl(part: Part, source: Source) -> Iterator[Record]:
    if not is_array(part):
        for place, line in own_lines(part):
            if isinstance(line, SkipError):
                yield f":{place}", line
            elif line.strip():
                yield f":{place}", _parse(line)
    elif part.start == 0:
        for number, value in enumerate(array_values(pieces(part))):
            yield f":{number}", value


def _parse(data: bytes) -> object:
    """The value, or a SkipError with the reason why the bytes are no JSON."""
    try:
        return orjson.loads(data)  # 2.5 times as fast as json, which reads the few values that orjson refuses
    except ValueError:
        pass
    try:
        return json.loads(decode(data))
    except SkipError as skip:
        return skip
    except (ValueError, RecursionError):
        return SkipError("broken JSON")


def _columns(part: Part, source: Source) -> list[str]:
    """The columns of the first records."""
    records = (record for _, record in itertools.islice(read_jsonl(part, source), 10))
    return list(dict.fromkeys(name for record in records if isinstance(record, Mapping) for name in record))


FORMAT = Format(
    name="jsonl",
    extensions=frozenset({".jsonl", ".ndjson", ".json"}),
    tree_extensions=frozenset({".json"}),
    read=read_jsonl,
    columns=_columns,
    # Version 1 lost more of an array with a broken element.
    identity=lambda source, files: {"arrays": 2} if any(extension(file.name) == ".json" for file in files) else {},
)
