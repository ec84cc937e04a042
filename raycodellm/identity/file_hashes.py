"""Hashes of files' contents, computed once per node.

A hash is kept under the file's path, size, change times and inode, so that a model of many gigabytes is read once and
not at every start. All hashes are in one small file of the user's cache folder. Where that file cannot be written, or
is damaged, files are hashed again and nothing fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raycodellm.files import Folder

HASHING_THREADS = 4
CACHE_BYTES = 4 << 20
"""Size of the cache file from which its older half is dropped: about 20,000 hashes."""
RACY_SECONDS = 2.0
"""A file that changed this recently may change again within the clock's resolution, so its hash is not kept."""
_PIECE_BYTES = 1 << 22


def cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "raycodellm" / "content-hashes.jsonl"


def digest(pieces: Iterable[bytes | memoryview]) -> str:
    """BLAKE2b, 32 hex digits."""
    hasher = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()


def content_hashes(paths: Sequence[Path | str]) -> list[str]:
    """The hash of each local file's content. Raises OSError for one that cannot be read."""
    return _cached_hashes([(_stamp(Path(path)), functools.partial(content_hash, Path(path))) for path in paths])


def stored_hashes(folder: Folder, names: Sequence[str]) -> list[str]:
    """The hash of each of a folder's files, wherever the folder lies. Raises OSError for one that cannot be read."""
    if folder.local is not None:
        return content_hashes([folder.local / name for name in names])
    infos = folder.filesystem.get_file_info([f"{folder.path}/{name}" for name in names])
    stamps = [[f"{folder.uri}/{name}", info.size, info.mtime_ns] for name, info in zip(names, infos, strict=True)]
    return _cached_hashes([(stamp, _remote_reader(folder, name)) for stamp, name in zip(stamps, names, strict=True)])


def _stamp(path: Path) -> list:
    """The key of a local file's hash."""
    status = os.stat(path)
    # The modification time can be set back; the inode's change time cannot.
    return [str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]


def content_hash(path: Path) -> str:
    """The hash of a local file's content, read now whatever the cache holds."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _remote_reader(folder: Folder, name: str) -> Callable[[], str]:
    def compute() -> str:
        with folder.filesystem.open_input_stream(f"{folder.path}/{name}") as stream:
            return digest(iter(lambda: stream.read(_PIECE_BYTES), b""))

    return compute


def _cached_hashes(readers: Sequence[tuple[list, Callable[[], str]]]) -> list[str]:
    keys = [json.dumps(stamp) for stamp, _ in readers]
    hashes = _read_cache()
    if any(key not in hashes for key in keys):
        with _one_process_at_a_time():  # waits for the hashes that another process of this node computes now
            hashes = _read_cache()
            missing = {key: compute for key, (_, compute) in zip(keys, readers, strict=True) if key not in hashes}
            with ThreadPoolExecutor(min(HASHING_THREADS, os.cpu_count() or 1)) as pool:
                values = pool.map(lambda compute: compute(), missing.values())
                new_hashes = dict(zip(missing, values, strict=True))
            settled = time.time_ns() - int(RACY_SECONDS * 1e9)
            settled_keys = {json.dumps(stamp) for stamp, _ in readers if max(stamp[2] or 0, stamp[-1] or 0) < settled}
            _add_to_cache({key: value for key, value in new_hashes.items() if key in settled_keys})
            hashes = {**hashes, **new_hashes}
    return [hashes[key] for key in keys]


def _read_cache() -> dict[str, str]:
    """Key -> hash, from the cache file."""
    path = cache_file()
    try:
        status = path.stat()
        return _parse_cache(path, status.st_ino, status.st_size, status.st_mtime_ns)
    except OSError:
        return {}


@functools.lru_cache(maxsize=1)  # one command asks many times, and 20,000 lines take 20 ms
def _parse_cache(path: Path, *of_this_content: int) -> dict[str, str]:
    """Key -> hash. Skips lines that are no such pair, such as a half-written last line."""
    hashes = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.rpartition("\t")
        if key and re.fullmatch(r"[0-9a-f]{32}", value):
            hashes[key] = value
    return hashes


def _add_to_cache(new_hashes: dict[str, str]) -> None:
    if not new_hashes:
        return
    path = cache_file()
    with contextlib.suppress(OSError):  # the next start hashes again
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > CACHE_BYTES:
            entries = list(_read_cache().items())
            shorter = path.with_suffix(f".{os.getpid()}")
            newer = entries[len(entries) // 2 :]
            shorter.write_text("".join(f"{key}\t{value}\n" for key, value in newer), encoding="utf-8")
            shorter.replace(path)
        with open(path, "a", encoding="utf-8") as file:
            file.write("".join(f"{key}\t{value}\n" for key, value in new_hashes.items()))


@contextlib.contextmanager
def _one_process_at_a_time() -> Iterator[None]:
    """Lets one process of a node hash at a time; without effect where the cache folder cannot be written."""
    try:
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        lock = open(cache_file().with_suffix(".lock"), "w")  # noqa: SIM115 - closed below
    except OSError:
        yield
        return
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
