"""Lists files below a folder or matching a glob, on local disks and on object stores.

Below a folder hidden files and folders are left out, and links are followed only to what is in the folder: a link that
leads out of it would make a document of whatever file of the machine it names. All that is left out is counted.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from raycodellm.config import UserError
from raycodellm.corpora import hub, layouts, trees
from raycodellm.files import Folder

NOT_ENTERED = "not entered: "
LINK_OUT = "link out of the folder"
NO_FILE = "no file (a pipe, a device, a socket, or a link to nothing)"
LOCKED = "folder that cannot be opened"


class Found(NamedTuple):
    uri: str
    name: str
    num_bytes: int
    changed: str
    """Time of change, or what else tells two states of a file apart."""


def is_glob(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def list_local(root: str, excluded: Counter[str]) -> list[Found]:
    """The files at `root`: a file, a folder or a glob. Raises UserError for what is none of these."""
    if os.path.isfile(root):
        entries, base = [(root, None)], os.path.dirname(root)
    elif os.path.isdir(root):
        entries, base = list(_walk(root, _stays_in(root))), root
    elif os.path.exists(root):
        raise UserError(f"{root}: is a pipe, a device or a socket; give a file, a folder or a glob")
    elif is_glob(root):
        base = fixed_part(root)
        entries = sorted(set(_matching(root, base)), key=lambda entry: entry[0])
    else:
        parent = Path(root)
        while not parent.exists():
            parent = parent.parent
        raise UserError(f"{root}: there is no such file or folder; the nearest folder that exists is {parent}")
    excluded.update(reason for _, reason in entries if reason)
    stats = [(path, os.stat(path)) for path, reason in entries if reason is None]
    return [Found(path, name_of(path, base), stat.st_size, str(stat.st_mtime_ns)) for path, stat in stats]


_Entry = tuple[str, str | None]
"""(path, why it is left out; None for a file to read)"""
_Stays = Callable[[str], bool]


def _matching(pattern: str, base: str) -> Iterator[_Entry]:
    stays = _stays_in(base)
    if "**" in pattern:  # `glob` would follow links to folders, and through them come back again and again
        wanted = layouts.Glob(os.path.relpath(pattern, base))
        yield from (entry for entry in _walk(base, stays) if wanted.match(os.path.relpath(entry[0], base)))
        return
    for match in glob.glob(pattern):
        if not os.path.isdir(match):
            yield match, _reason(match, stays)
        elif stays(match):
            yield from _walk(match, stays)
        else:
            yield match, LINK_OUT


def _walk(root: str, stays: _Stays) -> Iterator[_Entry]:
    """All files below `root`, by name, and what is left out."""
    locked: list[OSError] = []
    for folder, names, files in os.walk(root, onerror=locked.append):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name.startswith(".") or name in trees.NEVER_ENTERED:
                shown = name if name in (*trees.NEVER_ENTERED, ".git", ".hg", ".svn") else "hidden folder"
                yield path, f"{NOT_ENTERED}{shown}"
            elif os.path.islink(path) and not stays(path):
                yield path, LINK_OUT  # what a link inside the folder leads to is read in its own place
        names[:] = sorted(n for n in names if not n.startswith(".") and n not in trees.NEVER_ENTERED)
        for name in sorted(files):
            path = os.path.join(folder, name)
            yield path, f"{NOT_ENTERED}hidden file" if name.startswith(".") else _reason(path, stays)
    yield from ((error.filename, LOCKED) for error in locked)


def _reason(path: str, stays: _Stays) -> str | None:
    if not os.path.isfile(path):
        return NO_FILE
    return None if stays(path) else LINK_OUT


def _stays_in(base: str) -> _Stays:
    """Does a path below `base` lead to something below `base`, whatever links are on its way?

    The hub's cache keeps a data set as links from `snapshots` to `blobs` beside it: these count as one folder.
    """
    real = os.path.realpath(base)
    before, _, after = real.rpartition("/snapshots/")
    roots = [real, f"{before}/blobs"] if before and after else [real]
    folders = lru_cache(maxsize=1024)(os.path.realpath)  # a link's own path is worked out, else its folder's is enough

    def stays(path: str) -> bool:
        folder, name = os.path.split(path)
        target = os.path.realpath(path) if os.path.islink(path) else os.path.join(folders(folder), name)
        return any(os.path.commonpath([root, target]) == root for root in roots)

    return stays


def name_of(path: str, base: str) -> str:
    """Path inside the source; a name that is no UTF-8 gets replacement signs, since it becomes part of document ids."""
    return os.fsencode(os.path.relpath(path, base)).decode(errors="replace")


def fixed_part(pattern: str) -> str:
    """The folder above a glob's first sign."""
    return re.split(r"[*?\[]", pattern)[0].rpartition("/")[0] or "/"


def list_remote(root: str) -> list[Found]:
    from pyarrow.fs import FileSelector, FileType

    base = fixed_part(root) if is_glob(root) else root
    filesystem, path = open_bucket(base)
    info = filesystem.get_file_info(path)
    if info.type == FileType.NotFound:
        raise UserError(f"{root}: there is no such object or folder, or no such bucket")
    infos = [info] if info.is_file else filesystem.get_file_info(FileSelector(path, recursive=True))
    top = path.rpartition("/")[0] if info.is_file else path
    matching = layouts.Glob(root.removeprefix(base).lstrip("/")) if is_glob(root) else re.compile("")
    found = []
    for file in infos:
        name = file.path.removeprefix(top).lstrip("/")
        hidden = any(part.startswith(".") or part in trees.NEVER_ENTERED for part in name.split("/"))
        if file.is_file and not hidden and matching.match(name):
            uri = base if info.is_file else f"{base}/{name}"
            found.append(Found(uri, name, file.size, str(file.mtime_ns)))
    return found


def storage_hint(root: str, error: Exception) -> str:
    """Advice about an object store's refusal."""
    said = str(error)
    scheme, bucket = root.split("://")[0], "/".join(root.split("/")[:3])
    if scheme not in ("s3", "gs") or "://" not in root:
        return ""
    if re.search(r"ACCESS_?DENIED|Forbidden|HTTP status 403|INVALID_?ACCESS_?KEY|SIGNATURE|access token", said, re.I):
        keys = {"s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,"}
        key = keys.get(scheme, "GOOGLE_APPLICATION_CREDENTIALS")
        return f"; set {key} for {bucket}, or write {scheme}://anonymous@… for a public one"
    if re.search(r"NO_SUCH_BUCKET|NoSuchBucket|HTTP status 404|ucket .* not found", said):
        return f"; there is no bucket {bucket}: check its name, and AWS_ENDPOINT_URL where it is not on AWS"
    return f"; check the network, and AWS_ENDPOINT_URL and AWS_REGION where {bucket} is not on AWS"


def open_bucket(uri: str) -> tuple[Any, str]:
    """(pyarrow file system, path in it), opened once per process and bucket."""
    if uri.startswith(hub.SCHEME):
        return hub.hub_filesystem(), hub.hub_path(uri)
    scheme, _, rest = uri.partition("://")
    bucket, _, path = rest.partition("/")
    opened = _bucket(f"{scheme}://{bucket}")
    return opened.filesystem, f"{opened.path.rstrip('/')}/{path}".rstrip("/")


@lru_cache(maxsize=64)
def _bucket(uri: str) -> Folder:
    return Folder(uri)
