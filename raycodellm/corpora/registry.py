"""The formats of source files: one file of `formats/` each, whose `FORMAT` says all that the package knows of it."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from raycodellm.config import FORMATS, Source, UserError
from raycodellm.corpora.documents import Document, Record, SkipError, check_text, column_text, extra_columns
from raycodellm.corpora.inputs import InputFile, Part, compression, extension

OTHER_FORMAT = "file of another format"
FORMAT_SETTINGS = ("languages", "subset", "split")
"""Settings of a source that only some formats have."""
BUILTIN = "builtin:"
"""Begins the path of a source without files."""
DATA_SET_SETTINGS = frozenset({"subset", "split"})


@dataclass(frozen=True)
class RowReader:
    """Turns the rows of Parquet, Arrow and JSON files into documents."""

    to_document: Callable[[Source, str, Mapping[str, Any]], Document]
    """(source, document id, row) -> document; raises SkipError."""
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


def _text_document(source: Source, name: str, row: Mapping[str, Any]) -> Document:
    fields = _text_fields(source)
    if len(fields) == 1:
        return Document(name, check_text(column_text(row, fields[0])))
    nulls = [field for field in fields if field in row and row[field] is None]
    texts = [column_text(row, field) for field in fields if field not in nulls]
    if not texts:
        raise SkipError(f"null in all of {', '.join(map(repr, fields))}")
    notes = tuple(f"null in column {field!r}, the others kept" for field in nulls)
    return Document(name, check_text("\n".join(texts)), notes=notes)


TEXT_ROWS = RowReader(
    _text_document,
    columns=lambda source: frozenset({*extra_columns(source), *_text_fields(source)}),
    identity=lambda source: {
        "text_field": source.text_field,
        **({} if isinstance(source.text_field, str) else {"nulls": 2}),
    },
)
"""The text of a row is in the columns `text_field`."""


@dataclass(frozen=True)
class Format:
    """One format: how its files are recognised, cut into parts and read, and which settings a source of it may have.

    A format without `read` only says what the rows of a file mean (`instruct`, `qa`): its files are Parquet, Arrow or
    JSON, which are recognised by their names.
    """

    name: str
    """The value of `format` in the sweep file, and the name of the file in `formats/`."""
    settings: frozenset[str] = DATA_SET_SETTINGS
    """Those of `FORMAT_SETTINGS` that a source of this format may have."""

    # ---------------------------------------------------------------------------------------------- which files
    extensions: frozenset[str] = frozenset()
    """Extensions of the files in lower case, without that of a compression. Other files are left out and counted."""
    tree_extensions: frozenset[str] = frozenset()
    """Those of `extensions` that are read as source files, not as this format, if the kind is `code_adjacent`."""
    is_guessed: Callable[[Source, str], bool] | None = None
    """(source, file name) -> True if the file is taken as this format where the sweep file names no format; by default
    a file with one of `extensions`."""
    reason_to_exclude: Callable[[Source, str], str | None] | None = None
    """(source, file name) -> why the file is left out, or None; by default a file without one of `extensions` is."""
    takes_any_name: bool = False
    """True if all files are read when none has a known extension."""
    known_names: Callable[[Source], Sequence[str]] | None = None
    """The extensions and names of files, for the refusal of a folder without any; `extensions` by default."""
    list_inputs: Callable[[str, Counter[str]], Iterator[InputFile]] | None = None
    """(path, counts of what is left out) -> inputs, for a format whose inputs are no files."""
    is_data: bool = True
    """False if such files lie beside the data of a data set, as notebooks do."""
    is_file_tree: bool = False
    """True if each file is a document that is known by its path: `cleaning.paths` goes by the path, and folders that
    are not entered count as left out."""

    # ------------------------------------------------------------------------------------------- cutting, reading
    read: Callable[[Part, Source], Iterator[Record]] | None = None
    """The records that begin in the part, in order; the same records however the file was cut into parts. A broken
    record is yielded as SkipError; an exception ends the part."""
    can_start_inside: Callable[[str], bool] = field(default=lambda uri: True)
    """(uri) -> True if a part may begin in the middle of the file. In a packed file no part may."""
    part_bytes: Callable[[Source, int, int], int] = field(default=lambda source, file_bytes, part_bytes: part_bytes)
    """(source, bytes of the file, bytes per part that are asked for) -> bytes per part."""
    smallest_sample: int = 0
    """Bytes of the smallest part that a sample is drawn from."""
    text_per_byte: float = 1.0
    """About how many bytes of text a byte of a file holds."""
    columns: Callable[[Part, Source], Sequence[str]] | None = None
    """The column names of a part's file (SkipError if they cannot be read); None if this format has no rows."""
    rows: RowReader | None = None
    """Turns rows into documents, for a format without `read`."""
    identity: Callable[[Source, Sequence[InputFile]], Mapping[str, Any]] = field(default=lambda source, files: {})
    """Settings that change the documents, for the store's identity; with a version once the reader has changed."""

    def speaks_for(self, source: Source, name: str) -> bool:
        """True if the file's name speaks for this format."""
        if self.is_guessed:
            return self.is_guessed(source, name)
        is_adjacent = source.kind == "code_adjacent"
        return extension(name) in (self.extensions - self.tree_extensions if is_adjacent else self.extensions)

    def why_excluded(self, source: Source, name: str) -> str | None:
        """The reason why the file is not read; None if it is."""
        if self.reason_to_exclude:
            return self.reason_to_exclude(source, name)
        return None if extension(name) in self.extensions else OTHER_FORMAT

    def is_read_whole(self, uri: str) -> bool:
        return compression(uri) is not None or not self.can_start_inside(uri)


@lru_cache(maxsize=1)
def known_formats() -> Mapping[str, Format]:
    """Format by name."""
    return {name: importlib.import_module(f"raycodellm.corpora.formats.{name}").FORMAT for name in FORMATS}


def known_format(name: str) -> Format:
    return known_formats()[name]


def row_reader(source: Source) -> RowReader:
    """The reader of this source's rows."""
    reader = known_format(source.format).rows if source.format else None
    if reader is None and source.is_instruct:
        reader = known_format("instruct").rows
    return reader or TEXT_ROWS


def reading_identity(source: Source, format: Format | None, files: Sequence[InputFile]) -> dict[str, Any]:
    """The settings and versions that decide which documents the files give; `format` is None for a builtin source."""
    reader = row_reader(source)
    identity_parts: dict[str, Any] = {
        "format": format.name if format else "builtin",
        "limit": source.limit_documents,
        "instruct": source.is_instruct,
    }
    if (format and format.columns) or reader is not TEXT_ROWS:
        identity_parts |= reader.identity(source)
    if any(compression(file.name) or file.name.lower().endswith(".json") for file in files):
        identity_parts["pieces"] = 2  # version 1 lost packed files from before the damage on, and arrays as a whole
    return identity_parts | dict(format.identity(source, files) if format else {})


def named_format(source: Source) -> Format | None:
    """The format that the sweep file says; a source with `languages` is a source tree."""
    name = source.format or ("source" if source.languages else None)
    return known_format(name) if name else None


def check_settings(source: Source) -> None:
    """Raises UserError for a setting that does not go with the source's format."""
    declared = named_format(source)
    is_builtin = any(path.startswith(BUILTIN) for path in source.paths)
    for setting in FORMAT_SETTINGS:
        if getattr(source, setting) is None:
            continue
        if is_builtin and setting in DATA_SET_SETTINGS:
            raise UserError(f"{setting} goes with data sets, and a builtin source has none; remove it")
        if declared and setting not in declared.settings:
            names = ", ".join(format.name for format in known_formats().values() if setting in format.settings)
            raise UserError(f"{setting} goes with format {names}; found {declared.name}: remove one of them")


def check_rows(source: Source, format: Format) -> None:
    """Raises UserError if the source needs rows, such as prompts and responses, and files of the format have none."""
    reader = row_reader(source)
    if format.columns is None and reader.needs:
        setting = f"kind {source.kind}" if source.is_instruct else f"format {source.format}"
        names = ", ".join(candidate.name for candidate in known_formats().values() if candidate.columns)
        raise UserError(f"{source.path}: {setting} needs {reader.needs}, found {format.name}; give one of {names}")


def format_of_files(source: Source, files: Sequence[InputFile]) -> Format:
    """The format that the files are read as: the named one, or the one of most bytes. Raises UserError."""
    declared = named_format(source)
    if declared and declared.read:
        return declared
    # A format that is known by its extensions goes before one that takes what the kind or the languages say.
    candidates = sorted(known_formats().values(), key=lambda format: not format.extensions)
    sizes: Counter[str] = Counter()
    for file in files:
        guessed = next((format for format in candidates if format.speaks_for(source, file.name)), None)
        if guessed:
            sizes[guessed.name] += file.num_bytes + 1
    if not sizes:
        extensions = ", ".join(sorted({extension(file.name) or file.name for file in files})[:8])
        raise UserError(
            f"{source.path}: cannot tell the format from the names (found {extensions}); set format to one of "
            f"{', '.join(known_formats())}"
        )
    return known_format(sizes.most_common(1)[0][0])
