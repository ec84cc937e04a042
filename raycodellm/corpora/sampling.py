"""Samples of sources: texts to train a tokenizer on, the mean size of a document, and the size of the text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import partial

from raycodellm.config import Source
from raycodellm.corpora.documents import Document, document_key
from raycodellm.corpora.inputs import SourceInputs, compression
from raycodellm.corpora.listing.builtin import builtin_documents
from raycodellm.corpora.reading import READ_BYTES, plan_parts, read_part
from raycodellm.corpora.registry import known_format

_PACKED_TEXT = 4.0
"""About the bytes of text in a byte of a packed file."""


def sample_texts(
    sources: Iterable[tuple[Source, SourceInputs]], num_bytes: int, seed: int, chunk_bytes: int = 128 << 10
) -> Iterator[str]:
    """About `num_bytes` of UTF-8 text, an equal share of each source; a small source gives all it has, the others more.

    The texts come from ranges all over the files, in an order given by the seed. A prompt and its response are one
    text.
    """
    remaining_bytes = num_bytes
    by_size = sorted(sources, key=lambda item: (item[1].num_bytes, item[1].fingerprint))
    for rank, (source, inputs) in enumerate(by_size):
        budget = remaining_bytes // (len(by_size) - rank)
        for document in _draw_documents(source, inputs, budget, seed, chunk_bytes):
            data = document.content.encode()
            text = data[:budget].decode(errors="ignore")
            yield text
            remaining_bytes -= len(text.encode())
            budget -= len(data)
            if budget < 0:
                break


def document_bytes(source: Source, inputs: SourceInputs) -> float:
    """Mean UTF-8 bytes of a document, from a few hundred documents; 0 if none can be read."""
    documents = itertools.islice(_draw_documents(source, inputs, 1 << 16, 0, 1 << 16), 300)
    sizes = [len(document.content.encode()) for document in documents]
    return sum(sizes) / max(1, len(sizes))


def text_bytes(inputs: SourceInputs) -> int:
    """About the bytes of text in the files of a source."""
    per_byte = 1.0 if inputs.is_builtin else known_format(inputs.format).text_per_byte
    return sum(int(file.num_bytes * (_PACKED_TEXT if compression(file.uri) else per_byte)) for file in inputs.files)


def _draw_documents(
    source: Source, inputs: SourceInputs, budget: int, seed: int, chunk_bytes: int
) -> Iterator[Document]:
    """Documents of small parts of the files, in an order given by the seed."""
    if inputs.is_builtin:
        yield from sorted(builtin_documents(source, inputs), key=partial(document_key, seed))
        return
    format = known_format(inputs.format)
    size = format.smallest_sample or max(chunk_bytes, inputs.num_bytes // 4096)
    parts = [
        part._replace(start=start, stop=min(start + size, part.stop))
        for part in plan_parts(source, inputs, READ_BYTES)
        for start in range(part.start, part.stop, part.stop if format.is_read_whole(part.uri) else size)
    ]
    bytes_per_part = max(2 * chunk_bytes, 4 * budget // len(parts))
    parts.sort(key=lambda part: document_key(seed, Document(f"{part.name}:{part.start}", "")))
    for part in parts:
        rows = (row for row in read_part(part, source, inputs.format) if isinstance(row, Document))
        yield from sorted(_first_documents(rows, bytes_per_part), key=partial(document_key, seed))


def _first_documents(documents: Iterable[Document], num_bytes: int) -> Iterator[Document]:
    """The first documents, until they have `num_bytes` characters."""
    for document in documents:
        yield document
        num_bytes -= len(document.content)
        if num_bytes <= 0:
            return
