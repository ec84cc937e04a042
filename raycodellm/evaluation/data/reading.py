"""Reads the files of a data set that a folder holds: parquet, Arrow (stream or file), JSON lines, JSON, CSV and TSV,
also compressed, and from an object store."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from raycodellm import parquet
from raycodellm.config import UserError
from raycodellm.evaluation.data.lookup import DataCopy, WantedData
from raycodellm.evaluation.data.names import file_format, same_split, split_of
from raycodellm.evaluation.data.releases import in_hub_columns
from raycodellm.files import Folder

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

SEPARATED_VERSION = 2
"""Version of the way in which CSV and TSV files are read: since 2, dates and times are text."""
_SPLIT_COLUMN = "split"


def read_data(copy: DataCopy, data_set: WantedData) -> datasets.DatasetDict:
    """The splits that the task names. A split that no file has is empty; files that name no split are of the evaluated
    split, except rows that name one in a column `split`.

    Raises UserError for a file that cannot be read, and where no row is of the evaluated split.
    """
    import datasets
    import pyarrow as pa

    tables_by_split = _tables_by_split(copy, data_set.reader if copy.is_release else None)
    tables = {name: _table_of_split(name, tables_by_split, data_set.evaluated) for name in data_set.splits}
    if data_set.joined:
        tables[data_set.evaluated] = _joined_splits(tables_by_split, copy, data_set)
    evaluated = tables[data_set.evaluated]
    if evaluated is None or not evaluated.num_rows:
        split_names = ", ".join(str(split) for split in tables_by_split)
        raise UserError(
            f"evaluation.data: {data_set.task} evaluates the split {data_set.evaluated!r} of {data_set.label}, of "
            f"which {copy.folder}/{copy.files[0]} has no row; its splits: {split_names}"
        )
    try:
        present_tables = {name: table for name, table in tables.items() if table is not None}
        hub_tables = {name: in_hub_columns(data_set.label, table) for name, table in present_tables.items()}
    except (pa.ArrowException, TypeError) as error:
        raise UserError(
            f"evaluation.data: {copy.folder}/{copy.files[0]}: its columns are not those of {data_set.label}: {error}"
        ) from error
    empty = hub_tables[data_set.evaluated].slice(0, 0)
    return datasets.DatasetDict({name: datasets.Dataset(hub_tables.get(name, empty)) for name in data_set.splits})


def _table_of_split(name: str, tables_by_split: Mapping[str | None, pa.Table], evaluated: str) -> pa.Table | None:
    exact = [table for split, table in tables_by_split.items() if split == name]
    alike = [table for split, table in tables_by_split.items() if split is not None and same_split(name, split)]
    unnamed = [tables_by_split[None]] if name == evaluated and None in tables_by_split else []
    return next(iter([*exact, *alike, *unnamed]), None)


def _joined_splits(
    tables_by_split: Mapping[str | None, pa.Table], copy: DataCopy, data_set: WantedData
) -> pa.Table | None:
    """The rows of the splits that the task joins; all rows of files that name no split. Raises UserError where a split
    is missing."""
    import pyarrow as pa

    parts = {name: _table_of_split(name, tables_by_split, "") for name in data_set.joined}
    missing = ", ".join(name for name, table in parts.items() if table is None)
    if None in tables_by_split and len(tables_by_split) == 1:
        return tables_by_split[None]
    if missing:
        raise UserError(
            f"evaluation.data: {data_set.task} evaluates the splits {', '.join(data_set.joined)} of {data_set.label} "
            f"together, and {copy.folder}/{copy.files[0]} comes without {missing}; add their files"
        )
    return pa.concat_tables([table for table in parts.values() if table is not None], promote_options="permissive")


def _tables_by_split(copy: DataCopy, reader: str | None) -> dict[str | None, pa.Table]:
    """The rows of each split that the files, their keys or their rows name; None for rows that name none."""
    import pyarrow as pa

    parts: dict[str | None, list[pa.Table]] = {}
    for split, files in copy.splits:
        for file in files:
            for inner_split, table in _read_file(copy.folder, file, reader):
                if split is not None and inner_split is not None and not same_split(split, inner_split):
                    raise UserError(
                        f"evaluation.data: {copy.folder}/{file}: is named after the split {split!r} and holds the "
                        f"split {inner_split!r}; give it a name without a split"
                    )
                parts.setdefault(split or inner_split, []).append(table)
    try:
        tables = {split: pa.concat_tables(rows, promote_options="permissive") for split, rows in parts.items()}
    except pa.ArrowInvalid as error:
        file_names = ", ".join(copy.files[:3])
        raise UserError(f"evaluation.data: {copy.folder}: {file_names}: the columns differ: {error}") from error
    unnamed = tables.pop(None, None)
    if unnamed is not None:
        tables = {**_split_by_column(unnamed), **tables}
    return tables


def _split_by_column(table: pa.Table) -> dict[str | None, pa.Table]:
    """The rows by the split that each names in the column `split`, where all name one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if _SPLIT_COLUMN not in table.column_names or not pa.types.is_string(table.schema.field(_SPLIT_COLUMN).type):
        return {None: table}
    names = pc.unique(table.column(_SPLIT_COLUMN)).to_pylist()
    if not names or any(name is None or split_of(name) is None for name in names):
        return {None: table}
    return {name: table.filter(pc.equal(table.column(_SPLIT_COLUMN), name)) for name in names}


def _read_file(folder: Folder, file: str, reader: str | None) -> Iterator[tuple[str | None, pa.Table]]:
    """(split or None, rows) of a file; of more than one split where its JSON object has the splits as keys."""
    import pyarrow as pa

    kind = file_format(file)
    try:
        data = folder.read_bytes(file)  # uncompressed, by the ending of the name
        if reader is not None:
            yield None, _table_of_records(_imported_reader(reader)(PurePosixPath(file).name, data))
        elif kind in ("json", "jsonl", "ndjson"):
            yield from ((split, _table_of_records(rows)) for split, rows in _json_rows(data, kind != "json"))
        else:
            yield None, _READERS[str(kind)](data)
    except (pa.ArrowException, ArithmeticError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise UserError(
            f"evaluation.data: {folder}/{file}: cannot be read as {reader or kind}: {_explanation(error)}"
        ) from error


def _explanation(error: Exception) -> str:
    message = " ".join(str(error).split())[:200]
    explanations = {
        KeyError: f"a part has no {message}",
        RecursionError: "nested too deep",
        OverflowError: "a number is too large",
    }
    return next((explanation for kind, explanation in explanations.items() if isinstance(error, kind)), message)


def _imported_reader(name: str) -> Callable[[str, bytes], list[dict[str, Any]]]:
    """The function `module.function` that a task's file names as the reader of its release."""
    module, _, function = name.rpartition(".")
    reader: Callable[[str, bytes], list[dict[str, Any]]] = getattr(importlib.import_module(module), function)
    return reader


def _read_arrow(data: bytes) -> pa.Table:
    """An Arrow IPC file, which begins with `ARROW1`, or a stream, as `datasets` writes."""
    import pyarrow as pa

    is_file = data[:6] == b"ARROW1"
    return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(pa.BufferReader(data)).read_all()


def _read_csv(data: bytes) -> pa.Table:
    return _read_separated(data, ",")


def _read_tsv(data: bytes) -> pa.Table:
    return _read_separated(data, "\t")


def _read_separated(data: bytes, delimiter: str) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    def read(types: Mapping[str, pa.DataType]) -> pa.Table:
        parsing = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        reading = csv.ReadOptions(use_threads=False)  # as in `parquet.from_bytes`
        return csv.read_csv(pa.BufferReader(data), reading, parsing, csv.ConvertOptions(column_types=types))

    table = read({})
    if binary := next((field.name for field in table.schema if pa.types.is_binary(field.type)), None):
        raise ValueError(f"the column {binary!r} is no UTF-8")
    # A prompt shows `12:30` as the file does, not as the time `12:30:00`.
    times = {field.name: pa.string() for field in table.schema if pa.types.is_temporal(field.type)}
    return read(times) if times else table


_READERS = {"parquet": parquet.from_bytes, "arrow": _read_arrow, "csv": _read_csv, "tsv": _read_tsv}


def _json_rows(data: bytes, is_lines: bool) -> Iterator[tuple[str | None, list[dict[str, Any]]]]:
    """(split or None, records). Accepts a list of records, records one a line, `{id: record}`, `{key: [records]}` where
    one key has records, `{split: [records]}` and `{column: [values]}`. Raises ValueError for anything else."""
    text = data.decode("utf-8-sig")
    try:
        tree = json.loads(text)
    except json.JSONDecodeError:
        tree = [json.loads(line) for line in text.split("\n") if line.strip()]  # a record may hold U+2028
    is_record = isinstance(tree, dict) and not any(isinstance(value, (list, dict)) for value in tree.values())
    if is_record or (is_lines and isinstance(tree, dict) and len(text.strip().split("\n")) == 1):
        tree = [tree]  # a single line
    if isinstance(tree, list) and all(isinstance(row, dict) for row in tree):
        yield None, tree
        return
    if not isinstance(tree, dict):
        content = f"a list of {type(tree[0]).__name__}" if isinstance(tree, list) and tree else type(tree).__name__
        raise ValueError(f"holds {content}, not a list of records" if tree else "is empty")
    lists = {key: value for key, value in tree.items() if _is_records(value)}
    if len(lists) > 1 and all(split_of(key) for key in lists):
        yield from lists.items()
    elif len(lists) == 1:
        yield from ((None, rows) for rows in lists.values())
    elif tree and all(isinstance(value, dict) for value in tree.values()):
        yield None, [{"id": key, **record} for key, record in tree.items()]
    elif tree and all(isinstance(value, list) for value in tree.values()) and not lists:
        columns = zip(*tree.values(), strict=True)
        yield None, [dict(zip(tree, row, strict=True)) for row in columns]
    else:
        raise ValueError(f"holds no list of records; its keys: {', '.join(list(tree)[:5])}")


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _table_of_records(rows: list[dict[str, Any]]) -> pa.Table:
    """The records as a table with the keys of all of them. Raises ArrowInvalid where a key has values of two types."""
    import pyarrow as pa

    keys = dict.fromkeys(key for row in rows for key in row)
    return pa.table({key: pa.array([row.get(key) for row in rows]) for key in keys})
