"""Copies of token stores on a node's own disk, for stores that lie on object storage.

A copy is a folder under the cache with the name of its store, which says what the store was made from; it is written
beside, checked against the manifest's checksums and renamed into place whole, so a half one is never read. Training
does not wait for it: sequences are read from the storage by ranges until the copy is there. Each copy is made once per
node, whoever asks. A lock on `.lock` guards the accounts; a shared lock on `<store>.use`, which the system lets go
when a process ends however it ends, says that the copy is being read. What is over the limit goes by last use, but
never what is in use: then nothing is copied, and that is said with its numbers.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raycodellm.config import UserError
from raycodellm.files import Folder

if TYPE_CHECKING:
    from raycodellm.config import Scaling
    from raycodellm.tokens import Reading, TokenStore
    from raycodellm.tokens.manifest import Manifest
    from raycodellm.tokens.store import PackedStore

_PIECE_BYTES = 8 * 2**20
_MANIFEST = "manifest.json"
_UNFINISHED = ".part"
_SIZE = ".size"
_RETRY_SECONDS = 2.0
logger = logging.getLogger(__name__)


class CacheRefused(RuntimeError):
    """A copy cannot be made: how much it needs, how much there is, what would help."""


@dataclass(frozen=True)
class Cache:
    """A folder of copies on this node; travels between processes as its settings."""

    folder: str
    limit_bytes: int
    """Of all copies together, those being made included."""

    @property
    def path(self) -> Path:
        return Path(self.folder).expanduser().absolute()

    def copy_of(self, store: Folder) -> Folder | None:
        """The finished copy of a store, or None."""
        copy = self.path / store.name
        return Folder(str(copy)) if (copy / _MANIFEST).exists() else None

    def use(self, store: Folder) -> int:
        """Says that this process reads the store's copy, from now until the open file returned is closed."""
        self.path.mkdir(parents=True, exist_ok=True)
        used = self.path / f"{store.name}.use"
        handle = _locked(used, fcntl.LOCK_SH)
        os.utime(used)
        return handle

    def fill(self, store: Folder, manifest: Manifest) -> Folder | None:
        """Makes the copy of a store; None while another process is making it. Raises CacheRefused where it cannot be.

        What is left of a copy whose maker was killed is removed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            making = _locked(self._making(store.name), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        try:
            if self.copy_of(store) is None:
                part = self.path / (store.name + _UNFINISHED)
                shutil.rmtree(part, ignore_errors=True)
                self._reserve(part, store, _num_bytes(manifest))
                _copy(store, manifest, part)
                part.rename(self.path / store.name)
            return self.copy_of(store)
        finally:
            os.close(making)

    def _making(self, name: str) -> Path:
        return self.path / f"{name}.making"

    def _reserve(self, part: Path, store: Folder, num_bytes: int) -> None:
        """Makes the unfinished folder, its size set aside, after removing copies that nobody reads."""
        accounts = _locked(self.path / ".lock", fcntl.LOCK_EX)
        free: dict[Path, int] = {}
        try:
            self._remove_left_over(part)
            sizes = {folder: _size(folder) for folder in self.path.iterdir() if folder.is_dir()}
            free = self._free(sizes)
            over = sum(sizes.values()) + num_bytes - self.limit_bytes
            if over > sum(sizes[folder] for folder in free):
                kept = sum(sizes.values()) - sum(sizes[folder] for folder in free)
                raise CacheRefused(
                    f"{store} has {_gib(num_bytes)}, but {_gib(kept)} of scaling.cache_gib "
                    f"({self.limit_bytes / 2**30:g}) in {self.path} are in use: it is read from where it is; "
                    f"cache_gib: {-(-(kept + num_bytes) // 2**30)} would hold it"
                )
            for folder in free:
                if over <= 0:
                    break
                over -= sizes[folder]
                # The manifest first: from then on there is no copy of that name, whatever happens here.
                (folder / _MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)
            part.mkdir()
            (part / _SIZE).write_text(str(num_bytes))
        finally:
            for held in (*free.values(), accounts):
                os.close(held)

    def _remove_left_over(self, mine: Path) -> None:
        for part in self.path.glob(f"*{_UNFINISHED}"):
            with contextlib.suppress(BlockingIOError):  # its maker lives
                if part != mine:
                    held = _locked(self._making(part.name.removesuffix(_UNFINISHED)), fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(part, ignore_errors=True)
                    os.close(held)

    def _free(self, folders: Iterable[Path]) -> dict[Path, int]:
        """Copies that no process reads, the least recently used first, each with a lock that keeps readers waiting."""
        used = {folder: self.path / f"{folder.name}.use" for folder in folders if folder.suffix != _UNFINISHED}
        free = {}
        for folder in sorted(used, key=lambda folder: _time_of(used[folder])):
            with contextlib.suppress(BlockingIOError):
                free[folder] = _locked(used[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
        return free


class CachedStore:
    """A token store that is read from this node's copy as soon as there is one, and from where it lies until then.

    Travels between processes by its settings; each process opens it once.
    """

    def __init__(self, folder: Folder, reading: Reading, cache: Cache) -> None:
        from raycodellm.tokens import TokenStore

        self._made_of = (folder, reading, cache)
        self.folder, self.reading, self.cache = folder, reading, cache
        self._distant = TokenStore.open(folder)
        self._using = cache.use(folder)
        weakref.finalize(self, os.close, self._using)
        self._near: TokenStore | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_once, self._made_of

    @property
    def manifest(self) -> Manifest:
        return self._distant.manifest

    @property
    def every_token_counts(self) -> bool:
        return self._distant.packed(self.reading).every_token_counts

    @property
    def is_near(self) -> bool:
        """Whether it is read from a copy."""
        return self._store() is not self._distant

    def measured(self) -> CachedStore:
        """The documents that are held out of this one."""
        return _opened_once(self.folder, self.reading._replace(measured=True), self.cache)

    def num_sequences(self, sequence_length: int) -> int:
        return self._distant.num_sequences(sequence_length, self.reading)

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
        return self._store().read(sequences, sequence_length, self.reading)

    def read_raw(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self._store().read_raw(sequences, sequence_length, self.reading)

    def _store(self) -> TokenStore:
        if self._near is None:
            copy = self.cache.copy_of(self.folder)
            if copy is None:
                return self._distant
            from raycodellm.tokens import TokenStore

            self._near = TokenStore.open(copy)
        return self._near


@lru_cache(maxsize=64)
def _opened_once(folder: Folder, reading: Reading, cache: Cache) -> CachedStore:
    return CachedStore(folder, reading, cache)


def cached(store: PackedStore, scaling: Scaling) -> PackedStore | CachedStore:
    """The store, read as `scaling.cache` says; as it is where a copy would lie on the same disk."""
    if scaling.cache == "none":
        return store
    cache, folder = Cache(scaling.cache_folder, int(scaling.cache_gib * 2**30)), store.store.folder
    try:
        cache.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"scaling.cache_folder: {cache.path} cannot be made ({error.strerror}); name a folder on a node's own disk"
        ) from error
    if folder.local is not None and folder.local.stat().st_dev == cache.path.stat().st_dev:
        return store
    return CachedStore(folder, store.reading, cache)


@contextlib.contextmanager
def filling(stores: Sequence[Any]) -> Iterator[None]:
    """Makes the copies of those stores that are cached, in a thread, while the block runs; ends with it."""
    waiting = [store for store in stores if isinstance(store, CachedStore)]
    stopped = threading.Event()
    if not waiting:
        yield
        return
    thread = threading.Thread(target=_fill, args=(waiting, stopped), name="raycodellm-cache", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()  # a copy that is under way goes on: the next stage will want it


def _fill(stores: list[CachedStore], stopped: threading.Event) -> None:
    for store in stores:
        try:
            # None: another process is making it, and may be killed before it has.
            while store.cache.fill(store.folder, store.manifest) is None:
                if stopped.wait(_RETRY_SECONDS):
                    return
        except CacheRefused as refused:
            logger.warning("%s", refused)
        except OSError as error:
            logger.warning("%s is not copied to %s: %s", store.folder, store.cache.path, error)
        if stopped.is_set():
            return


# ------------------------------------------------------------------------------------------------------- files


def _copy(store: Folder, manifest: Manifest, part: Path) -> None:
    try:
        for shard in manifest.shards:
            for name, (size, checksum) in shard.files.items():
                _copy_file(store, name, part / name, size, checksum)
        _write(part / _MANIFEST, [store.read_bytes(_MANIFEST)])
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError):
            raise CacheRefused(
                f"{store} could not be copied to {part.parent} ({_gib(_num_bytes(manifest))}; "
                f"{_gib(shutil.disk_usage(part.parent).free)} are free there): {error.strerror or error}"
            ) from error
        raise


def _copy_file(store: Folder, name: str, target: Path, size: int, checksum: str) -> None:
    found, digest = 0, hashlib.blake2b(digest_size=16)

    def pieces() -> Iterator[bytes]:
        nonlocal found
        with store.filesystem.open_input_stream(f"{store.path}/{name}") as source:
            while piece := source.read(_PIECE_BYTES):
                found += len(piece)
                digest.update(piece)
                yield piece

    _write(target, pieces())
    if (found, digest.hexdigest()) != (size, checksum):
        raise CacheRefused(f"{store}/{name}: {found} bytes came that are not the {size} of its manifest; not copied")


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _locked(path: Path, how: int) -> int:
    """An open file with the lock; closing it, or the process's end, lets go. Raises BlockingIOError with LOCK_NB."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, how)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _size(folder: Path) -> int:
    try:
        return int((folder / _SIZE).read_text())
    except (OSError, ValueError):  # not one of ours: what is in it counts
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _num_bytes(manifest: Manifest) -> int:
    return sum(size for shard in manifest.shards for size, _ in shard.files.values())


def _time_of(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.3g} GiB"
