"""Finds a data set of the hub in a folder that mirrors data sets, by the first name under which the folder has files.

For the data set `aps/super_glue`, configuration `boolq`, of the task `boolq` these are `aps/super_glue/boolq`,
`aps--super_glue/boolq`, `super_glue/boolq`, `super_glue_boolq`, `boolq`, `aps/super_glue`, `aps--super_glue` and
`super_glue`, each a folder or a file. Files with the names of the data set's official release come first.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from raycodellm.config import UserError
from raycodellm.config.errors import nearest_place
from raycodellm.corpora import card_configs
from raycodellm.evaluation.data.names import Reading, file_format, plain, readings, same_split, split_in, split_of
from raycodellm.files import Folder

_TOO_GENERAL = frozenset(
    ["main", "default", "all", "full", "test", "train", "validation", "raw", "plaintext", "en", "zh"]
)
"""Configurations, plain, that name no data set by themselves."""
MOST_FILES = 200_000


@dataclass(frozen=True)
class WantedData:
    """A data set as lm-eval would load it, and the splits of it that a task reads."""

    path: str
    """`owner/name` on the hub."""
    config: str | None = None
    task: str = ""
    """The task that reads the data set."""
    evaluated: str = "test"
    """The split whose items the task evaluates."""
    others: tuple[str, ...] = ()
    """Splits that the task names besides, for few-shot examples."""
    joined: tuple[str, ...] = ()
    """Splits of the data set that are together what the task evaluates."""
    files: tuple[str, ...] = ()
    """Names of the files of the data set's official release."""
    reader: str | None = None
    """`module.function` that reads a file of the official release: (name, content) -> records."""
    file_splits: tuple[tuple[str, str], ...] = ()
    """(one of `files`, its split), where the task says so."""
    data_files: tuple[str, ...] = ()
    """The files of the repository, or the addresses, that the task asks for."""
    revision: str | None = None
    """The branch, tag or commit that the task asks for; None for the newest state."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([self.evaluated, *self.others]))

    @property
    def label(self) -> str:
        return f"{self.path}/{self.config}" if self.config else self.path

    @property
    def hub_name(self) -> str:
        """`owner/name`, with `@revision` where the task asks for one."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"

    def names(self) -> Iterator[tuple[str, ...]]:
        """The names of folders and files that may hold the data set, the most specific first."""
        yield from self._config_names()
        if self.config:
            yield (self.task,)
            yield from self.roots
        else:
            yield from self.roots
            yield (self.task,)

    @property
    def roots(self) -> list[tuple[str, ...]]:
        """Names of the data set with all its configurations."""
        owner, _, name = self.path.rpartition("/")
        return [*([(owner, name), (f"{owner}--{name}",)] if owner else []), (name,)]

    def _config_names(self) -> Iterator[tuple[str, ...]]:
        if self.config:
            yield from ((*root, self.config) for root in self.roots)
            yield (f"{self.roots[-1][0]}_{self.config}",)
            plain_config = plain(self.config)
            if len(plain_config) > 2 and not plain_config.isdigit() and plain_config not in _TOO_GENERAL:
                yield (self.config,)

    def is_without_config(self, name: tuple[str, ...]) -> bool:
        """True for a name that other configurations of the data set have too."""
        return self.config is not None and name in self.roots


@dataclass(frozen=True)
class DataCopy:
    """The files of a data set in the folder of `evaluation.data`."""

    folder: Folder
    splits: tuple[tuple[str | None, tuple[str, ...]], ...]
    """(split, files in order) of each split that the files' names tell; None for files that name no split."""
    is_release: bool = False
    """True for files that were found by their names in the official release."""

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(file for _, files in self.splits for file in files)


Located = tuple[str, Reading]
"""A file's path, and a way to read it."""


class _Index:
    """All readings of the paths of files, by the last name in each and by the folder above that name."""

    def __init__(self, files: Iterable[str], splits: tuple[str, ...]) -> None:
        self.by_end: dict[str, list[Located]] = {}
        self.by_folder: dict[str, list[Located]] = {}
        for path in files:
            for reading in readings(path, splits):
                self.by_end.setdefault(reading.parts[-1] if reading.parts else "", []).append((path, reading))
                self.by_folder.setdefault(reading.parts[-2] if len(reading.parts) > 1 else "", []).append(
                    (path, reading)
                )


class DataFolder:
    """A folder that mirrors data sets, local or on an object store. Its files are listed once."""

    def __init__(self, uri: str) -> None:
        self.folder = Folder(uri)
        self._indices: dict[tuple[str, ...], _Index] = {}

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Paths of the files inside, sorted, shallow ones first, without hidden ones."""
        from pyarrow.fs import FileSelector, FileType

        if not self.folder.exists():
            near = f"; {nearest_place(self.folder.uri)}" if self.folder.local is not None else ""
            raise UserError(f"evaluation.data: there is no folder {self.folder} with data sets{near}")
        base = self.folder.path.rstrip("/")
        infos = self.folder.filesystem.get_file_info(FileSelector(base, recursive=True))
        if len(infos) > MOST_FILES:
            raise UserError(
                f"evaluation.data: {self.folder} holds over {MOST_FILES:,} files; give a folder of data sets"
            )
        paths = [info.path[len(base) + 1 :] for info in infos if info.type == FileType.File]
        shown = [path for path in paths if not any(part.startswith((".", "__")) for part in path.split("/"))]
        return tuple(sorted(shown, key=lambda path: (path.count("/"), path)))

    def find(self, data_set: WantedData) -> DataCopy | None:
        """The files of a data set; None where the folder has none. Raises UserError where it has the data set without
        the split that is evaluated."""
        index = self._index((*data_set.splits, *data_set.joined))
        incomplete: DataCopy | None = None
        release, cards = self._release_files(data_set), self._files_of_cards(data_set)
        by_name = ((self._files_named(name, data_set, index), False) for name in data_set.names())
        for files, is_release in ((release, True), (cards, False), *by_name):
            for copy in self._forms(files, is_release):
                if self._serves(copy, data_set):
                    return copy
                incomplete = incomplete or copy
        if incomplete is not None:
            split_names = ", ".join(sorted({str(split) for split, _ in incomplete.splits}))
            raise UserError(
                f"evaluation.data: {data_set.task} evaluates the split {data_set.evaluated!r} of {data_set.label}, and "
                f"{self.folder}/{incomplete.files[0]} is of the split {split_names}; "
                f"add a file of {data_set.evaluated!r}"
            )
        return None

    def _serves(self, copy: DataCopy, data_set: WantedData) -> bool:
        splits = [split for split, _ in copy.splits]
        return None in splits or any(same_split(data_set.evaluated, str(split)) for split in splits)

    def _index(self, splits: tuple[str, ...]) -> _Index:
        if splits not in self._indices:
            self._indices[splits] = _Index(self.files, splits)
        return self._indices[splits]

    def _release_files(self, data_set: WantedData) -> list[Located]:
        """The files of one folder with the names of the official release, in the release's order. A name such as
        `train.json`, which any data set may have, counts only with its folder: `ocnli_public/dev.json`."""
        names = [name.lower() for name in data_set.files if not _is_general(name)]
        matches = [(path, name) for name in names for path in self.files if f"/{path.lower()}".endswith(f"/{name}")]
        splits = {name.lower(): split for name, split in data_set.file_splits}
        folders = {path[: len(path) - len(name)] for path, name in matches}
        shallowest = min(folders, key=lambda folder: (folder.count("/"), folder), default="")
        return [
            (path, Reading(0, (), splits.get(name) or split_in(PurePosixPath(path).name), f"{shallowest}release"))
            for path, name in matches
            if path[: len(path) - len(name)] == shallowest
        ]

    def _files_named(self, name: tuple[str, ...], data_set: WantedData, index: _Index) -> list[Located]:
        """The files that have the name, or that lie in a folder of that name and belong to its only data set."""
        tail = tuple(map(plain, name))
        exact = [located for located in index.by_end.get(tail[-1], ()) if _ends_with(located[1].parts, tail)]
        if exact or data_set.is_without_config(name):
            return exact
        inside = [located for located in index.by_folder.get(tail[-1], ()) if _lies_in(located[1].parts, tail)]
        last_names = {reading.parts[-1] for _, reading in inside}
        return inside if len(last_names) == 1 else []

    def _files_of_cards(self, data_set: WantedData) -> list[Located]:
        """The files that the card of the data set, its README.md, lists for the configuration."""
        tails = [tuple(map(plain, root)) for root in data_set.roots]
        located = []
        for readme in self._cards:
            top = str(PurePosixPath(readme).parent)
            parts = readings(f"{top}/x.json", ())[0].parts[:-1]
            if not any(_ends_with(parts, tail) for tail in tails):
                continue
            for split, pattern in _card_files(self.folder.read_bytes(readme), data_set.config):
                paths = (path for path in fnmatch.filter(self.files, f"{top}/{pattern}") if file_format(path))
                located += [(path, Reading(0, parts, split, f"{top} card")) for path in paths]
        return located

    @cached_property
    def _cards(self) -> list[str]:
        return [path for path in self.files if PurePosixPath(path).name == "README.md"]

    def _forms(self, files: Iterable[Located], is_release: bool) -> Iterator[DataCopy]:
        """The files as one data set for each folder and format, the most literally named and the shallowest first."""
        forms: dict[tuple[int, str], dict[str | None, list[str]]] = {}
        for path, reading in files:
            splits = forms.setdefault((reading.rank, reading.place), {})
            splits.setdefault(reading.split, []).append(path)
        ranked = sorted(forms, key=lambda form: (form[0], form[1].count("/")))
        for form in ranked:
            by_split = tuple((split, tuple(paths)) for split, paths in forms[form].items())
            yield DataCopy(self.folder, by_split, is_release)


def _is_general(name: str) -> bool:
    """True for a file of a release whose name any data set may have, such as `train.json`."""
    stem = name.split(".")[0]
    return "/" not in name and (split_of(stem) is not None or plain(stem) in _TOO_GENERAL)


def _ends_with(parts: tuple[str, ...], tail: tuple[str, ...]) -> bool:
    """True if the last parts are `tail`, also where a file in the folder repeats the folder's name."""
    return parts[-len(tail) :] == tail or (parts[-1:] == parts[-2:-1] == tail[-1:] and parts[:-1][-len(tail) :] == tail)


def _lies_in(parts: tuple[str, ...], tail: tuple[str, ...]) -> bool:
    """True for a file right in the folder `tail`, whatever the file is called."""
    return parts[:-1][-len(tail) :] == tail


def _card_files(card: bytes, config: str | None) -> Iterator[tuple[str | None, str]]:
    """(split, pattern) of the files of a configuration; of the default one, or the only one, for None."""
    configs = card_configs(card)
    chosen = [entry for entry in configs if entry.get("config_name") == config]
    if config is None:
        is_default = [entry.get("default") == "true" or entry.get("config_name") == "default" for entry in configs]
        chosen = list(itertools.compress(configs, is_default)) or configs[:2]
    if len(chosen) != 1:
        return
    data = chosen[0].get("data_files")
    for entry in data if isinstance(data, list) else [data]:
        patterns = entry.get("path") if isinstance(entry, dict) else entry
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            if isinstance(pattern, str):
                yield (entry.get("split") if isinstance(entry, dict) else None), pattern
