"""Opens the file system of an address. The folders of one bucket share one, and with it its connections.

Every new connection to an object store costs three round trips before its first request.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_OPTIONS = {
    # A small file is then written by one request. By default pyarrow begins, fills and ends an upload in parts.
    "s3": "allow_delayed_open=true",
    # By default pyarrow tries an unreachable store for 15 minutes before it raises.
    "gs": "retry_limit_seconds=60",
    "gcs": "retry_limit_seconds=60",
}
"""By scheme, what is asked of a store unless the address says otherwise."""


def open_file_system(uri: str) -> tuple[FileSystem, str]:
    """The file system, and the path of the address in it. `uri`: a local path, or an address. Raises pyarrow's errors
    for an address that it cannot open."""
    from pyarrow.fs import FileSystem

    scheme, mark, rest = uri.partition("://")
    if not mark:
        return _local(), uri
    if scheme not in _OPTIONS:
        return FileSystem.from_uri(uri)
    place, _, options = rest.partition("?")
    bucket, _, path = place.partition("/")
    if _OPTIONS[scheme].partition("=")[0] not in options:
        options = f"{options}&{_OPTIONS[scheme]}" if options else _OPTIONS[scheme]
    opened, root = _open_bucket(f"{scheme}://{bucket}?{options}", os.getpid())
    return opened, f"{root}/{unquote(path)}".rstrip("/")


@functools.cache
def _local() -> FileSystem:
    from pyarrow.fs import LocalFileSystem

    return LocalFileSystem()


@functools.lru_cache(maxsize=64)
def _open_bucket(uri: str, process: int) -> tuple[FileSystem, str]:
    """`process`: its number, since a process that was forked cannot use its parent's connections."""
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(uri)


def forget_buckets() -> None:
    """Closes the shared connections: the next folder is opened anew, with the environment's settings as they are."""
    _open_bucket.cache_clear()
