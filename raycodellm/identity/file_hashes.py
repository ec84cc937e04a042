"""Files by their content: hashes that are worked out once per node, and what a damaged file is known by.

A file's hash is kept under its path, size, change times and inode, so that a model of many gigabytes is read once and
not at every start. The hashes lie in one small file of the user's cache folder; where that cannot be written, or was
damaged, files are hashed again and nothing fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from raycodellm.files import Folder

HASHING_THREADS = 4
CACHE_BYTES = 4 << 20
"""The cache file's size from which its older half is dropped: some 20,000 files."""
RACY_SECONDS = 2.0
"""A file that was changed this short a time ago may change once more without a new time, so its hash is not kept."""
_PIECE_BYTES = 1 << 22


def cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "raycodellm" / "content-hashes.jsonl"


def digest(pieces: Iterable[bytes | memoryview]) -> str:
    """BLAKE2b, 32 hex digits."""
    made = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        made.update(piece)
    return made.hexdigest()


def content_hashes(paths: Sequence[Path | str]) -> list[str]:
    """The hash of each local file's content. Raises OSError for one that cannot be read."""
    return _hashes([(_stamp(Path(path)), partial(content_hash, Path(path))) for path in paths])


def stored_hashes(folder: Folder, names: Sequence[str]) -> list[str]:
    """The hash of each of a folder's files, wherever the folder lies. Raises OSError for one that cannot be read."""
    if folder.local is not None:
        return content_hashes([folder.local / name for name in names])
    infos = folder.filesystem.get_file_info([f"{folder.path}/{name}" for name in names])
    stamps = [[f"{folder.uri}/{name}", info.size, info.mtime_ns] for name, info in zip(names, infos, strict=True)]
    return _hashes([(stamp, _remote_reader(folder, name)) for stamp, name in zip(stamps, names, strict=True)])


def _stamp(path: Path) -> list:
    found = os.stat(path)
    # The inode's own change time cannot be set back, as the content's can.
    return [str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns]


def content_hash(path: Path) -> str:
    """The hash of a local file's content, read now whatever the cache holds."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _remote_reader(folder: Folder, name: str) -> Callable[[], str]:
    def read() -> str:
        with folder.filesystem.open_input_stream(f"{folder.path}/{name}") as stream:
            return digest(iter(lambda: stream.read(_PIECE_BYTES), b""))

    return read


def _hashes(wanted: Sequence[tuple[list, Callable[[], str]]]) -> list[str]:
    keys = [json.dumps(stamp) for stamp, _ in wanted]
    known = _kept()
    if any(key not in known for key in keys):
        with _alone():  # what another process of this node is hashing now is waited for, and then found
            known = _kept()
            missing = {key: read for key, (_, read) in zip(keys, wanted, strict=True) if key not in known}
            with ThreadPoolExecutor(min(HASHING_THREADS, os.cpu_count() or 1)) as pool:
                made = dict(zip(missing, pool.map(lambda read: read(), missing.values()), strict=True))
            settled = time.time_ns() - int(RACY_SECONDS * 1e9)
            old = {json.dumps(stamp) for stamp, _ in wanted if max(stamp[2] or 0, stamp[-1] or 0) < settled}
            _keep({key: found for key, found in made.items() if key in old})
            known = {**known, **made}
    return [known[key] for key in keys]


def _kept() -> dict[str, str]:
    """Stamp -> hash; lines that are no such pair, such as a half-written last one, are passed over."""
    try:
        lines = cache_file().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    known = {}
    for line in lines:
        key, _, found = line.rpartition("\t")
        if key and re.fullmatch(r"[0-9a-f]{32}", found):
            known[key] = found
    return known


def _keep(made: dict[str, str]) -> None:
    if not made:
        return
    path = cache_file()
    with contextlib.suppress(OSError):  # the next start hashes again
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > CACHE_BYTES:
            kept = list(_kept().items())
            shorter = path.with_suffix(f".{os.getpid()}")
            shorter.write_text("".join(f"{key}\t{found}\n" for key, found in kept[len(kept) // 2 :]), encoding="utf-8")
            shorter.replace(path)
        with open(path, "a", encoding="utf-8") as file:
            file.write("".join(f"{key}\t{found}\n" for key, found in made.items()))


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One process of a node hashes at a time; where the cache folder cannot be written, each for itself."""
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
