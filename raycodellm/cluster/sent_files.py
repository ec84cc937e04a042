"""The files that travel with a submitted sweep, and the archive that holds them.

The sweep file travels, and every file that it names by a relative path. Whole paths and addresses name what the nodes
have already.
"""

from __future__ import annotations

import glob
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raycodellm.config import UserError

MOST_BYTES = 100 * 1024**2 - 64 * 1024
"""Bytes of the archive. A Ray cluster's dashboard takes requests of up to 100 MiB."""
_NEVER_SENT = frozenset({"__pycache__", ".venv", "node_modules"})
_DATE = (1980, 1, 1, 0, 0, 0)
"""Time of every file in the archive, so that equal files make an equal archive, which Ray uploads once."""
_NUM_NAMED = 3


@dataclass(frozen=True)
class SentFiles:
    """The files of a job, and their places in its folder."""

    sweep: str
    """Path of the sweep file in the job's folder."""
    files: tuple[tuple[Path, str], ...]
    """(file on this machine, path in the job's folder), the sweep file first."""

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file, _ in self.files)

    def __str__(self) -> str:
        others = len(self.files) - 1
        clause = f" and {others} {'file' if others == 1 else 'files'} that it names" if others else ""
        return f"the sweep file{clause}, {size_text(self.num_bytes)}"


def collect(sweep: Path, start: Path, paths: Iterable[str], others: Iterable[Path] = ()) -> SentFiles:
    """The files of a job whose sweep file names `paths`, each a file, folder or glob relative to the folder `start`.

    `others`: further files, by whole paths. In the job's folder all lie to each other as they do here, with the sweep
    file in the place of `start`.
    """
    sent_paths = dict.fromkeys(file for path in paths for file in _files_at(os.path.join(start, path)))
    sent_paths.update(dict.fromkeys(map(str, others)))
    sent_paths.pop(str(sweep), None)
    top = os.path.commonpath([str(start), *(os.path.dirname(file) for file in sent_paths)])
    sweep_entry = os.path.normpath(os.path.join(os.path.relpath(start, top), sweep.name))
    entries = ((Path(file), os.path.relpath(file, top)) for file in sent_paths)
    return SentFiles(sweep_entry, ((sweep, sweep_entry), *(pair for pair in entries if pair[1] != sweep_entry)))


def _files_at(pattern: str) -> Iterator[str]:
    """Every file at a path, in a folder or of a glob's matches; nothing where there is none."""
    if os.path.isfile(pattern):
        yield os.path.normpath(pattern)
    elif os.path.isdir(pattern):
        for folder, subfolders, files in os.walk(pattern):
            subfolders[:] = sorted(name for name in subfolders if name not in _NEVER_SENT)
            paths = (os.path.normpath(os.path.join(folder, name)) for name in sorted(files))
            yield from (path for path in paths if os.path.isfile(path))  # no pipes, and no links to nothing
    else:
        for match in sorted(glob.glob(pattern, recursive=True)):
            yield from _files_at(match)


def write_archive(sent: SentFiles, archive: Path, most_bytes: int = MOST_BYTES) -> None:
    """Writes the files into a zip archive. Raises `UserError` with the largest entries where the archive is too large
    for a job, or where a file cannot be read."""
    try:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as zipped:
            for file, entry in sent.files:
                info = zipfile.ZipInfo(entry, _DATE)
                info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                with open(file, "rb") as source, zipped.open(info, "w", force_zip64=True) as target:
                    while chunk := source.read(1 << 20):
                        target.write(chunk)
                        if archive.stat().st_size > most_bytes:
                            raise UserError(_too_large(sent, most_bytes))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read to be sent ({error.strerror})") from error
    if archive.stat().st_size > most_bytes:
        raise UserError(_too_large(sent, most_bytes))


def _too_large(sent: SentFiles, most_bytes: int) -> str:
    sizes = Counter[str]()
    sweep_folder = os.path.dirname(sent.sweep)
    for file, entry in sent.files[1:]:
        relative_path = os.path.relpath(entry, sweep_folder or ".")
        sizes["/".join(relative_path.split("/")[:2])] += file.stat().st_size
    largest = ", ".join(f"{name} {size_text(num_bytes)}" for name, num_bytes in sizes.most_common(_NUM_NAMED))
    return (
        f"the files that the sweep names by relative paths are {size_text(sent.num_bytes)}, and a job takes "
        f"{size_text(most_bytes)} compressed; the largest: {largest}; put them where every node sees them, and name "
        "them by a whole path or an s3:// address"
    )


def size_text(num_bytes: float) -> str:
    """`12.3 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.3g} {unit}"


def require_sendable(paths: Sequence[str]) -> None:
    """Raises `UserError` for the working directory itself, which is too much to mean."""
    for path in paths:
        if os.path.normpath(path) in (".", "..") or set(os.path.normpath(path).split("/")) == {".."}:
            raise UserError(f"{path}: would send that whole folder to the cluster; name the files, or a folder in it")
