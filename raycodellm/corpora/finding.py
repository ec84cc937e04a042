"""The files of a source: which they are, in what format, and what identifies them; and the table of builtins."""

from __future__ import annotations

import glob
import hashlib
import importlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from raycodellm.config import Source, UserError
from raycodellm.files import Folder, fingerprint

HASHED_BYTES = 1 << 30
"""Local sources up to this size are identified by content, larger ones, as remote ones, by sizes and change times."""
DATA_EXTENSIONS = {
    "parquet": frozenset({".parquet", ".pq"}),
    "jsonl": frozenset({".jsonl", ".ndjson", ".json"}),
    "text": frozenset({".txt", ".text"}),
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_CODE = """.py .pyi .pyx .c .h .cc .cpp .cxx .hpp .hh .cu .cuh .java .kt .kts .scala .groovy .js .mjs .cjs .jsx .ts .tsx
.go .rs .rb .php .swift .m .mm .cs .fs .vb .pl .pm .lua .r .jl .hs .ml .mli .ex .exs .erl .clj .lisp .el .scm .dart .zig
.nim .f .f90 .f95 .adb .pas .asm .s .sh .bash .zsh .ps1 .bat .sql .v .sv .vhd .sol .proto .cmake .mk .awk .tcl"""
_MARKUP = ".html .htm .xhtml .xml .svg .css .scss .sass .less .md .markdown .rst .adoc .org .tex .bib"
_ADJACENT = ".ipynb .diff .patch .json .yaml .yml .toml .ini .cfg .conf .csv .md .rst .txt .dockerfile .tf .gradle"
SOURCE_EXTENSIONS = {
    "code": frozenset(_CODE.split()),
    "synthetic_code": frozenset(_CODE.split()),
    "markup": frozenset(_MARKUP.split()),
    "code_adjacent": frozenset(_ADJACENT.split()),
    "text": frozenset({".txt", ".md", ".rst"}),
    "math": frozenset({".tex", ".md", ".txt", ".lean", ".v", ".thy"}),
}
"""What a folder of source code gives to a source of each kind, by language."""
NEVER_ENTERED = frozenset({"node_modules", "__pycache__"})
VENDORED = frozenset({"vendor", "third_party", "site-packages", "dist-packages", "venv", "bower_components", "build"})


@dataclass(frozen=True)
class Builtin:
    documents: str
    """`module:function` that yields (id, text), or ([id,] prompt, response): resolved when used, so that this module
    imports nothing of a later layer."""
    instruct: bool = False
    digest: str | None = None
    """`module:function` that gives what identifies the content; its first `PROBED` examples where None."""
    num_examples: int | None = None
    """Drawn with a seed from an endless generator; None where the content is what it is."""


_LIBRARY = "raycodellm.builtin_corpora"
BUILTINS = {
    "python-prose": Builtin(f"{_LIBRARY}:python_prose", digest=f"{_LIBRARY}:library_digest"),
    "python-code": Builtin(f"{_LIBRARY}:python_code", digest=f"{_LIBRARY}:library_digest"),
    "python-instruct": Builtin(f"{_LIBRARY}:python_instruct", instruct=True, digest=f"{_LIBRARY}:library_digest"),
    "tasks-instruct": Builtin("raycodellm.tasks:training_examples", instruct=True, num_examples=2_000),
}
PROBED = 200
"""Examples that identify a generator's version: all of them would take over a second at each start."""
BUILTIN_BYTES = {"python-prose": 2_000_000, "python-code": 7_000_000, "python-instruct": 2_300_000}
"""About what CPython 3.11 gives: known without parsing its library."""


class InputFile(NamedTuple):
    uri: str
    num_bytes: int
    digest: str
    """Of the content, or of size and change time; empty when the file cannot be read."""
    name: str
    """Path inside the source: what documents are called after, so that a moved folder stays the same source."""


@dataclass(frozen=True)
class SourceInputs:
    """What a source is made of, as found before reading it."""

    fingerprint: str
    files: tuple[InputFile, ...]
    num_bytes: int
    """Of the files; for a builtin about that of its text."""
    format: str
    """parquet, jsonl, text, source or builtin."""
    seed: int = 0
    """Of the builtins that are drawn at random."""


def source_fingerprint(source: Source, seed: int = 0) -> SourceInputs:
    """Lists the files of a source and identifies them. Raises UserError when there are none."""
    if any(path.startswith("builtin:") for path in source.paths):
        return _builtin_inputs(source, seed)
    found = [file for path in source.paths for file in _list_files(path)]
    format = _format(source, found)
    files = _files_of_format(source, format, found)
    local_bytes = sum(size for uri, _, size, _ in files if "://" not in uri)
    inputs = tuple(
        InputFile(uri, size, _digest(uri, size, changed, local_bytes <= HASHED_BYTES), name)
        for uri, name, size, changed in files
    )
    identity = {
        **_reading_settings(source, format),
        "files": sorted([file.name, file.num_bytes, file.digest] for file in inputs),
    }
    return SourceInputs(fingerprint(identity), inputs, sum(file.num_bytes for file in inputs), format)


def _reading_settings(source: Source, format: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"format": format, "limit": source.limit_documents, "instruct": source.is_instruct}
    if format in ("parquet", "jsonl") and not reads_pairs(source):
        settings["text_field"] = source.text_field
    if format == "text":
        settings["documents"] = source.documents
    return settings


def reads_pairs(source: Source) -> bool:
    return source.is_instruct or source.format == "instruct"


def _list_files(path: str) -> list[tuple[str, str, int, str]]:
    """(uri, name, bytes, time of change) below a file, folder or glob, by name; hidden files are left out."""
    if path.startswith(("hf://", "http://", "https://")):
        raise UserError(
            f"{path}: {path.split('://')[0]}:// is not read; download it (for example `hf download --repo-type dataset "
            "--local-dir FOLDER NAME`) and give the folder"
        )
    root = Folder(path.removesuffix("/") if path != "/" else path).uri
    try:
        files = _list_remote(root) if "://" in root else _list_local(root)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be listed: {error}") from error
    if not files:
        what = "matches no file" if _is_glob(root) else "holds no file"
        raise UserError(f"{path}: {what}; give a file, a folder or a glob such as data/**/*.parquet")
    return sorted(files, key=lambda file: file[1])


def _is_glob(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _list_local(root: str) -> list[tuple[str, str, int, str]]:
    if os.path.isfile(root):
        paths, base = [root], os.path.dirname(root)
    elif os.path.isdir(root):
        paths, base = list(_walk(root)), root
    elif _is_glob(root):
        base = _fixed_part(root)
        matches = glob.glob(root, recursive=True)
        paths = sorted({p for match in matches for p in (_walk(match) if os.path.isdir(match) else [match])})
    else:
        parent = Path(root)
        while not parent.exists():
            parent = parent.parent
        raise UserError(f"{root}: there is no such file or folder; the nearest folder that exists is {parent}")
    stats = [(path, os.stat(path)) for path in paths]
    return [(path, _name(path, base), stat.st_size, str(stat.st_mtime_ns)) for path, stat in stats]


def _name(path: str, base: str) -> str:
    """Path inside the source; a name that is no UTF-8 gets replacement signs, since it becomes part of document ids."""
    return os.fsencode(os.path.relpath(path, base)).decode(errors="replace")


def _fixed_part(pattern: str) -> str:
    """The folder above a glob's first sign."""
    return re.split(r"[*?\[]", pattern)[0].rpartition("/")[0] or "/"


def _walk(root: str) -> Iterator[str]:
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if not n.startswith(".") and n not in NEVER_ENTERED)
        paths = (os.path.join(folder, name) for name in sorted(files) if not name.startswith("."))
        yield from filter(os.path.isfile, paths)  # no sockets, no links to what is gone


def _list_remote(root: str) -> list[tuple[str, str, int, str]]:
    from pyarrow.fs import FileSelector, FileType

    base = _fixed_part(root) if _is_glob(root) else root
    filesystem, path = open_bucket(base)
    info = filesystem.get_file_info(path)
    if info.type == FileType.NotFound:
        raise UserError(f"{root}: there is no such object or folder")
    infos = [info] if info.is_file else filesystem.get_file_info(FileSelector(path, recursive=True))
    top = path.rpartition("/")[0] if info.is_file else path
    matching = _glob_regex(root.removeprefix(base).lstrip("/")) if _is_glob(root) else re.compile("")
    found = []
    for file in infos:
        name = file.path.removeprefix(top).lstrip("/")
        hidden = any(part.startswith(".") or part in NEVER_ENTERED for part in name.split("/"))
        if file.is_file and not hidden and matching.match(name):
            uri = base if info.is_file else f"{base}/{name}"
            found.append((uri, name, file.size, str(file.mtime_ns)))
    return found


def _glob_regex(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regex = "".join(signs.get(p, p.replace("[!", "[^") if p.startswith("[") else re.escape(p)) for p in pieces)
    return re.compile(regex + "(?:/.*)?$")


def open_bucket(uri: str) -> tuple[Any, str]:
    """(pyarrow file system, path in it), opened once per process and bucket."""
    scheme, _, rest = uri.partition("://")
    bucket, _, path = rest.partition("/")
    opened = _bucket(f"{scheme}://{bucket}")
    return opened.filesystem, f"{opened.path.rstrip('/')}/{path}".rstrip("/")


@lru_cache(maxsize=64)
def _bucket(uri: str) -> Folder:
    return Folder(uri)


def _digest(uri: str, size: int, changed: str, by_content: bool) -> str:
    if "://" in uri or not by_content:
        return fingerprint([size, changed])
    try:
        with open(uri, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except PermissionError:
        return ""  # counted as a skip when the source is read


def _extension(name: str) -> str:
    """Lower case, compression taken off: `.jsonl` for `a.jsonl.gz`."""
    stem, extension = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if extension in COMPRESSIONS else extension


def _format(source: Source, files: list[tuple[str, str, int, str]]) -> str:
    """What most bytes of the files are by their names; a README beside a Parquet file changes nothing."""
    if source.format not in (None, "instruct"):
        format = source.format
    else:
        sizes: Counter[str] = Counter()
        for _, name, size, _ in files:
            if guess := _guess(source, name):
                sizes[guess] += size + 1
        if not sizes:
            shown = ", ".join(sorted({_extension(name) or name for _, name, _, _ in files})[:8])
            raise UserError(
                f"{source.path}: cannot tell the format from the names (found {shown}); set format to parquet, jsonl, "
                "text, source or instruct"
            )
        format = sizes.most_common(1)[0][0]
    if format in ("text", "source") and reads_pairs(source):
        raise UserError(
            f"{source.path}: kind {source.kind} needs prompts and responses, found {format}; give JSONL or Parquet"
        )
    return format


def _guess(source: Source, name: str) -> str | None:
    extension = _extension(name)
    if extension in DATA_EXTENSIONS["parquet"]:
        return "parquet"
    if source.kind == "code_adjacent" and extension in (".json", ".txt"):
        return "source"
    data = next((format for format, known in DATA_EXTENSIONS.items() if extension in known), None)
    return data or ("source" if extension in SOURCE_EXTENSIONS.get(source.kind, ()) else None)


def _files_of_format(
    source: Source, format: str, files: list[tuple[str, str, int, str]]
) -> list[tuple[str, str, int, str]]:
    """Files with the format's extensions; a file named by itself is taken whatever it is called."""
    known = SOURCE_EXTENSIONS.get(source.kind, frozenset()) if format == "source" else DATA_EXTENSIONS[format]
    named = {Folder(path).uri for path in source.paths}
    kept = [
        file
        for file in files
        if file[0] in named
        or (_extension(file[1]) in known and not (format == "source" and VENDORED & set(file[1].split("/")[:-1])))
    ]
    if not kept and format == "text":
        kept = files
    if not kept:
        raise UserError(
            f"{source.path}: none of the {len(files)} files found is {format} for kind {source.kind}; known are "
            f"{', '.join(sorted(known)[:12])}"
        )
    return list(dict.fromkeys(kept))


def _builtin_inputs(source: Source, seed: int) -> SourceInputs:
    name = source.path.removeprefix("builtin:") if isinstance(source.path, str) else None
    if name not in BUILTINS:
        known = ", ".join(f"builtin:{known}" for known in BUILTINS)
        raise UserError(f"{source.path}: no such builtin source; use one of {known}, each as a source of its own")
    builtin = BUILTINS[name]
    if source.is_instruct and not builtin.instruct:
        raise UserError(f"{source.path}: has no prompts and responses; use kind text or code instead of {source.kind}")
    seed = seed if builtin.num_examples else 0
    if builtin.digest:
        identity, num_bytes = resolve(builtin.digest)(), BUILTIN_BYTES[name]
    else:
        rows = list(resolve(builtin.documents)(seed=seed, num_examples=PROBED))
        num_bytes = sum(len(text.encode()) for row in rows for text in row) * builtin.num_examples // len(rows)
        identity = fingerprint([builtin.num_examples, rows])
    settings = _reading_settings(source, "builtin")
    return SourceInputs(
        fingerprint({**settings, "builtin": name, "content": identity, "seed": seed}),
        (InputFile(f"builtin:{name}", num_bytes, identity, name),),
        num_bytes,
        "builtin",
        seed,
    )


def resolve(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


@lru_cache(maxsize=8)
def builtin_rows(name: str, seed: int) -> tuple[tuple[str, ...], ...]:
    """What the builtin's function yields; kept, since parsing Python's library takes two seconds."""
    builtin = BUILTINS[name]
    arguments = {"seed": seed, "num_examples": builtin.num_examples} if builtin.num_examples else {}
    return tuple(resolve(builtin.documents)(**arguments))
