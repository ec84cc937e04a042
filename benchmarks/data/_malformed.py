"""Malformed sources, made from a seed: a valid one of each format, and then one or two things wrong with it."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORDS = "model code data reason learn scale loop value index field text token stage plan order".split()  # noqa: SIM905


@dataclass
class Case:
    """One source on disk. `rows`: how many records it was made from, each of which gives a document or is counted."""

    number: int
    folder: Path
    rng: random.Random
    format: str
    source: dict[str, Any]
    rows: int | None = None
    files: list[Path] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    structure_known: bool = True
    """False where records may be gone without a trace that any reader could find, as in a text that was cut short."""

    def sentence(self, num_words: int = 0) -> str:
        return " ".join(self.rng.choice(WORDS) for _ in range(num_words or self.rng.randrange(3, 60)))

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.files.append(path)
        return path

    def note(self, wrong: str, structure_known: bool = True) -> None:
        self.wrong.append(wrong)
        self.structure_known = self.structure_known and structure_known


def make(number: int, seed: int, folder: Path) -> Case:
    """Case `number` of a run with this seed: equal numbers, equal bytes."""
    rng = random.Random(f"{seed}/{number}")
    folder.mkdir(parents=True, exist_ok=True)
    maker = MAKERS[number % len(MAKERS)]
    case = Case(number, folder, rng, maker.__name__.removeprefix("_"), {"kind": "text", "path": str(folder)})
    for _ in range(rng.choice((1, 2, 3)) if maker in SEVERAL else 1):
        maker(case)
    if number >= len(MAKERS):  # the first of each format are sound
        for _ in range(rng.choice((1, 1, 2))):
            rng.choice(DAMAGES)(case)
        if rng.random() < 0.4:
            rng.choice(SETTINGS)(case)
    return case


# ------------------------------------------------------------------------------------------------------- records

_ODD: tuple[Any, ...] = (
    None,
    7,
    -0.0,
    1e308,
    True,
    "",
    " \n\t ",
    [],
    ["a", 1],
    {},
    {"text": "inner"},
    "nul \0 inside",
    "lone \ud800 surrogate",
    "\ufeffbegins with a mark",
    "right to left \u202e and \u2028 line",
    "x" * 200_000,
    "a\rb\r\nc",
    "<|endoftext|>",
    "𝕏" * 50,
)


def _records(case: Case) -> list[Any]:
    """Rows, most of them sound."""
    rows: list[Any] = []
    for place in range(case.rng.randrange(1, 40)):
        rows.append({"text": case.sentence(), "q": case.rng.random(), "license": "mit", "n": place})
    case.rows = (case.rows or 0) + len(rows)
    if case.number >= len(MAKERS) and case.rng.random() < 0.6:
        for _ in range(case.rng.randrange(1, 5)):
            row = case.rng.choice(rows)
            column = case.rng.choice(("text", "q", "license", "new"))
            value = case.rng.choice(_ODD)
            if case.rng.random() < 0.2:
                row.pop(column, None)
                case.note(f"no {column}")
            else:
                row[column] = value
                case.note(f"{column} {str(value)[:12]!r}")
    return rows


def _lines(case: Case, rows: list[Any]) -> bytes:
    lines = [json.dumps(row, ensure_ascii=case.rng.random() < 0.8).encode("utf-8", "surrogatepass") for row in rows]
    if case.number >= len(MAKERS):
        for _ in range(case.rng.choice((0, 0, 1, 2))):
            odd, fault = case.rng.choice(_ODD_LINES)
            lines.insert(case.rng.randrange(len(lines) + 1), odd)
            case.rows = (case.rows or 0) + bool(odd.strip())
            case.note(fault)
    end = case.rng.choice((b"\n", b"\n", b"\n", b"\r\n"))
    return end.join(lines) + case.rng.choice((end, b""))


_ODD_LINES: tuple[tuple[bytes, str], ...] = (
    (b"", "blank line"),
    (b"null", "a line null"),
    (b"[1, 2]", "a line that is a list"),
    (b'{"text": "cut', "half a line"),
    (b'{"text": NaN}', "NaN for text"),
    (b'{"text": "a", "text": "b"}', "a key twice"),
    (b'{"text": "\\ud83d"}', "half a surrogate pair"),
    (b'{"text": "caf\xe9"}', "Latin-1 line"),
    (b'{"text": "a"} {"text": "b"}', "two objects in a line"),
    (b'{"n": ' + b"9" * 6000 + b', "text": "a"}', "a number of 6000 digits"),
    (b"[" * 100_000, "100,000 brackets"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "5000 objects in each other"),
    (b'{"text": "' + b"long " * 600_000 + b'"}', "a line of 3 MB"),
    (b"\xff\xfe{\x00}\x00", "UTF-16 line"),
    (b"\x00" * 300, "NUL line"),
)


def _jsonl(case: Case) -> None:
    case.write(f"a{len(case.files)}.jsonl", _lines(case, _records(case)))


def _jsonl_gz(case: Case) -> None:
    case.write(f"a{len(case.files)}.jsonl.gz", gzip.compress(_lines(case, _records(case)), mtime=0))


def _jsonl_zst(case: Case) -> None:
    import pyarrow as pa

    case.write(f"a{len(case.files)}.jsonl.zst", pa.compress(_lines(case, _records(case)), "zstd", asbytes=True))


def _jsonl_bz2(case: Case) -> None:
    case.write(f"a{len(case.files)}.ndjson.bz2", bz2.compress(_lines(case, _records(case))))


def _table(case: Case) -> Any:
    """An Arrow table, its columns of odd types now and then."""
    import pyarrow as pa

    rng, rows = case.rng, _records(case)
    texts = [cell if isinstance(cell := row.get("text"), str) and "\ud800" not in cell else None for row in rows]
    columns: dict[str, Any] = {"text": pa.array(texts, pa.string())}
    scores = [cell if isinstance(cell := row.get("q"), float) else None for row in rows]
    columns["q"] = pa.array(scores, pa.float64())
    columns["license"] = pa.array([["mit", "apache-2.0"][n % 2 :] for n in range(len(rows))], pa.list_(pa.string()))
    if case.number < len(MAKERS):
        return pa.table(columns)
    odd = rng.choice(
        ("", "", "int", "binary", "list", "struct", "dictionary", "large", "view", "null", "none", "twice")
    )
    changed = {
        "int": lambda: pa.array(range(len(rows))),
        "binary": lambda: pa.array([b"\xff\xfe" if n % 3 else b"plain bytes" for n in range(len(rows))]),
        "list": lambda: pa.array([[text or ""] for text in texts]),
        "struct": lambda: pa.array([{"text": text} for text in texts]),
        "dictionary": lambda: columns["text"].dictionary_encode(),
        "large": lambda: columns["text"].cast(pa.large_string()),
        "view": lambda: columns["text"].cast(pa.string_view()),
        "null": lambda: pa.nulls(len(rows)),
    }
    if odd in changed:
        columns["text"] = changed[odd]()
    table = pa.table(columns)
    if odd == "none":
        table = table.drop_columns(["text"])
    if odd == "twice":
        table = pa.Table.from_arrays([*table.columns, table["text"]], names=[*table.column_names, "text"])
    if rng.random() < 0.1:
        table, case.rows, odd = table.slice(0, 0), case.rows - len(table), f"{odd} no rows"
    if odd:
        case.note(f"text column: {odd}")
    return table


def _parquet(case: Case) -> None:
    import pyarrow.parquet as pq

    path = case.write(f"a{len(case.files)}.parquet", b"")
    groups, packing = case.rng.choice((1, 5, 1000)), case.rng.choice(("snappy", "zstd", "gzip", "none"))
    try:
        pq.write_table(_table(case), path, row_group_size=groups, compression=packing)
    except (NotImplementedError, ValueError) as error:  # a type that Parquet does not have
        case.note(f"half written: {type(error).__name__}")
        case.rows = None


def _arrow(case: Case) -> None:
    import pyarrow as pa

    table, path = _table(case), case.write(f"a{len(case.files)}.arrow", b"")
    new_writer = case.rng.choice((pa.ipc.new_stream, pa.ipc.new_file))
    with pa.OSFile(str(path), "wb") as sink, new_writer(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def _instruct(case: Case) -> None:
    case.source |= {"kind": "instruct_text"}
    forms: tuple[Callable[[], Any], ...] = (
        lambda: {"prompt": case.sentence(), "completion": case.sentence()},
        lambda: {"instruction": case.sentence(), "input": "", "output": case.sentence()},
        lambda: {"messages": [{"role": "user", "content": case.sentence()}, {"role": "assistant", "content": "Yes."}]},
    )
    odd: tuple[Any, ...] = (
        {"prompt": "no answer"},
        {"prompt": None, "completion": "x"},
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "first"}]},
        {"messages": "text"},
        {"messages": [None, 3, {"role": "user"}]},
        {"messages": [{"role": "alien", "content": "?"}]},
        {"prompt": "x", "completion": ""},
        {"prompt": ["x"], "completion": {"y": 1}},
        "no object",
    )
    rows = [case.rng.choice(forms)() for _ in range(case.rng.randrange(1, 20))]
    if case.number >= len(MAKERS):
        for _ in range(case.rng.randrange(3)):
            rows.append(case.rng.choice(odd))
            case.note(f"row {json.dumps(rows[-1])[:30]}")
    case.rows = len(rows)
    case.write("a.jsonl", _lines(case, rows))


def _qa(case: Case) -> None:
    case.source |= {"format": "qa", "kind": "code_adjacent"}
    rows: list[Any] = []
    for place in range(case.rng.randrange(1, 20)):
        answers = [{"text": case.sentence(), "score": place, "selected": False} for _ in range(2)]
        rows.append({"question": case.sentence(), "title": "How?", "answers": answers})
    odd: tuple[Any, ...] = (
        {"question": "alone?"},
        {"question": None, "answers": None},
        {"question": "x", "answers": [None, {}, {"text": None}, 4]},
        {"question": "x", "answers": [{"text": "a", "score": "many"}, {"text": "b", "score": None}]},
        {"question": "<p>" * 3000 + "deep", "answers": ["<b>b</b>"]},
        {"question": "x", "answers": {"text": ["a", "b"], "score": [1]}},
        {"text": "whole thread"},
        [],
    )
    if case.number >= len(MAKERS):
        rows += [case.rng.choice(odd) for _ in range(case.rng.randrange(3))]
        case.note("odd questions")
    case.rows = len(rows)
    case.write("a.jsonl", _lines(case, rows))


# --------------------------------------------------------------------------------------------------- text and code


def _text(case: Case) -> None:
    for place in range(case.rng.randrange(1, 6)):
        paragraphs = [case.sentence() for _ in range(case.rng.randrange(1, 9))]
        case.write(f"part{place}.txt", "\n\n".join(paragraphs).encode())
    if case.rng.random() < 0.5:
        case.source["documents"] = "paragraphs"
    else:
        case.rows = len(case.files)


def _text_gz(case: Case) -> None:
    case.source |= {"documents": "paragraphs"}
    case.rows = 5
    case.write("a.txt.gz", gzip.compress("\n\n".join(case.sentence() for _ in range(5)).encode(), mtime=0))


def _tree(case: Case) -> None:
    case.source |= {"kind": "code"}
    for place in range(case.rng.randrange(1, 12)):
        extension = case.rng.choice(("py", "js", "c", "rs"))
        lines = [f"value_{n} = {n}  # {case.sentence(5)}" for n in range(case.rng.randrange(1, 40))]
        case.write(f"src/m{place % 3}/f{place}.{extension}", "\n".join(lines).encode())
    case.rows = len(case.files)


def _notebook(case: Case) -> None:
    case.source |= {"kind": "code_adjacent"}
    odd_cells: tuple[Any, ...] = (
        None,
        3,
        {},
        {"cell_type": "code"},
        {"cell_type": "code", "source": 5},
        {"source": [1]},
    )
    for place in range(case.rng.randrange(1, 6)):
        cells: list[Any] = [{"cell_type": "markdown", "metadata": {}, "source": [case.sentence()]}]
        cells.append({"cell_type": "code", "metadata": {}, "outputs": [], "source": "print(1)", "execution_count": 1})
        if case.number >= len(MAKERS) and case.rng.random() < 0.5:
            cells.append(case.rng.choice(odd_cells))
            case.note("odd cell")
        notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        case.write(f"n{place}.ipynb", json.dumps(notebook).encode())
    case.rows = len(case.files)


def _commits(case: Case) -> None:
    case.source |= {"kind": "code_adjacent", "format": "commits"}
    environment = {
        **os.environ,
        **{f"GIT_{role}_{part}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")},
        **{f"GIT_{role}_DATE": "2020-01-01T00:00:00Z" for role in ("AUTHOR", "COMMITTER")},
        "GIT_CONFIG_GLOBAL": os.devnull,
    }

    def git(*arguments: str) -> None:
        command = ["git", "-C", str(case.folder), "-c", "commit.gpgsign=false", *arguments]
        subprocess.run(command, check=True, capture_output=True, env=environment)

    git("init", "-q")
    for place in range(case.rng.randrange(1, 5)):
        (case.folder / f"f{place % 2}.py").write_text(f"x = {place}\n{case.sentence()}\n")
        git("add", "-A")
        git("commit", "-q", "-m", case.sentence(6))
    objects = (path for path in (case.folder / ".git").rglob("*") if path.is_file() and "hooks" not in path.parts)
    case.files += sorted(objects)
    case.structure_known = False  # what of a history is left out is up to its rules


def _hub_layout(case: Case) -> None:
    rows = _records(case)
    for split in ("train", "test"):
        case.write(f"data/{split}-00000-of-00001.jsonl", _lines(case, [row for row in rows if isinstance(row, dict)]))
    heads = ("---\nconfigs: [\n---\n", "---\nconfigs: 5\n---\n", "---\nconfigs:\n- config_name: a\n---\n", "no head\n")
    if case.number >= len(MAKERS):
        case.write("README.md", case.rng.choice(heads).encode())
        case.note("README head")
    case.rows, case.structure_known = None, False


# -------------------------------------------------------------------------------------------------------- damages


def _victim(case: Case) -> Path | None:
    candidates = [path for path in case.files if path.is_file() and not path.is_symlink() and path.stat().st_size]
    return case.rng.choice(candidates) if candidates else None


def _bytes_damage(damage_name: str, change: Callable[[random.Random, bytes], bytes]) -> Callable[[Case], None]:
    def damage(case: Case) -> None:
        if path := _victim(case):
            path.chmod(0o644)
            path.write_bytes(change(case.rng, path.read_bytes()))
            # Of packed and binary formats a reader can tell that something is missing; of plain text it cannot.
            tells = path.name.endswith((".gz", ".zst", ".bz2", ".parquet"))
            case.note(damage_name, structure_known=tells and damage_name in ("truncated", "half of it"))

    damage.__name__ = f"_{damage_name.replace(' ', '_')}"
    return damage


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 8, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _zeros(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    size = rng.randrange(1, 600)
    return data[:start] + bytes(min(size, len(data) - start)) + data[start + size :]


def _garbage(rng: random.Random, data: bytes) -> bytes:
    start = rng.choice((0, len(data), rng.randrange(len(data))))
    return data[:start] + rng.randbytes(rng.randrange(1, 400)) + data[start:]


def _renamed(case: Case) -> None:
    if path := _victim(case):
        name = case.rng.choice(
            ("b.parquet", "b.jsonl", "b.txt", "b.jsonl.gz", "b.zst", "b.arrow", "b.py", "b.ipynb", "b")
        )
        target = path.with_name(name)
        path.rename(target)
        case.files = [target if other == path else other for other in case.files]
        case.note(f"{path.name} called {name}", structure_known=False)


def _beside(case: Case) -> None:
    """Something that is no file of data, in the folder."""
    names = ("x.parquet", "x.jsonl", "x.txt", "x.py", "x.jsonl.gz", "x.arrow", "x.ipynb")
    path = case.folder / case.rng.choice(names)
    kind = case.rng.choice(("folder", "loop", "dangling", "self", "pipe", "socket", "locked", "locked folder", "empty"))
    if path.exists() or path.is_symlink():
        return
    if kind == "folder":
        (path / "inner").mkdir(parents=True)
    elif kind == "loop":
        path.symlink_to(case.folder, target_is_directory=True)
    elif kind == "dangling":
        path.symlink_to(case.folder / "gone")
    elif kind == "self":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket" and len(str(path)) < 100:
        with socket.socket(socket.AF_UNIX) as unix_socket:
            unix_socket.bind(str(path))
    elif kind == "locked":
        path.write_bytes(b"not to be read")
        path.chmod(0)
    elif kind == "locked folder":
        path.mkdir()
        (path / path.name).write_bytes(b"not to be read")
        path.chmod(0)
    else:
        path.write_bytes(b"")
    case.note(f"{kind} {path.name}", structure_known=False)


def _names(case: Case) -> None:
    odd = (b"caf\xe9", b"a b", b"new\nline", b"[a-z]*", b"-rf", b"%s {0}", "日本".encode(), b"x" * 200, b"#", b":9")
    if path := _victim(case):
        target = os.path.join(os.fsencode(path.parent), case.rng.choice(odd) + os.fsencode("".join(path.suffixes)))
        os.rename(path, target)
        case.files = [Path(os.fsdecode(target)) if other == path else other for other in case.files]
        case.note(f"name {target.rpartition(b'/')[2][:12]!r}")


def _utf16(case: Case) -> None:
    if path := _victim(case):
        path.write_bytes(path.read_bytes().decode("utf-8", "replace").encode("utf-16"))
        case.note("UTF-16 file", structure_known=False)


def _only(case: Case) -> None:
    """The source is one path, spelled in an odd way."""
    if path := _victim(case):
        spelled = (
            f"{path}",
            f"{path}/",
            f"{path.parent}/*",
            f"{path.parent}/**/[!z]*",
            f"{path.parent}/../x",
            "/dev/null",
        )
        case.source["path"] = case.rng.choice(spelled)
        case.note(f"path {Path(case.source['path']).name}", structure_known=False)


def _deep(case: Case) -> None:
    folder = case.folder.joinpath(*["d"] * 60)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "deep.txt").write_text("far down")
    case.note("60 folders deep", structure_known=False)


DAMAGES: tuple[Callable[[Case], None], ...] = (
    _bytes_damage("truncated", lambda rng, data: data[: rng.randrange(len(data))]),
    _bytes_damage("truncated", lambda rng, data: data[: -rng.randrange(1, 1 + min(20, len(data)))]),
    _bytes_damage("half of it", lambda rng, data: data[: len(data) // 2]),
    _bytes_damage("bit flips", _flip),
    _bytes_damage("bit flips", _flip),
    _bytes_damage("zeros", _zeros),
    _bytes_damage("garbage", _garbage),
    _bytes_damage("twice", lambda rng, data: data + data),
    _bytes_damage("emptied", lambda rng, data: b""),
    _bytes_damage("reversed", lambda rng, data: data[::-1]),
    _bytes_damage("one long line", lambda rng, data: data.replace(b"\n", b" ") * 50),
    _utf16,
    _renamed,
    _beside,
    _beside,
    _names,
    _only,
    _deep,
)


# ------------------------------------------------------------------------------------------------------- settings


def _set(**settings: Any) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        case.source |= settings
        case.note(", ".join(settings), structure_known="format" not in settings and "path" not in settings)

    return change


_ALL = {
    "min_characters": 20,
    "exact_duplicates": True,
    "near_duplicates": 0.7,
    "script": {"latin": 0.5},
    "decontaminate": True,
    "paths": {"exclude": ["*.c"]},
}
SETTINGS: tuple[Callable[[Case], None], ...] = (
    _set(cleaning=_ALL),
    _set(cleaning=_ALL),
    _set(cleaning=_ALL, score_field="q", take="top 50 %"),
    _set(score_field="q", take="bottom 20 %", limit_documents=3),
    _set(license_field="license", cleaning={"licenses": ["MIT"]}),
    _set(score_field="nowhere", take="top 50 %"),
    _set(limit_documents=2),
    _set(text_field="nothing"),
    _set(text_field=("text", "license")),
    _set(format="parquet"),
    _set(format="jsonl"),
    _set(format="text"),
    _set(format="source"),
    _set(format="notebook"),
    _set(format="qa"),
    _set(format="commits"),
    _set(kind="instruct_code"),
    _set(split="validation"),
    _set(documents="paragraphs"),
)
MAKERS: tuple[Callable[[Case], None], ...] = (
    _jsonl,
    _jsonl_gz,
    _jsonl_zst,
    _jsonl_bz2,
    _parquet,
    _parquet,
    _arrow,
    _instruct,
    _qa,
    _text,
    _text_gz,
    _tree,
    _notebook,
    _commits,
    _hub_layout,
)
SEVERAL = (_jsonl, _jsonl_gz, _jsonl_zst, _jsonl_bz2, _parquet, _arrow)
"""Writers of the formats whose cases have one to three files, so that most files are sound."""
