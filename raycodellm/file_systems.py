"""Opens the file system of an address, and evens out what pyarrow does differently on the stores.

The folders of one bucket share a file system, and with it its connections.

Every new connection to an object store costs three round trips before its first request.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from raycodellm import azure

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

_OPTIONS = {
    # A small file is then written by one request. By default pyarrow begins, fills and ends an upload in parts.
    "s3": "allow_delayed_open=true",
    # By default pyarrow tries an unreachable store for 15 minutes before it raises.
    "gs": "retry_limit_seconds=60",
    "gcs": "retry_limit_seconds=60",
}
"""Maps a scheme to the option that its stores are opened with, unless the address sets it."""
_DELETIONS = 5
"""Tries to delete a folder of which other processes delete files, too."""


def open_file_system(uri: str) -> tuple[FileSystem, str]:
    """The file system, and the path of the address in it. `uri`: a local path, or an address. Raises pyarrow's errors
    for an address that it cannot open."""
    from pyarrow.fs import FileSystem

    scheme, mark, rest = uri.partition("://")
    if not mark:
        return _local(), uri
    if (container := azure.container_of(uri)) is not None:
        path = unquote(rest.partition("/")[2])
        return _open_azure(container, os.getpid()), f"{container.name}/{path}".rstrip("/")
    if scheme not in _OPTIONS:
        return FileSystem.from_uri(uri)
    address, _, options = rest.partition("?")
    bucket, _, path = address.partition("/")
    if scheme in ("gs", "gcs") and "endpoint_override" not in options and (url := google_emulator()):
        bucket = f"anonymous@{bucket.rpartition('@')[2]}"
        options = f"{options}{options and '&'}scheme={url[0]}&endpoint_override={url[1]}"
    if _OPTIONS[scheme].partition("=")[0] not in options:
        options = f"{options}&{_OPTIONS[scheme]}" if options else _OPTIONS[scheme]
    system, root = _open_bucket(f"{scheme}://{bucket}?{options}", os.getpid())
    return system, f"{root}/{unquote(path)}".rstrip("/")


@functools.cache
def _local() -> FileSystem:
    from pyarrow.fs import LocalFileSystem

    return LocalFileSystem()


@functools.lru_cache(maxsize=64)
def _open_bucket(uri: str, process: int) -> tuple[FileSystem, str]:
    """`process`: its number, since a process that was forked cannot use its parent's connections."""
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(uri)


def google_emulator() -> tuple[str, str] | None:
    """Scheme and host of the server that stands in for Google's storage, as `STORAGE_EMULATOR_HOST` names it for
    Google's own libraries; None without one."""
    scheme, mark, host = os.environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/").rpartition("://")
    return (scheme if mark else "http", host) if host else None


def entries(system: FileSystem, path: str) -> list[FileInfo]:
    """The files and folders right in a folder; none of a folder that does not exist.

    Of Google's storage pyarrow lists only those folders that have an object of their own. Writing a file makes no such
    object, so there the folders are taken from the names of all files below, a thousand per request.
    """
    from pyarrow.fs import FileInfo, FileSelector, FileType

    if system.type_name != "gcs":
        return system.get_file_info(FileSelector(path, allow_not_found=True))
    infos: dict[str, FileInfo] = {}
    for info in entries_below(system, path):
        name, _, rest = info.path[len(path) + 1 :].partition("/")
        if not rest:
            infos[name] = info
        elif name not in infos:
            infos[name] = FileInfo(f"{path}/{name}", FileType.Directory)
    return list(infos.values())


def entries_below(system: FileSystem, path: str) -> list[FileInfo]:
    """The files below a folder, and those folders that the storage knows as such; none of a folder that does not
    exist."""
    from pyarrow.fs import FileSelector

    return system.get_file_info(FileSelector(path, allow_not_found=True, recursive=True))


def delete_folder(system: FileSystem, path: str) -> None:
    """Deletes a folder with its content.

    On Google's storage pyarrow fails at the end for a folder without an object of its own, and at once where another
    process has deleted a file after pyarrow listed it. Then the folder is listed anew until nothing is left.
    """
    for _ in range(_DELETIONS):
        try:
            system.delete_dir(path)
            return
        except FileNotFoundError:
            if not entries_below(system, path):
                return
    system.delete_dir(path)


@functools.lru_cache(maxsize=64)
def _open_azure(container: azure.Container, process: int) -> FileSystem:
    return container.opened()


def for_ray(uri: str) -> dict[str, Any]:
    """The fields of Ray's run configurations that name a folder. Ray opens most addresses by itself; it does not hear
    the variables of Azure, nor `STORAGE_EMULATOR_HOST`."""
    is_google = uri.startswith(("gs://", "gcs://"))
    if azure.container_of(uri) is None and not (is_google and google_emulator()):
        return {"storage_path": uri}
    system, path = open_file_system(uri)
    return {"storage_path": path, "storage_filesystem": system}


def forget_buckets() -> None:
    """Closes the shared connections: the next folder is opened anew, with the environment's settings as they are."""
    for cached_function in (_open_bucket, _open_azure, azure._store):
        cached_function.cache_clear()
