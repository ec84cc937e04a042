"""Lists files and objects: one, those below a folder, or those that match a glob.

Below a local folder hidden files and folders are left out. Links are followed only inside the folder: a link out of the
folder would make a document of any file of the machine. Everything left out is counted.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache

from raycodellm.config import UserError
from raycodellm.config.errors import nearest_place
from raycodellm.corpora.content import open_bucket
from raycodellm.corpora.inputs import InputFile
from raycodellm.corpora.listing.globs import Glob, is_glob, split_glob

NEVER_ENTERED = frozenset({"node_modules", "__pycache__"})
"""Folders that are skipped wherever they are."""
NOT_ENTERED = "not entered: "
"""Begins the reasons for hidden files and folders, which count only in source trees."""
_LINK_OUT = "link out of the folder"
_NO_FILE = "no file (a pipe, a device, a socket, or a link to nothing)"
_LOCKED = "folder that cannot be opened"


def list_local(root: str, excluded: Counter[str]) -> list[InputFile]:
    """The files at `root`, a file, a folder or a glob, with the time of change for a digest. Raises UserError."""
    entries: list[_Entry]
    if os.path.isfile(root):
        entries, base = [(root, None)], os.path.dirname(root)
    elif os.path.isdir(root):
        entries, base = list(_walk(root, _inside_check(root))), root
    elif os.path.exists(root):
        raise UserError(f"{root}: is a pipe, a device or a socket; give a file, a folder or a glob")
    elif is_glob(root):
        base, pattern = split_glob(root)
        entries = sorted(set(_matching_entries(root, base, pattern)), key=lambda entry: entry[0])
    else:
        raise UserError(f"{root}: there is no such file or folder; {nearest_place(root)}")
    excluded.update(reason for _, reason in entries if reason)
    stats = [(path, os.stat(path)) for path, reason in entries if reason is None]
    return [InputFile(path, stat.st_size, str(stat.st_mtime_ns), name_of(path, base)) for path, stat in stats]


_Entry = tuple[str, str | None]
"""(path, why it is left out; None for a file to read)"""
_IsInside = Callable[[str], bool]
"""True if a path leads to a file or folder inside the listed folder."""


def _matching_entries(path: str, base: str, pattern: Glob) -> Iterator[_Entry]:
    is_inside = _inside_check(base)
    if "**" in path:  # `glob` follows links to folders, and would go round and round through a link upwards
        yield from (entry for entry in _walk(base, is_inside) if pattern.match(os.path.relpath(entry[0], base)))
        return
    for match in glob.glob(path):
        if not os.path.isdir(match):
            yield match, _reason_to_exclude(match, is_inside)
        elif is_inside(match):
            yield from _walk(match, is_inside)
        else:
            yield match, _LINK_OUT


def _walk(root: str, is_inside: _IsInside) -> Iterator[_Entry]:
    """All files and all that is left out below `root`, sorted by name in each folder."""
    locked: list[OSError] = []
    for folder, names, files in os.walk(root, onerror=locked.append):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name.startswith(".") or name in NEVER_ENTERED:
                label = name if name in (*NEVER_ENTERED, ".git", ".hg", ".svn") else "hidden folder"
                yield path, f"{NOT_ENTERED}{label}"
            elif os.path.islink(path) and not is_inside(path):
                yield path, _LINK_OUT  # a link to a folder inside is skipped: its target is listed by itself
        names[:] = sorted(name for name in names if not name.startswith(".") and name not in NEVER_ENTERED)
        for name in sorted(files):
            path = os.path.join(folder, name)
            yield path, f"{NOT_ENTERED}hidden file" if name.startswith(".") else _reason_to_exclude(path, is_inside)
    yield from ((error.filename, _LOCKED) for error in locked)


def _reason_to_exclude(path: str, is_inside: _IsInside) -> str | None:
    """The reason why a file is left out; None if it is read."""
    if not os.path.isfile(path):
        return _NO_FILE
    return None if is_inside(path) else _LINK_OUT


def _inside_check(base: str) -> _IsInside:
    """A function that is True for a path below `base` that leads, through any links, to a file or folder below `base`.

    The hub's cache keeps a data set as links from `snapshots` to `blobs` beside it; both count as one folder.
    """
    real = os.path.realpath(base)
    before, _, after = real.rpartition("/snapshots/")
    roots = [real, f"{before}/blobs"] if before and after else [real]
    folders = lru_cache(maxsize=1024)(os.path.realpath)  # of a file that is no link only the folder is resolved

    def is_inside(path: str) -> bool:
        folder, name = os.path.split(path)
        target = os.path.realpath(path) if os.path.islink(path) else os.path.join(folders(folder), name)
        return any(os.path.commonpath([root, target]) == root for root in roots)

    return is_inside


def name_of(path: str, base: str) -> str:
    """Path inside the source, in which bytes that are no UTF-8 are replaced: document ids hold the path."""
    return os.fsencode(os.path.relpath(path, base)).decode(errors="replace")


# ------------------------------------------------------------------------------------------------------- object stores


def list_remote(root: str) -> list[InputFile]:
    """The objects at `root`, an object, a folder or a glob, with the time of change for a digest. Raises UserError."""
    from pyarrow.fs import FileSelector, FileType

    base, pattern = split_glob(root)
    filesystem, path = open_bucket(base)
    info = filesystem.get_file_info(path)
    if info.type == FileType.NotFound:
        raise UserError(f"{root}: there is no such object or folder, or no such bucket")
    infos = [info] if info.is_file else filesystem.get_file_info(FileSelector(path, recursive=True))
    top = path.rpartition("/")[0] if info.is_file else path
    inputs = []
    for file in infos:
        name = file.path.removeprefix(top).lstrip("/")
        is_hidden = any(part.startswith(".") or part in NEVER_ENTERED for part in name.split("/"))
        if file.is_file and not is_hidden and pattern.match(name):
            uri = base if info.is_file else f"{base}/{name}"
            inputs.append(InputFile(uri, file.size, str(file.mtime_ns), name))
    return inputs


_REFUSED = (
    r"ACCESS_?DENIED|Forbidden|HTTP status 403|INVALID_?ACCESS_?KEY|SIGNATURE|access token|Permission.?denied"
    r"|UNAUTHENTICATED|\] 40[13] "
)
"""Words with which a store refuses access."""
_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfss": "AZURE_STORAGE_KEY",
}
"""By scheme, the variables with the credentials of a store."""


def storage_hint(root: str, error: Exception) -> str:
    """Advice to add to the message of an object store's refusal; empty for local paths."""
    message = str(error)
    scheme, bucket = root.split("://")[0], "/".join(root.split("/")[:3])
    if scheme not in _KEYS or "://" not in root:
        return ""
    if re.search(_REFUSED, message, re.I):
        public = "" if scheme == "abfss" else f", or write {scheme}://anonymous@… for a public one"
        return f"; set {_KEYS[scheme]} for {bucket}{public}"
    if re.search(r"NO_SUCH_BUCKET|NoSuchBucket|HTTP status 404|ucket .* not found|ContainerNotFound", message):
        elsewhere = ", and AWS_ENDPOINT_URL where it is not on AWS" if scheme == "s3" else ""
        return f"; there is no bucket {bucket}: check its name{elsewhere}"
    elsewhere = f", and AWS_ENDPOINT_URL and AWS_REGION where {bucket} is not on AWS" if scheme == "s3" else ""
    return f"; check the network{elsewhere}"
