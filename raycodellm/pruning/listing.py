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
_OF_RUNS = frozenset({"sweep.yaml", "trials", "OWNER", "optuna.log", "data.json", "contents.json"})
"""Names of which each tells a run folder, also one that has lost its `sweep.yaml`."""

_OF_STORAGES = frozenset({RECIPE, *(kind.folder for kind in KINDS)})
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
    """Size and age of what has files."""

    files: tuple[StoredFile, ...]
    made: float

    @property
    def num_bytes(self) -> int:
        return sum(one.num_bytes for one in self.files)

    @property
    def written(self) -> float:
        """Time of the last change of any of the files, or else of the folder itself, Unix seconds; 0 if not known."""
        return max((one.written for one in self.files), default=self.made)


@dataclass(frozen=True)
class Thing(WithFiles):
    """A stage, a token store, …: one folder of the storage with all its files."""

    kind: Kind
    name: str
    files: tuple[StoredFile, ...]
    made: float = 0.0
    """Time of the last change of the folder itself, where the storage has one."""

    @property
    def path(self) -> str:
        """From the storage on."""
        return f"{self.kind.folder}/{self.name}"

    @cached_property
    def paths(self) -> frozenset[str]:
        return frozenset(one.path for one in self.files)

    @property
    def stranger(self) -> str | None:
        """A name in it, or its own, that raycodellm does not write; None where it is recognised whole."""
        if not self.kind.name.fullmatch(self.name):
            return self.name
        links = [one.path for one in self.files if one.is_link]
        return next(iter([*links, *self.kind.strangers(one.path for one in self.files)]), None)

    def inside(self, folder: str) -> list[StoredFile]:
        """The files of one of its subfolders."""
        return [one for one in self.files if one.path.startswith(f"{folder}/")]


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
    others = [name for name in linked if not follow_links or _is_of_another(storage, name)]
    # First: a sweep that begins meanwhile is found by its run folder.
    listed = [_things(storage, kind) for kind in KINDS if kind.folder not in others]
    beside = (name for _, names in listed for name in names)
    folders = list_runs(storage)
    things = tuple(thing for found, _ in listed for thing in found)
    return replace(folders, things=things, unknown=(*folders.unknown, *beside), linked=tuple(others))


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
            _require_end(storage, entry.path)
        names = _names(storage, entry.path) if entry.is_folder else set()
        if LADDER in names and "sweep.yaml" not in names:
            ladders.append(entry.path)
        elif names & _OF_RUNS:
            runs.append(entry.path)
        elif is_probe(entry.path) and not entry.is_folder:
            probes.append(StoredFile(entry.path, entry.num_bytes, entry.written))
        elif entry.path not in (RECIPE, DELETER):
            unknown.append(entry.path)
            runs += _put_away(storage, entry.path) if entry.is_folder else []
    return Listing(storage, (), tuple(runs), tuple(ladders), tuple(probes), tuple(hidden), tuple(unknown))


def _names(storage: Folder, name: str) -> set[str]:
    """The names in a folder of the storage. Its own name need be no text."""
    return {*(os.listdir(storage.local / name) if storage.local is not None else (storage / name).list())}


def _put_away(storage: Folder, unknown: str) -> list[str]:
    """Run folders that somebody has moved into a folder of the storage, as `old/first`, or `old/2025/first`; none of
    another storage that lies there. Raises `UserError` for a folder of too many folders to look into."""
    found: list[str] = []
    level, known = [unknown], {_real(storage, unknown)}
    for depth in range(_MOST_DEPTH):
        folders: list[str] = []
        for path, entries in zip(level, _looked_into(storage, level), strict=True):
            names = {one.path for one in entries}
            if names & _OF_STORAGES:
                continue
            if depth and _is_run(names):
                found.append(path)
                continue
            for link in (one.path for one in entries if one.is_link and not depth):
                _require_end(storage, f"{path}/{link}")
            folders += [f"{path}/{one.path}" for one in entries if one.is_folder and not one.path.startswith(".")]
        level = [path for path in folders if _real(storage, path) not in known]  # links may go round
        known |= {_real(storage, path) for path in level}
        if len(known) > _MOST_FOLDERS:
            raise UserError(
                f"nothing is deleted, since {unknown} holds over {_MOST_FOLDERS:,} folders, too many to look for run "
                "folders in; move it out of the storage"
            )
    return found


def _real(storage: Folder, path: str) -> str:
    return path if storage.local is None else os.path.realpath(storage.local / path)


def _looked_into(storage: Folder, paths: Sequence[str]) -> Iterator[list[_Entry]]:
    """The entries of each of these folders. A local folder's path need be no text."""
    if storage.local is not None:  # where threads only delay each other
        local = storage.local
        yield from (sorted(_scanned(str(local / path), "", follow=True), key=lambda one: one.path) for path in paths)
        return
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(lambda path: list(_remote(storage / path, recursive=False)), paths)


def _is_run(names: Set[str]) -> bool:
    """True if a folder with these names in it is a run folder, maybe one without its `sweep.yaml`."""
    return "sweep.yaml" in names or len(names & _OF_RUNS) > 1


def _require_end(storage: Folder, name: str) -> None:
    if storage.local is not None and not (storage.local / name).exists():
        leads = os.readlink(storage.local / name)
        raise UserError(
            f"nothing is deleted, since {name} is a link to {leads}, which is not there now: a run folder on another "
            "disk? Mount that, or delete the link"
        )


def _is_link(storage: Folder, kind: Kind) -> bool:
    return storage.local is not None and (storage.local / kind.folder).is_symlink()


def _is_of_another(storage: Folder, linked: str) -> bool:
    """True if a link leads into a storage with sweeps, whose needs are not read here."""
    assert storage.local is not None
    found = list_runs(Folder(str((storage.local / linked).resolve())).parent)
    return bool(found.runs or found.ladders)


def files_below(folder: Folder) -> list[StoredFile]:
    """All files below a folder; none of a folder that does not exist. Links are not followed."""
    return [
        StoredFile(one.path, one.num_bytes, one.written, one.is_link) for one in _below(folder) if not one.is_folder
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
    made: dict[str, float] = {}
    beside = []
    for one in _below(storage / kind.folder):
        name, _, rest = one.path.partition("/")
        if one.is_folder and not rest:
            made[name] = one.written
        elif rest and not one.is_folder:
            files[name].append(StoredFile(rest, one.num_bytes, one.written, one.is_link))
        elif not rest and not is_log(one.path):
            beside.append(f"{kind.folder}/{name}")
    names = sorted({*files, *made})
    return [Thing(kind, name, tuple(files[name]), made.get(name, 0.0)) for name in names], beside


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
        return list(_remote(folder, recursive=False))
    return sorted(_scanned(str(folder.local), "", follow=True), key=lambda one: one.path)


def _below(folder: Folder) -> Iterator[_Entry]:
    """All files and folders below a folder. A link counts as a file."""
    if folder.local is None:
        yield from _remote(folder, recursive=True)
        return
    waiting = [""]
    while waiting:
        for one in _scanned(str(folder.local), waiting.pop(), follow=False):
            if one.is_folder:
                waiting.append(one.path)
            yield one


def _scanned(root: str, inside: str, *, follow: bool) -> Iterator[_Entry]:
    """`inside`: the folder whose entries are asked for, from `root` on."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(os.path.join(root, inside)) as found:
        for one in found:
            with contextlib.suppress(FileNotFoundError):  # a running sweep has deleted it just now
                told = one.stat(follow_symlinks=False)
                path = f"{inside}/{one.name}" if inside else one.name
                is_folder = one.is_dir(follow_symlinks=follow)
                yield _Entry(path, is_folder, told.st_size, told.st_mtime, one.is_symlink() and not is_folder)


def _remote(folder: Folder, *, recursive: bool) -> Iterator[_Entry]:
    listed = file_systems.entries_below if recursive else file_systems.entries
    for one in listed(folder.filesystem, folder.path):
        path = one.path.removeprefix(f"{folder.path}/")
        written = one.mtime_ns / 1e9 if one.mtime_ns and not _is_folder(one) else 0.0
        yield _Entry(path, _is_folder(one), one.size or 0, written)


def _is_folder(info: object) -> bool:
    from pyarrow.fs import FileType

    return getattr(info, "type", None) == FileType.Directory
