"""Trees of source code: a document is a file of the source's languages.

Left out and counted: version-control, cache and other hidden folders (one count per folder); vendored code; lock files;
generated, minified and binary files; files over 1 MiB; files with a line over 10,000 bytes; files of other languages.
"""

from __future__ import annotations

from collections.abc import Iterator

from raycodellm.config import Source
from raycodellm.corpora import source_files
from raycodellm.corpora.content import open_part
from raycodellm.corpora.documents import Record, SkipError
from raycodellm.corpora.formats.notebook import read_notebook
from raycodellm.corpora.inputs import MIB, Part, extension
from raycodellm.corpora.registry import Format

LARGEST_FILE = 1 * MIB


def read_source(part: Part, source: Source) -> Iterator[Record]:
    """One file; a notebook is read as the format `notebook` reads it."""
    if part.name.lower().endswith(".ipynb"):
        yield from read_notebook(part, source)
        return
    source_files.check_name(part.name)
    if part.num_bytes > LARGEST_FILE:
        raise SkipError(f"source file over {LARGEST_FILE // MIB} MiB")
    with open_part(part) as file:
        data = file.read()
    source_files.check_content(part.name, data)
    yield "", data.replace(b"\r\n", b"\n")


def _is_guessed(source: Source, name: str) -> bool:
    is_adjacent = source.kind == "code_adjacent" and extension(name) in (".json", ".txt")
    return is_adjacent or source_files.is_chosen(source, name)


def _reason_to_exclude(source: Source, name: str) -> str | None:
    if not source_files.is_chosen(source, name):
        return "file of another language"
    return "vendored" if source_files.is_vendored(name) else None


FORMAT = Format(
    name="source",
    settings=frozenset({"languages"}),
    is_guessed=_is_guessed,
    reason_to_exclude=_reason_to_exclude,
    known_names=source_files.known_names,
    is_file_tree=True,
    read=read_source,
    can_start_inside=lambda uri: False,
    identity=source_files.identity(reader=2),
)
