"""The names under which a folder may hold a data set, and what a file's path says: the data set, the split, the shard.

Names are compared without case and punctuation: `ARC-Easy`, `arc_easy` and `arceasy` are one name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

FORMATS = ("parquet", "jsonl", "ndjson", "json", "arrow", "csv", "tsv")
_COMPRESSIONS = ("gz", "zst", "bz2", "lz4")
_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing"),
}
_SPLITS = {alias: split for split, aliases in _ALIASES.items() for alias in aliases}
_SHARD = re.compile(r"[-_]\d{4,6}[-_]of[-_]\d{4,6}(?:[-_][0-9a-f]{8,})?$")
_GENERAL = frozenset(
    ["data", "dataset", "datasets", "default", "raw", "json", "jsonl", "parquet", "arrow", "csv", "files"]
)
"""Plain names of folders and files that name no data set."""
_METADATA_FILES = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
"""Files that `datasets` writes beside the data."""
_PARTIAL_WORDS = frozenset({"subset", "sample"})
"""Words at the end of a file's name that say that it holds a part of a data set."""


@functools.lru_cache(maxsize=1 << 16)
def plain(name: str) -> str:
    """The name in lower case, without punctuation."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def split_of(word: str) -> str | None:
    """`validation` for `dev`, `val` …; None for a word that names no split."""
    return _SPLITS.get(word.lower())


def split_in(name: str) -> str | None:
    """The split that a word of a file's name names: `validation` for `m-dev.json`."""
    words = re.split(r"[^0-9A-Za-z]+", name)
    return next((split for word in reversed(words) if (split := split_of(word)) is not None), None)


def same_split(one: str, other: str) -> bool:
    """True for two names of one split: `dev` and `validation`."""
    return plain(one) == plain(other) or (split_of(one) or one) == (split_of(other) or other)


@dataclass(frozen=True)
class Reading:
    """One way to read a file's path."""

    rank: int
    """The lower, the more literal."""
    parts: tuple[str, ...]
    """Names of the folders, and of the file without split and shard where anything is left; all plain."""
    split: str | None
    """None where the path names no split."""
    place: str
    """The folder without a split's, and the format: files of one data set in one form share it."""


def file_format(path: str) -> str | None:
    """The format that the path's ending names, before that of a compression; None for another."""
    endings = [ending.lstrip(".").lower() for ending in PurePosixPath(path).suffixes]
    if endings and endings[-1] in _COMPRESSIONS:
        endings.pop()
    return endings[-1] if endings and endings[-1] in FORMATS else None


@functools.lru_cache(maxsize=1 << 16)
def readings(path: str, splits: tuple[str, ...]) -> tuple[Reading, ...]:
    """The ways to read the path of a file, relative to the folder. `splits`: names of splits beside the usual ones."""
    kind = file_format(path)
    if kind is None or PurePosixPath(path).name in _METADATA_FILES:
        return ()
    *folders, name = PurePosixPath(path).parts
    stem = name[: name.lower().rindex(f".{kind}")]
    stem = "" if stem.isdigit() else _SHARD.sub("", stem)
    all_readings: list[Reading] = []
    for rank, rest, split in _stems(stem, splits):
        data_folders, path_split = list(folders), split
        if path_split is None and data_folders:
            path_split = _split_names(splits).get(plain(data_folders[-1]))
            if path_split is not None:
                data_folders.pop()
        base = [plain(rest)] if plain(rest) and plain(rest) not in _GENERAL else []
        place = "/".join([*data_folders, kind])
        all_readings.append(Reading(rank, (*_folder_parts(data_folders), *base), path_split, place))
    return tuple(all_readings)


def _stems(stem: str, splits: Iterable[str]) -> list[tuple[int, str, str | None]]:
    """(rank, the rest of the stem, split): the stem without a split at its end or beginning, then the whole stem, then
    both without a word for a part of the data."""
    stems: list[tuple[int, str, str | None]] = []
    words = [word for word in re.split(r"[^0-9A-Za-z]+", stem) if word]
    for split in splits:  # such as `validation_matched`, which is more than a word
        if len(re.split(r"[^0-9A-Za-z]+", split)) > 1 and plain(stem).endswith(plain(split)):
            stems.append((0, plain(stem)[: -len(plain(split))], split))
    split_names = _split_names(splits)
    if words and plain(words[-1]) in split_names:
        stems.append((0, "_".join(words[:-1]), split_names[plain(words[-1])]))
    elif words and plain(words[0]) in split_names:
        stems.append((1, "_".join(words[1:]), split_names[plain(words[0])]))
    stems.append((0 if not stems else 2, stem, None))
    if words and plain(words[-1]) in _PARTIAL_WORDS:
        stems.append((3, "_".join(words[:-1]), None))
    return stems


def _split_names(splits: Iterable[str]) -> dict[str, str]:
    """Maps each plain name of a split to the split: the usual names, and `splits`, each of which stands for itself."""
    return _SPLITS | {plain(split): split for split in splits}  # C-Eval has both `val` and `dev`


def _folder_parts(folders: Sequence[str]) -> list[str]:
    """Plain names of folders. A folder of the hub's cache, `datasets--owner--name/snapshots/<commit>`, reads as
    `owner/name`."""
    parts: list[str] = []
    for index, folder in enumerate(folders):
        if cached := re.fullmatch(r"datasets--(.+?)--(.+)", folder):
            parts += [plain(cached[1]), plain(cached[2])]
        elif folder == "snapshots" or (index and folders[index - 1] == "snapshots"):
            continue
        elif plain(folder) not in _GENERAL and not re.fullmatch(r"\d+\.\d+\.\d+|[0-9a-f]{32,}", folder):
            parts.append(plain(folder))
    return parts
