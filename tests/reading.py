"""Helpers of the tests of readers: write a file, and read a source as a run does, however its files are cut."""

from __future__ import annotations

import json
from collections import Counter
from itertools import starmap
from pathlib import Path

from raycodellm.config import Source
from raycodellm.corpora import Document, Skip, plan_parts, read_in_process, read_part, source_fingerprint


def read(source: Source, part_bytes: int | None = None) -> tuple[list[Document], Counter]:
    """(documents, number of skips by reason); with `part_bytes` from parts of that size."""
    inputs = source_fingerprint(source)
    if part_bytes is None:
        rows = list(read_in_process(source, inputs))
    else:
        rows = list(starmap(Skip, inputs.excluded))
        for part in plan_parts(source, inputs, part_bytes):
            rows += read_part(part, source, inputs.format)
    skips: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, Skip):
            skips[row.reason] += row.count
    return [row for row in rows if isinstance(row, Document)], skips


def texts(path: Path | str, **fields: object) -> list[str]:
    """The text of each document; `fields` are settings of the source."""
    return [document.text for document in read(Source(**{"kind": "text", "path": str(path), **fields}))[0]]


def write(path: Path, content: object) -> str:
    """Writes text, bytes, or any other value as JSON; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, (str, bytes)):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)
