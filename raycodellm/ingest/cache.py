"""Copies of token stores on a node's own disk, for stores that lie on object storage.

A copy is a folder under the cache with the name of its store, which says what the store was made from. The copy is
written beside that folder, checked against the manifest's checksums and renamed into place whole, so a half-written
copy is never read. Training does not wait for it: sequences are read from the storage by ranges until the copy exists.
A file lock lets one process of a node copy at a time, so each store is copied once per node. Copies are never evicted:
a store that does not fit under the limit is read from the storage, and a warning says how much it needs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import threading
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
    from raycodellm.tokens import PackedStore, Reading, TokenStore
    from raycodellm.tokens.manifest import Manifest

_PIECE_BYTES = 8 * 2**20
_MANIFEST = "manifest.json"
_UNFINISHED = ".part"
_RETRY_SECONDS = 2.0
logger = logging.getLogger(__name__)


class CacheRefused(RuntimeError):
    """A copy cannot be made; the message says how much it needs, how much there is, and what would help."""


@dataclass(frozen=True)
class Cache:
    """A folder of copies on this node; travels between processes as its settings."""

    folder: str
    limit_bytes: int
    """The most bytes that all copies together may take."""

    @property
    def path(self) -> Path:
        return Path(self.folder).expanduser().absolute()

    def copy_of(self, store: Folder) -> Folder | None:
        """The finished copy of a store, or None."""
        copy = self.path / store.name
        return Folder(str(copy)) if (copy / _MANIFEST).exists() else None

    def fill(self, store: Folder, manifest: Manifest) -> Folder | None:
        """Copies a store that has no copy yet; returns the copy, or None while another process is copying.

        Raises CacheRefused when the store does not fit or its files came damaged.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if (copy := self.copy_of(store)) is not None:
            return copy
        with _locked(self.path / ".lock") as is_mine:
            if not is_mine:
                return None
            if self.copy_of(store) is None:
                for part in self.path.glob(f"*{_UNFINISHED}"):  # its maker was killed, else it would hold the lock
                    shutil.rmtree(part, ignore_errors=True)
                self._require_room(store, _num_bytes(manifest))
                part = self.path / (store.name + _UNFINISHED)
                part.mkdir()
                _copy_store(store, manifest, part)
                shutil.rmtree(self.path / store.name, ignore_errors=True)  # one without a manifest, deleted by half
                part.rename(self.path / store.name)
        return self.copy_of(store)

    def _require_room(self, store: Folder, num_bytes: int) -> None:
        used_bytes = sum(_folder_bytes(marker.parent) for marker in self.path.glob(f"*/{_MANIFEST}"))
        if used_bytes + num_bytes > self.limit_bytes:
            raise CacheRefused(
                f"{store} has {_gib(num_bytes)}, but copies in {self.path} take {_gib(used_bytes)} of "
                f"scaling.cache_gib ({self.limit_bytes / 2**30:g}): the store is read from where it is; "
                f"cache_gib: {-(-(used_bytes + num_bytes) // 2**30)} would hold it, or delete copies there"
            )


class CachedStore:
    """A token store that is read from this node's copy once it exists, and from the storage until then.

    Travels between processes by its settings; each process opens it once.
    """

    def __init__(self, folder: Folder, reading: Reading, cache: Cache) -> None:
        from raycodellm.tokens import TokenStore

        self.folder, self.reading, self.cache = folder, reading, cache
        self._remote = TokenStore.open(folder)
        self._local: TokenStore | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_once, (self.folder, self.reading, self.cache)

    @property
    def manifest(self) -> Manifest:
        return self._remote.manifest

    @property
    def every_token_counts(self) -> bool:
        """True if all tokens of all sequences count in the loss."""
        return self._remote.packed(self.reading).every_token_counts

    def measured(self) -> CachedStore:
        """The documents that are held out of this store."""
        return _opened_once(self.folder, self.reading._replace(measured=True), self.cache)

    def num_sequences(self, sequence_length: int) -> int:
        return self._remote.num_sequences(sequence_length, self.reading)

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
        """As `TokenStore.read`."""
        return self._store().read(sequences, sequence_length, self.reading)

    def read_raw(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray | None]:
        """As `TokenStore.read_raw`."""
        return self._store().read_raw(sequences, sequence_length, self.reading)

    def _store(self) -> TokenStore:
        if self._local is None:
            copy = self.cache.copy_of(self.folder)
            if copy is None:
                return self._remote
            from raycodellm.tokens import TokenStore

            self._local = TokenStore.open(copy)
        return self._local


@lru_cache(maxsize=64)
def _opened_once(folder: Folder, reading: Reading, cache: Cache) -> CachedStore:
    return CachedStore(folder, reading, cache)


def cached(store: PackedStore, scaling: Scaling) -> PackedStore | CachedStore:
    """The store, read as `scaling.cache` says; unchanged where a copy would lie on the same disk.

    Raises UserError when `scaling.cache_folder` cannot be made.
    """
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
    """Copies the cached ones of `stores`, in a thread, while the block runs; starts no copy after its end."""
    cached_stores = [store for store in stores if isinstance(store, CachedStore)]
    stop_requested = threading.Event()
    if not cached_stores:
        yield
        return
    thread = threading.Thread(target=_fill, args=(cached_stores, stop_requested), name="raycodellm-cache", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop_requested.set()  # a copy that has begun goes on: the next stage will use it


def _fill(stores: list[CachedStore], stop_requested: threading.Event) -> None:
    for store in stores:
        try:
            while store.cache.fill(store.folder, store.manifest) is None:  # another process is copying
                if stop_requested.wait(_RETRY_SECONDS):
                    return
        except CacheRefused as refused:
            logger.warning("%s", refused)
        except OSError as error:
            logger.warning("%s is not copied to %s: %s", store.folder, store.cache.path, error)
        if stop_requested.is_set():
            return


# ------------------------------------------------------------------------------------------------------- files


def _copy_store(store: Folder, manifest: Manifest, part: Path) -> None:
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
    num_bytes, digest = 0, hashlib.blake2b(digest_size=16)

    def pieces() -> Iterator[bytes]:
        nonlocal num_bytes
        with store.filesystem.open_input_stream(f"{store.path}/{name}") as source:
            while piece := source.read(_PIECE_BYTES):
                num_bytes += len(piece)
                digest.update(piece)
                yield piece

    _write(target, pieces())
    if (num_bytes, digest.hexdigest()) != (size, checksum):
        raise CacheRefused(
            f"{store}/{name}: {num_bytes} bytes came that are not the {size} of its manifest; not copied"
        )


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """True if this process holds the file's lock inside the block; the system frees it when the process ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _num_bytes(manifest: Manifest) -> int:
    return sum(size for shard in manifest.shards for size, _ in shard.files.values())


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.3g} GiB"
