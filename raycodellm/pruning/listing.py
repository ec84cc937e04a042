"""Lists a storage: its things by kind, its run folders, and what nobody knows.

One listing per kind of thing, whatever their number: an object store answers a thousand names a request.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

from raycodellm import file_systems
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.pruning.kinds import KINDS, PRUNED, Kind, is_log, is_probe
from raycodellm.stage_store import RECIPE
from raycodellm.storage_files import LADDER

DELETER = ".pruning"
"""File of a storage while a process deletes from it: who that is."""
_RUN_NAMES = frozenset({"sweep.yaml", "trials", "OWNER", "optuna.log", "data.json", "contents.json"})
"""Names of which each tells a run folder, also one that has lost its `sweep.yaml`."""

_STORAGE_NAMES = frozenset({RECIPE, *(kind.folder for kind in KINDS)})
"""Names of which each tells a storage of its own, whose run folders need nothing of the one that it lies in."""


_MOST_DEPTH = 4
"""Folders inside each other that are looked into for run folders."""
_MOST_FOLDERS = 20_000
"""Most folders inside one of the storage that are looked into: an object store takes a request for each."""
_READERS = 32
"""Requests at once to an object store, which answers each after some 50 ms."""


@dataclass(frozen=True)
class StoredFile:
    path: str
    """From the listed folder on."""
    num_bytes: int
    written: float
    """Time of the last change, Unix seconds."""
    is_link: bool = False


class WithFiles:
    """A record of files, with their size and age."""

    files: tuple[StoredFile, ...]
    folder_written: float

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    @property
    def written(self) -> float:
        """Time of the last change of any of the files, or else of the folder itself, Unix seconds; 0 if not known."""
        return max((file.written for file in self.files), default=self.folder_written)


@dataclass(frozen=True)
class Thing(WithFiles):
    """A stage, a token store, …: one folder of the storage with all its files."""

    kind: Kind
    name: str
    files: tuple[StoredFile, ...]
    folder_written: float = 0.0
    """Time of the last change of the folder itself, where the storage has one."""

    @property
    def path(self) -> str:
        """From the storage on."""
        return f"{self.kind.folder}/{self.name}"

    @cached_property
    def paths(self) -> frozenset[str]:
        return frozenset(file.path for file in self.files)

    @property
    def stranger(self) -> str | None:
        """A name in it, or its own, that raycodellm does not write; None where it is recognised whole."""
        if not self.kind.name.fullmatch(self.name):
            return self.name
        links = [file.path for file in self.files if file.is_link]
        return next(iter([*links, *self.kind.strangers(file.path for file in self.files)]), None)

    def inside(self, folder: str) -> list[StoredFile]:
        """The files of one of its subfolders."""
        return [file for file in self.files if file.path.startswith(f"{folder}/")]


@dataclass(frozen=True)
class Listing:
    """The content of a storage."""

    storage: Folder
    things: tuple[Thing, ...]
    runs: tuple[str, ...]
    """Names of the run folders, whole or not: `first`, or `old/first` of one that was moved into a folder."""
    ladders: tuple[str, ...]
    probes: tuple[StoredFile, ...]
    """Files that tried whether the storage can be written, and were left by a killed process."""
    hidden: tuple[str, ...]
    """Names of run folders whose deletion was interrupted."""
    unknown: tuple[str, ...]
    """Names, right in the storage or in the folder of a kind, that raycodellm does not write; left alone."""
    linked: tuple[str, ...] = ()
    """Folders of kinds that are links, into which other storages' may lead too; left alone."""


def list_storage(storage: Folder, *, follow_links: bool = False) -> Listing:
    """Lists a storage. `follow_links`: whether the folders of kinds may be links out of it. Raises `OSError` when the
    storage does not answer."""
    linked = [kind.folder for kind in KINDS if _is_link(storage, kind)]
    excluded_links = [name for name in linked if not follow_links or _leads_into_other_storage(storage, name)]
    # First: a sweep that begins meanwhile is found by its run folder.
    listed_kinds = [_things(storage, kind) for kind in KINDS if kind.folder not in excluded_links]
    names_beside = (name for _, names in listed_kinds for name in names)
    folders = list_runs(storage)
    things = tuple(thing for things_of_kind, _ in listed_kinds for thing in things_of_kind)
    return replace(folders, things=things, unknown=(*folders.unknown, *names_beside), linked=tuple(excluded_links))


def list_runs(storage: Folder) -> Listing:
    """Lists the run folders of a storage and what lies beside them, without the things of any kind. Raises `UserError`
    for a link that leads nowhere: what a sweep on a disk that is away needs cannot be read."""
    kinds = {kind.folder for kind in KINDS}
    runs, ladders, hidden, unknown = ([], [], [], [])  # type: tuple[list[str], list[str], list[str], list[str]]
    probes: list[StoredFile] = []
    for entry in _entries(storage):
        if entry.is_folder and entry.path in kinds:
            continue
        if entry.is_folder and entry.path.startswith(PRUNED):
            hidden.append(entry.path)
            continue
        if entry.is_link:
            _require_link_target(storage, entry.path)
        names = _names(storage, entry.path) if entry.is_folder else set()
        if LADDER in names and "sweep.yaml" not in names:
            ladders.append(entry.path)
        elif names & _RUN_NAMES:
            runs.append(entry.path)
        elif is_probe(entry.path) and not entry.is_folder:
            probes.append(StoredFile(entry.path, entry.num_bytes, entry.written))
        elif entry.path not in (RECIPE, DELETER):
            unknown.append(entry.path)
            runs += _moved_runs(storage, entry.path) if entry.is_folder else []
    return Listing(storage, (), tuple(runs), tuple(ladders), tuple(probes), tuple(hidden), tuple(unknown))


def _names(storage: Folder, name: str) -> set[str]:
    """The names in a folder of the storage. Its own name need be no text."""
    return {*(os.listdir(storage.local / name) if storage.local is not None else (storage / name).list())}


def _moved_runs(storage: Folder, unknown: str) -> list[str]:
    """Run folders that somebody has moved into a folder of the storage, as `old/first`, or `old/2025/first`; none of
    another storage that lies there. Raises `UserError` for a folder of too many folders to look into."""
    runs: list[str] = []
    level, visited = [unknown], {_real_path(storage, unknown)}
    for depth in range(_MOST_DEPTH):
        folders: list[str] = []
        for path, entries in zip(level, _entries_of_folders(storage, level), strict=True):
            names = {entry.path for entry in entries}
            if names & _STORAGE_NAMES:
                continue
            if depth and _is_run(names):
                runs.append(path)
                continue
            for link in (entry.path for entry in entries if entry.is_link and not depth):
                _require_link_target(storage, f"{path}/{link}")
            folders += [
                f"{path}/{entry.path}" for entry in entries if entry.is_folder and not entry.path.startswith(".")
            ]
        level = [path for path in folders if _real_path(storage, path) not in visited]  # links may go round
        visited |= {_real_path(storage, path) for path in level}
        if len(visited) > _MOST_FOLDERS:
            raise UserError(
                f"nothing is deleted, since {unknown} holds over {_MOST_FOLDERS:,} folders, too many to look for run "
                "folders in; move it out of the storage"
            )
    return runs


def _real_path(storage: Folder, path: str) -> str:
    return path if storage.local is None else os.path.realpath(storage.local / path)


def _entries_of_folders(storage: Folder, paths: Sequence[str]) -> Iterator[list[_Entry]]:
    """The entries of each of these folders. A local folder's path need be no text."""
    if storage.local is not None:  # where threads only delay each other
        local = storage.local
        yield from (
            sorted(_local_entries(str(local / path), "", follow=True), key=lambda entry: entry.path) for path in paths
        )
        return
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(lambda path: list(_remote_entries(storage / path, recursive=False)), paths)


def _is_run(names: Set[str]) -> bool:
    """True if a folder with these names in it is a run folder, maybe one without its `sweep.yaml`."""
    return "sweep.yaml" in names or len(names & _RUN_NAMES) > 1


def _require_link_target(storage: Folder, name: str) -> None:
    if storage.local is not None and not (storage.local / name).exists():
        target = os.readlink(storage.local / name)
        raise UserError(
            f"nothing is deleted, since {name} is a link to {target}, which is not there now: a run folder on another "
            "disk? Mount that, or delete the link"
        )


def _is_link(storage: Folder, kind: Kind) -> bool:
    return storage.local is not None and (storage.local / kind.folder).is_symlink()


def _leads_into_other_storage(storage: Folder, link: str) -> bool:
    """True if a link leads into a storage with sweeps, whose needs are not read here."""
    assert storage.local is not None
    listing = list_runs(Folder(str((storage.local / link).resolve())).parent)
    return bool(listing.runs or listing.ladders)


def files_below(folder: Folder) -> list[StoredFile]:
    """All files below a folder; none of a folder that does not exist. Links are not followed."""
    return [
        StoredFile(entry.path, entry.num_bytes, entry.written, entry.is_link)
        for entry in _entries_below(folder)
        if not entry.is_folder
    ]


def see_anew(folder: Folder) -> None:
    """Makes the next look at the folder show what others have written there. A client of NFS keeps the names in a
    folder for up to a minute, but asks the server again once it has changed the folder, be it the time of it alone."""
    if folder.local is not None:
        with contextlib.suppress(OSError):  # no such folder, or no right to change it: then the names may be old
            os.utime(folder.local)


def _things(storage: Folder, kind: Kind) -> tuple[list[Thing], list[str]]:
    """The things of a kind, and the names beside them that are no folders."""
    files: defaultdict[str, list[StoredFile]] = defaultdict(list)
    folder_times: dict[str, float] = {}
    beside = []
    for entry in _entries_below(storage / kind.folder):
        name, _, rest = entry.path.partition("/")
        if entry.is_folder and not rest:
            folder_times[name] = entry.written
        elif rest and not entry.is_folder:
            files[name].append(StoredFile(rest, entry.num_bytes, entry.written, entry.is_link))
        elif not rest and not is_log(entry.path):
            beside.append(f"{kind.folder}/{name}")
    names = sorted({*files, *folder_times})
    return [Thing(kind, name, tuple(files[name]), folder_times.get(name, 0.0)) for name in names], beside


@dataclass(frozen=True)
class _Entry:
    path: str
    is_folder: bool
    num_bytes: int
    written: float
    is_link: bool = False


def _entries(folder: Folder) -> list[_Entry]:
    """The files and folders right in a folder, by name. A link to a folder counts as the folder."""
    if folder.local is None:
        return list(_remote_entries(folder, recursive=False))
    return sorted(_local_entries(str(folder.local), "", follow=True), key=lambda entry: entry.path)


def _entries_below(folder: Folder) -> Iterator[_Entry]:
    """All files and folders below a folder. A link counts as a file."""
    if folder.local is None:
        yield from _remote_entries(folder, recursive=True)
        return
    waiting = [""]
    while waiting:
        for entry in _local_entries(str(folder.local), waiting.pop(), follow=False):
            if entry.is_folder:
                waiting.append(entry.path)
            yield entry


def _local_entries(root: str, inside: str, *, follow: bool) -> Iterator[_Entry]:
    """The entries of a local folder; none where there is no such folder. `inside`: the folder, from `root` on."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(os.path.join(root, inside)) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # a running sweep has deleted it just now
                status = entry.stat(follow_symlinks=False)
                path = f"{inside}/{entry.name}" if inside else entry.name
                is_folder = entry.is_dir(follow_symlinks=follow)
                yield _Entry(path, is_folder, status.st_size, status.st_mtime, entry.is_symlink() and not is_folder)


def _remote_entries(folder: Folder, *, recursive: bool) -> Iterator[_Entry]:
    list_entries = file_systems.entries_below if recursive else file_systems.entries
    for info in list_entries(folder.filesystem, folder.path):
        path = info.path.removeprefix(f"{folder.path}/")
        written = info.mtime_ns / 1e9 if info.mtime_ns and not _is_folder(info) else 0.0
        yield _Entry(path, _is_folder(info), info.size or 0, written)


def _is_folder(info: object) -> bool:
    from pyarrow.fs import FileType

    return getattr(info, "type", None) == FileType.Directory
