"""The study's journal on an object store, where no file grows: `optuna.log`, and its newest lines in parts.

A suggestion adds one small part. The part's name says which bytes come before it in the journal: how many, and their
checksum. When the parts have grown to half of `optuna.log`, and when the driver ends, `optuna.log` is written whole and
the parts are deleted. So each line is written about four times, however long the journal gets.

A driver that is killed between two of these requests leaves a journal that is read whole: a part that `optuna.log`
holds already does not continue it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raycodellm.files import Folder

JOURNAL = "optuna.log"
PARTS = "optuna.log.parts"
MERGE_BYTES = 1 << 16
"""Parts of fewer bytes together are not merged: about 50 suggestions."""
_READERS = 16


def read_journal(folder: Folder) -> bytes | None:
    """The journal of a run folder with its parts; None when there is none."""
    journal, parts = _read_files(folder)
    return None if journal is None and not parts else joined(journal or b"", parts)


def _read_files(folder: Folder) -> tuple[bytes | None, dict[str, bytes]]:
    """`optuna.log`, None when there is none; and the parts by their names."""
    names = (folder / PARTS).list()
    with ThreadPoolExecutor(_READERS) as pool:  # each read waits for the network
        parts = list(pool.map(lambda name: _read(folder / PARTS, name), names))
    # Read after the parts: a part that is merged meanwhile is in the file then.
    journal = _read(folder, JOURNAL)
    return journal, {name: part for name, part in zip(names, parts, strict=True) if part}


def _read(folder: Folder, name: str) -> bytes | None:
    try:
        return folder.read_bytes(name)
    except FileNotFoundError:
        return None


def joined(journal: bytes, parts: Mapping[str, bytes]) -> bytes:
    """The journal, followed by the parts that continue it. `parts`: by their names.

    Where two drivers wrote a part at the same place, the part of the later driver counts.
    """
    pieces, length, checksum = [journal], len(journal), zlib.crc32(journal)
    while names := [name for name, part in parts.items() if part and name.startswith(_part_prefix(length, checksum))]:
        piece = parts[max(names)]
        pieces.append(piece)
        length, checksum = length + len(piece), zlib.crc32(piece, checksum)
    return b"".join(pieces)


def _part_prefix(length: int, checksum: int) -> str:
    """Beginning of the name of a part that follows so many bytes with this checksum."""
    return f"{length:012d}-{checksum:08x}-"


class JournalCopy:
    """A driver's copy, on an object store, of the journal that it writes on its own disk."""

    def __init__(self, folder: Folder, journal: Path, generation: int) -> None:
        """`generation`: of the driver; higher than that of every driver before it."""
        self._folder, self._journal, self._generation = folder, journal, generation
        self._length = self._checksum = 0
        """Bytes and checksum of the lines that the object store has."""
        self._num_part_bytes = 0
        self._must_merge = False
        """True if a part could not continue what the object store has."""

    def fetch(self) -> None:
        """Fetches the journal as the last driver left it."""
        journal, parts = _read_files(self._folder)
        if journal is None and not parts:
            self._journal.unlink(missing_ok=True)  # of an earlier run at the same address
            return
        content = joined(journal or b"", parts)
        lines = content[: content.rfind(b"\n") + 1]
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        self._journal.write_bytes(lines)
        self._must_merge = lines != journal or bool(parts)
        self._length, self._checksum = len(lines), zlib.crc32(lines)

    def keep(self) -> None:
        """Writes the journal's new lines to the object store."""
        if self._must_merge:
            self.merge()
            return
        with open(self._journal, "rb") as file:
            file.seek(self._length)
            lines = file.read()
        if not lines:
            return
        name = f"{_part_prefix(self._length, self._checksum)}{self._generation:04d}"
        (self._folder / PARTS).write_bytes(name, lines)
        self._length += len(lines)
        self._checksum = zlib.crc32(lines, self._checksum)
        self._num_part_bytes += len(lines)
        if self._num_part_bytes > max(MERGE_BYTES, (self._length - self._num_part_bytes) // 2):
            self.merge()

    def merge(self) -> None:
        """Writes the journal whole and deletes its parts, unless the object store has it so."""
        lines = self._journal.read_bytes() if self._journal.exists() else b""
        is_kept = (self._length, self._checksum) == (len(lines), zlib.crc32(lines))
        if is_kept and not self._num_part_bytes and not self._must_merge:
            return
        self._folder.write_bytes(JOURNAL, lines)
        (self._folder / PARTS).delete()
        self._length, self._checksum = len(lines), zlib.crc32(lines)
        self._num_part_bytes, self._must_merge = 0, False
