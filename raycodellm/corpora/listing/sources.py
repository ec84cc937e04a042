"""The files of a source, wherever they are: which they are, in what format, and what identifies them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from raycodellm.config import Source, UserError
from raycodellm.config.errors import nearest_place
from raycodellm.corpora.content import HUB, open_part
from raycodellm.corpora.inputs import InputFile, SourceInputs
from raycodellm.corpora.listing.builtin import list_builtin
from raycodellm.corpora.listing.files import NOT_ENTERED, list_local, list_remote, storage_hint
from raycodellm.corpora.listing.globs import is_glob, split_glob
from raycodellm.corpora.listing.hub import list_hub
from raycodellm.corpora.listing.layouts import choose_files, is_data
from raycodellm.corpora.registry import (
    BUILTIN,
    DATA_SET_SETTINGS,
    OTHER_FORMAT,
    Format,
    check_rows,
    check_settings,
    format_of_files,
    named_format,
    reading_identity,
)
from raycodellm.corpora.source_files import language_names
from raycodellm.files import Folder, fingerprint

HASHED_BYTES = 1 << 30
"""Local sources up to this many bytes are identified by content, larger ones and remote ones by sizes and times."""
LISTED_BEFORE = "file of an earlier path of the source"
LARGEST_CARD = 16 << 20
"""Bytes that are read of a data set's README.md; those of data sets with hundreds of subsets are large."""


def source_fingerprint(source: Source, seed: int = 0) -> SourceInputs:
    """Lists the inputs of a source and identifies them.

    Raises UserError if there are none, or if a setting does not go with the format. `seed` is for builtin sources that
    are drawn at random.
    """
    check_settings(source)
    if any(path.startswith(BUILTIN) for path in source.paths):
        return list_builtin(source, seed)
    language_names(source)  # refuses an unknown name before anything is listed
    excluded: Counter[str] = Counter()
    declared = named_format(source)
    if declared and declared.list_inputs:
        check_rows(source, declared)
        inputs = tuple(_each_once([declared.list_inputs(path, excluded) for path in source.paths], excluded))
        return _source_inputs(source, declared, inputs, excluded)
    listed = list(_each_once([_list_files(path, source, excluded) for path in source.paths], excluded))
    format = format_of_files(source, listed)
    check_rows(source, format)
    files = _files_of_format(source, format, listed, excluded)
    by_content = sum(file.num_bytes for file in files if "://" not in file.uri) <= HASHED_BYTES
    inputs = tuple(file._replace(digest=_digest(file, by_content)) for file in files)
    if not format.is_file_tree:  # nobody misses caches and the like beside data
        excluded = Counter({reason: n for reason, n in excluded.items() if not reason.startswith(NOT_ENTERED)})
    return _source_inputs(source, format, inputs, excluded)


def local_files(source: Source, path: str) -> list[Path] | None:
    """The files that a local path of the source lists, so without hidden files and links out of a folder; None for a
    format that finds its files by itself. Raises UserError where there is nothing."""
    declared = named_format(source)
    if declared and declared.list_inputs:
        return None
    return [Path(file.uri) for file in list_local(path, Counter())]


def _source_inputs(
    source: Source, format: Format, files: tuple[InputFile, ...], excluded: Counter[str]
) -> SourceInputs:
    identity_parts = {
        **reading_identity(source, format, files),
        "files": sorted([file.name, file.num_bytes, file.digest] for file in files),
    }
    num_bytes = sum(file.num_bytes for file in files)
    left_out = tuple(sorted(excluded.items()))
    return SourceInputs(fingerprint(identity_parts), files, num_bytes, format.name, excluded=left_out)


def _digest(file: InputFile, by_content: bool) -> str:
    if "://" in file.uri or not by_content:
        return fingerprint([file.num_bytes, file.digest])
    try:
        with open(file.uri, "rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except PermissionError:
        return ""  # counted as a skip when the source is read


def _list_files(path: str, source: Source, excluded: Counter[str]) -> list[InputFile]:
    """The files of a path, sorted by name, of the wanted subset and split."""
    if path.startswith(("http://", "https://")):
        raise UserError(f"{path}: {path.split('://')[0]}:// is not read; download it and give the file or folder")
    root = Folder(path.removesuffix("/") if path != "/" else path).uri
    if root.startswith(HUB):
        root, files = list_hub(root)
    else:
        try:
            files = list_remote(root) if "://" in root else list_local(root, excluded)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be listed: {error}{storage_hint(root, error)}") from error
    if not files:
        problem = "matches no file" if is_glob(root) else "holds no file"
        left_out = ", ".join(f"{reason}: {count}" for reason, count in excluded.most_common(3))
        problem += f" to read ({left_out})" if left_out else ""
        base, _ = split_glob(root)
        if "://" not in root and not Path(base).exists():
            raise UserError(
                f"{path}: matches no file, since there is no folder {os.path.basename(base)!r}; {nearest_place(base)}"
            )
        raise UserError(f"{path}: {problem}; give a file, a folder or a glob such as data/**/*.parquet")
    files = sorted(files, key=lambda file: file.name)
    declared = named_format(source)
    is_folder = not is_glob(root) and any(file.uri != root for file in files)
    if is_folder and (declared is None or declared.settings >= DATA_SET_SETTINGS):
        return _files_of_split(path, root, files, source, excluded)
    for setting in ("subset", "split"):
        if getattr(source, setting) is not None:
            raise UserError(f"{path}: {setting} goes with a folder or an hf:// data set; name just the files instead")
    return files


def _each_once(of_paths: Sequence[Iterable[InputFile]], excluded: Counter[str]) -> Iterator[InputFile]:
    """The files of a source's paths, without those that an earlier path has listed."""
    if len(of_paths) == 1:
        yield from of_paths[0]  # as they are: to resolve the links of a million paths takes a while
        return
    places: set[str] = set()
    for files in of_paths:
        of_path = {file: file.uri if "://" in file.uri else os.path.realpath(file.uri) for file in files}
        new = [file for file, place in of_path.items() if place not in places]
        yield from new
        if len(new) < len(of_path):
            excluded[LISTED_BEFORE] += len(of_path) - len(new)
        places.update(of_path.values())


def _files_of_split(
    path: str, root: str, files: list[InputFile], source: Source, excluded: Counter[str]
) -> list[InputFile]:
    """The files of the wanted subset and split; all files if the folder is no Hugging Face data set."""
    by_name = {file.name: file for file in files}

    def read(name: str) -> bytes:
        if name not in by_name:
            raise FileNotFoundError(name)
        return _read_card(by_name[name])

    names = choose_files(path, by_name, read, source.subset, source.split, by_words=root.startswith(HUB))
    if names is None:
        return files
    num_others = sum(map(is_data, by_name.keys() - set(names)))
    if num_others:
        excluded["file of another subset or split"] += num_others
    return [by_name[name] for name in names]


def _read_card(file: InputFile) -> bytes:
    """The first `LARGEST_CARD` bytes of a README.md or a list of files."""
    with open_part(file.part(0, LARGEST_CARD)) as stream:
        return stream.read(LARGEST_CARD)


def _files_of_format(source: Source, format: Format, files: list[InputFile], excluded: Counter[str]) -> list[InputFile]:
    """The files that the format reads. A file that the source names by itself is read whatever it is called."""
    named_uris = {Folder(path).uri for path in source.paths}
    readable = []
    for file in files:
        reason = None if file.uri in named_uris else format.why_excluded(source, file.name)
        if reason is None:
            readable.append(file)
        else:
            excluded[reason] += 1
    if not readable and format.takes_any_name:
        excluded.pop(OTHER_FORMAT, None)
        readable = files
    if not readable:
        known_names = format.known_names(source) if format.known_names else sorted(format.extensions)
        raise UserError(
            f"{source.path}: none of the {len(files)} files found is {format.name} for kind {source.kind}; known are "
            f"{', '.join(known_names[:12])}"
        )
    return readable
