"""The files of a source: which they are, in what format, and what identifies them; and the table of builtins."""

from __future__ import annotations

import glob
import hashlib
import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from raycodellm.config import Source, UserError
from raycodellm.corpora import hub, layouts, trees
from raycodellm.corpora.builtin import content_digest
from raycodellm.corpora.listing import (
    NOT_ENTERED,
    Found,
    fixed_part,
    is_glob,
    list_local,
    list_remote,
    name_of,
    open_bucket,
    storage_hint,
)
from raycodellm.files import Folder, fingerprint

HASHED_BYTES = 1 << 30
"""Local sources up to this size are identified by content, larger ones, as remote ones, by sizes and change times."""
LARGEST_CARD = 16 << 20
"""Bytes; the cards of data sets with hundreds of subsets have one."""
DATA_EXTENSIONS = {
    "parquet": frozenset({".parquet", ".pq"}),
    "jsonl": frozenset({".jsonl", ".ndjson", ".json"}),
    "text": frozenset({".txt", ".text"}),
    "arrow": frozenset({".arrow"}),
    "notebook": frozenset({".ipynb"}),
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


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


_LIBRARY = "raycodellm.corpora.builtin"
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
    """parquet, jsonl, arrow, text, source, notebook, commits or builtin."""
    seed: int = 0
    """Of the builtins that are drawn at random."""
    excluded: tuple[tuple[str, int], ...] = ()
    """What listing left out: reason, and how many files, folders or commits. No part of the fingerprint."""


def source_fingerprint(source: Source, seed: int = 0) -> SourceInputs:
    """Lists the files of a source and identifies them. Raises UserError when there are none."""
    if any(path.startswith("builtin:") for path in source.paths):
        return _builtin_inputs(source, seed)
    trees.language_names(source)  # refuses a name that is not known, before anything is listed
    excluded: Counter[str] = Counter()
    if source.format == "commits":
        inputs = tuple(file for path in source.paths for file in _histories(path, excluded))
        return _inputs(source, "commits", inputs, excluded)
    found = [file for path in source.paths for file in _list_files(path, source, excluded)]
    format = _format(source, found)
    files = _files_of_format(source, format, found, excluded)
    local_bytes = sum(file.num_bytes for file in files if "://" not in file.uri)
    inputs = tuple(
        InputFile(f.uri, f.num_bytes, _digest(f.uri, f.num_bytes, f.changed, local_bytes <= HASHED_BYTES), f.name)
        for f in files
    )
    if format != "source":  # caches and the like, beside data, are nobody's loss
        excluded = Counter({reason: n for reason, n in excluded.items() if not reason.startswith(NOT_ENTERED)})
    return _inputs(source, format, inputs, excluded)


def _inputs(source: Source, format: str, files: tuple[InputFile, ...], excluded: Counter[str]) -> SourceInputs:
    identity = {
        **_reading_settings(source, format, files),
        "files": sorted([file.name, file.num_bytes, file.digest] for file in files),
    }
    num_bytes = sum(file.num_bytes for file in files)
    return SourceInputs(fingerprint(identity), files, num_bytes, format, excluded=tuple(sorted(excluded.items())))


def _reading_settings(source: Source, format: str, files: tuple[InputFile, ...] = ()) -> dict[str, Any]:
    """What decides which documents the files give. A reader that gives others than it did says so here."""
    settings: dict[str, Any] = {"format": format, "limit": source.limit_documents, "instruct": source.is_instruct}
    if source.format == "qa":
        settings["qa"] = 2
    elif format in ("parquet", "jsonl", "arrow") and not reads_pairs(source):
        settings["text_field"] = source.text_field
        if not isinstance(source.text_field, str):
            settings["nulls"] = 2
    if any(os.path.splitext(file.name.lower())[1] in (*COMPRESSIONS, ".json") for file in files):
        settings["pieces"] = 2  # packed files were once lost from before the damage on, arrays as a whole
    if reads_pairs(source) and source.format != "qa":
        settings["pairs"] = 2
    if format == "text":
        settings["documents"] = source.documents
        if source.documents == "file" and any(file.num_bytes > _ONCE_CUT for file in files):
            settings["reader"] = 2
    if format in ("source", "commits", "notebook"):
        settings["reader"] = 3 if format == "notebook" else 2
        settings["outputs"] = source.notebook_outputs
        settings["languages"] = trees.language_names(source)
    return settings


_ONCE_CUT = 16 << 20
"""Longer text files were once cut into several documents."""


def _histories(path: str, excluded: Counter[str]) -> Iterator[InputFile]:
    """Each repository as a file of so many bytes; see `commits.COMMIT_BYTES`."""
    from raycodellm.corpora import commits

    root = Folder(path).uri
    if "://" in root:
        raise UserError(f"{path}: commits are read from local repositories; clone it and give the folder")
    roots = sorted(glob.glob(root)) if is_glob(root) and not os.path.exists(root) else [root]
    repositories = [(found, top) for top in roots for found in commits.find_repositories(top, excluded)]
    if not repositories:
        raise UserError(f"{path}: is no git repository and holds none; give a work tree, a bare one or their folder")
    for repository, top in repositories:
        head, count, left_out = commits.list_history(repository)
        excluded.update(left_out)
        name = os.path.basename(repository) if repository == top else name_of(repository, os.path.dirname(top))
        yield InputFile(f"{repository}#{head}", count * commits.COMMIT_BYTES, head, name.removesuffix(".git"))


def reads_pairs(source: Source) -> bool:
    return source.is_instruct or source.format == "instruct"


def _list_files(path: str, source: Source, excluded: Counter[str]) -> list[Found]:
    """What is below a file, folder or glob, by name; hidden files are left out."""
    if path.startswith(("http://", "https://")):
        raise UserError(f"{path}: {path.split('://')[0]}:// is not read; download it and give the file or folder")
    root = Folder(path.removesuffix("/") if path != "/" else path).uri
    if root.startswith(hub.SCHEME):
        root, listed = _list_hub(root)
        files = [Found(*file) for file in listed]
    else:
        try:
            files = list_remote(root) if "://" in root else list_local(root, excluded)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be listed: {error}{storage_hint(root, error)}") from error
    if not files:
        what = "matches no file" if is_glob(root) else "holds no file"
        left_out = ", ".join(f"{reason}: {count}" for reason, count in excluded.most_common(3))
        what += f" to read ({left_out})" if left_out else ""
        raise UserError(f"{path}: {what}; give a file, a folder or a glob such as data/**/*.parquet")
    files = sorted(files, key=lambda file: file.name)
    is_folder = not is_glob(root) and any(file.uri != root for file in files)
    return _of_split(path, root, files, source, excluded) if is_folder else _no_split(path, files, source)


def _no_split(path: str, files: list[Found], source: Source) -> list[Found]:
    for setting in ("subset", "split"):
        if getattr(source, setting) is not None:
            raise UserError(f"{path}: {setting} goes with a folder or an hf:// data set; name just the files instead")
    return files


def _of_split(path: str, root: str, files: list[Found], source: Source, excluded: Counter[str]) -> list[Found]:
    """The files of the wanted subset and split, where the folder is laid out as a Hugging Face data set."""
    if source.format == "source" or source.languages:
        return _no_split(path, files, source)
    by_name = {file.name: file for file in files}

    def read(name: str) -> bytes:
        if name not in by_name:
            raise FileNotFoundError(name)
        return _read_small(by_name[name].uri)

    by_words = root.startswith(hub.SCHEME)
    names = layouts.choose_files(path, by_name, read, source.subset, source.split, by_words)
    if names is None:
        return files
    chosen = set(names)
    others = sum(1 for name in by_name if name not in chosen and layouts.is_data(name))
    if others:
        excluded["file of another subset or split"] += others
    return [by_name[name] for name in names]


def _read_small(uri: str) -> bytes:
    """A README.md or a list of files: up to `LARGEST_CARD`, however large a file of that name is."""
    if "://" not in uri:
        with open(uri, "rb") as file:
            return file.read(LARGEST_CARD)
    filesystem, path = open_bucket(uri)
    with filesystem.open_input_stream(path) as stream:
        return stream.read(LARGEST_CARD)


def _list_hub(root: str) -> tuple[str, list[tuple[str, str, int, str]]]:
    if not is_glob(root):
        return hub.list_hub(root)
    base = fixed_part(root)
    pinned, files = hub.list_hub(base)
    matching = layouts.Glob(root.removeprefix(base).lstrip("/"))
    return f"{pinned}/*", [file for file in files if matching.match(file[1])]


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


def _format(source: Source, files: list[Found]) -> str:
    """What most bytes of the files are by their names; a README beside a Parquet file changes nothing."""
    if source.format not in (None, "instruct", "qa"):
        format = source.format
    elif source.languages:
        format = "source"
    else:
        sizes: Counter[str] = Counter()
        for file in files:
            if guess := _guess(source, file.name):
                sizes[guess] += file.num_bytes + 1
        if not sizes:
            shown = ", ".join(sorted({_extension(file.name) or file.name for file in files})[:8])
            raise UserError(
                f"{source.path}: cannot tell the format from the names (found {shown}); set format to parquet, jsonl, "
                "arrow, text, source, notebook, commits, instruct or qa"
            )
        format = sizes.most_common(1)[0][0]
    if format in ("text", "source", "notebook", "commits") and (reads_pairs(source) or source.format == "qa"):
        need = "questions and answers" if source.format == "qa" else "prompts and responses"
        what = f"kind {source.kind}" if source.is_instruct else f"format {source.format}"
        raise UserError(f"{source.path}: {what} needs {need}, found {format}; give JSONL or Parquet")
    return format


def _guess(source: Source, name: str) -> str | None:
    extension = _extension(name)
    if extension in DATA_EXTENSIONS["parquet"]:
        return "parquet"
    if source.kind == "code_adjacent" and extension in (".json", ".txt"):
        return "source"
    data = next((format for format, known in DATA_EXTENSIONS.items() if extension in known), None)
    return data or ("source" if trees.is_chosen(source, name) else None)


def _files_of_format(source: Source, format: str, files: list[Found], excluded: Counter[str]) -> list[Found]:
    """Files with the format's extensions; a file named by itself is taken whatever it is called."""
    named = {Folder(path).uri for path in source.paths}
    kept = []
    for file in dict.fromkeys(files):
        reason = None if file.uri in named else _reason_to_exclude(source, format, file.name)
        if reason is None:
            kept.append(file)
        else:
            excluded[reason] += 1
    if not kept and format == "text":
        excluded.pop(_OTHER_FORMAT, None)
        kept = list(dict.fromkeys(files))
    if not kept:
        known = trees.known_extensions(source) if format == "source" else sorted(DATA_EXTENSIONS[format])
        raise UserError(
            f"{source.path}: none of the {len(files)} files found is {format} for kind {source.kind}; known are "
            f"{', '.join(known[:12])}"
        )
    return kept


_OTHER_FORMAT = "file of another format"


def _reason_to_exclude(source: Source, format: str, name: str) -> str | None:
    if format != "source":
        return None if _extension(name) in DATA_EXTENSIONS[format] else _OTHER_FORMAT
    if not trees.is_chosen(source, name):
        return "file of another language"
    return "vendored" if trees.is_vendored(name) else None


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


def builtin_digest(inputs: SourceInputs) -> str:
    """16 hex digits of the documents that a builtin source gives on this machine; empty for any other source."""
    return content_digest(builtin_rows(inputs.files[0].name, inputs.seed)) if inputs.format == "builtin" else ""


def builtin_digests(seed: int = 0) -> dict[str, str]:
    """Digests of all builtin corpora in a sweep of that seed; measured numbers should be quoted with them."""
    return {name: content_digest(builtin_rows(name, seed if BUILTINS[name].num_examples else 0)) for name in BUILTINS}
