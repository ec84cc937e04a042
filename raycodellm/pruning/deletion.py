"""Deletes what a plan names, so that neither a killed deletion nor a sweep that begins meanwhile comes to harm.

1. The files that make things look finished go first: whatever happens next, the next run makes these things again. On a
   local disk they get another name, so that they come back also where the disk is full.
2. The sweeps' needs are read once more. A trial writes which stages it needs before it looks whether they are finished.
   So a trial that has seen one finished is seen here: that stage gets its marker back and stays. A trial that comes
   later finds the stage unfinished and trains it.
3. The rest goes, but for what somebody has written to since it was listed: a trial that makes the same thing again. On
   a local disk a folder first gets another name, and gets its own back where that has happened at the last moment. On
   an object store the deletion takes a request or two.

Steps 2 and 3 look at folders that others may have written to a moment ago (`listing.see_anew`).

A deletion that is stopped, as by Ctrl-C, leaves what it has not begun to delete as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from raycodellm.files import Folder, cause
from raycodellm.pruning.kinds import PRUNED
from raycodellm.pruning.listing import StoredFile, files_below, see_anew
from raycodellm.pruning.plan import RUNS, Item, Plan

_NO_RENAME = (errno.ENOENT, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)
"""Errors of a folder that is gone, and of a mounted object store, which renames no folder: it is deleted in place."""
_WORKERS = 32
"""Requests at once to an object store, which answers each after some 50 ms."""


@dataclass(frozen=True)
class Deleted:
    """The things that were deleted, and those that were not."""

    items: tuple[Item, ...] = ()
    spared: tuple[Item, ...] = ()
    """Needed by a sweep since the last moment."""
    failed: tuple[tuple[str, str], ...] = ()
    """(Path, cause) of each item that the storage did not let go, or not whole."""

    @property
    def num_bytes(self) -> int:
        return sum(item.num_bytes for item in self.items)


def carry_out(storage: Folder, plan: Plan, look_again: Callable[[], Plan]) -> Deleted:
    """Deletes the plan's items. `look_again`: the plan as the sweeps' needs are then."""
    deletion = _Deletion(storage)
    try:
        return _in_order(deletion, plan, look_again)
    except BaseException:  # Ctrl-C, or nothing is known of what is needed now
        deletion.each(
            deletion.give_back, [item for item in plan.items if item.path not in deletion.begun | deletion.spared]
        )
        raise


def _in_order(deletion: _Deletion, plan: Plan, look_again: Callable[[], Plan]) -> Deleted:
    runs = [item for item in plan.items if item.group == RUNS]
    others = [item for item in plan.items if item.group != RUNS]
    deletion.each(deletion.unmark, runs)
    deletion.each(deletion.delete, [run for run in runs if run.path not in deletion.failed])
    if deletion.failed:  # a run folder that stays needs its stages
        deletion.each(deletion.give_back, runs)
        return Deleted(
            tuple(run for run in runs if run.path not in deletion.failed), (), tuple(deletion.failed.items())
        )
    deletion.each(deletion.unmark, others)
    unneeded_paths = {item.path for item in look_again().items}
    deletion.each(
        deletion.give_back, [item for item in others if item.path not in unneeded_paths or item.path in deletion.failed]
    )
    deletion.spared.update(item.path for item in others if item.path not in unneeded_paths)
    deletion.each(deletion.delete, [item for item in others if not deletion.stays(item)])
    deleted = tuple(item for item in plan.items if not deletion.stays(item))
    return Deleted(
        deleted, tuple(item for item in others if item.path in deletion.spared), tuple(deletion.failed.items())
    )


class _Deletion:
    """One deletion: the content of the markers, and the items that could not be deleted."""

    def __init__(self, storage: Folder) -> None:
        self._storage = storage
        self._marker_contents: dict[str, dict[str, bytes | None]] = {}
        """Maps each item to the content of its markers, by path; None for a marker that has another name now."""
        self.begun: set[str] = set()
        """Paths of items of which something besides markers may be gone."""
        self.failed: dict[str, str] = {}
        """Maps the path of an item to why it was not deleted."""
        self.spared: set[str] = set()
        """Paths of items that somebody needs, or has begun to make again."""

    def stays(self, item: Item) -> bool:
        return item.path in self.failed or item.path in self.spared

    def each(self, act: Callable[[Item], None], items: Sequence[Item]) -> None:
        """Does `act` for each item. Where the storage does not let one go, such as another user's, notes the cause in
        `failed` and goes on with the others."""

        def attempt(item: Item) -> None:
            try:
                act(item)
            except OSError as error:
                self.failed[item.path] = cause(error)

        if self._storage.local is not None:  # where threads only delay each other, and Ctrl-C
            for item in items:
                attempt(item)
            return
        with ThreadPoolExecutor(_WORKERS) as pool:
            list(pool.map(attempt, items))

    def unmark(self, item: Item) -> None:
        contents = self._marker_contents.setdefault(item.path, {})
        for path in item.markers:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, by a run that makes it again, say
                contents[path] = self._take(path)

    def _take(self, path: str) -> bytes | None:
        """Takes a marker away; returns its content, or None where that lies beside it under another name."""
        if self._storage.local is not None:
            marker = self._storage.local / path
            try:
                os.rename(marker, _hidden(marker))
                return None
            except OSError as error:
                if error.errno == errno.ENOENT or error.errno not in _NO_RENAME:
                    raise
        content = self._storage.read_bytes(path)
        self._storage.delete(path)
        return content

    def give_back(self, item: Item) -> None:
        """Gives an item's markers back, but for one that somebody has written anew."""
        for path, content in reversed(self._marker_contents.get(item.path, {}).items()):
            folder, _, name = path.rpartition("/")
            if content is not None:
                if (self._storage / folder).exists():
                    (self._storage / folder).write_bytes(name, content)
            elif not self._storage.exists(path):
                marker = Path(self._storage.uri, path)
                with contextlib.suppress(FileNotFoundError):  # with its folder
                    os.rename(_hidden(marker), marker)

    def delete(self, item: Item) -> None:
        """Deletes an item, but not what somebody has written there since it was listed: whoever has found it unfinished
        makes it again, which may take less time than the deletion of a thousand others."""
        if item.group != RUNS and _has_changed(self._storage / item.path, item):
            self.spared.add(item.path)
        elif self._storage.local is None or item.is_file:
            self.begun.add(item.path)
            self._storage.delete(item.path)
        else:
            self._delete_folder(self._storage.local / item.path, item)

    def _delete_folder(self, path: Path, item: Item) -> None:
        """Deletes a local folder, but not what somebody writes there at this moment."""
        try:
            hidden = _hide(path)
        except OSError:
            self.give_back(item)
            raise
        if hidden != path and item.group != RUNS and _has_changed(Folder(str(hidden)), item):
            with contextlib.suppress(OSError):  # if it is there again it is whole, or made again
                os.rename(hidden, path)
                self.spared.add(item.path)
                return
        self.begun.add(item.path)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(hidden)


def _hide(path: Path) -> Path:
    """Gives a folder another name, and returns its path then; the same where the storage renames none."""
    if path.name.startswith(PRUNED):
        return path
    hidden = _hidden(path)
    shutil.rmtree(hidden, ignore_errors=True)  # left by a deletion that was killed
    try:
        os.rename(path, hidden)
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
        return path
    return hidden


def _hidden(path: Path) -> Path:
    return path.with_name(f"{PRUNED}{path.name}")


def _has_changed(folder: Folder, item: Item) -> bool:
    """True if a file in the folder is new, or another than when the item was listed."""
    listed_files = {*item.files}
    if item.is_file:
        return False
    see_anew(folder)
    current_files = files_below(folder)
    return any(file not in listed_files and _as_listed(file) not in listed_files for file in current_files)


def _as_listed(file: StoredFile) -> StoredFile:
    """The file by the name that it had before its marker was taken away."""
    folder, slash, name = file.path.rpartition("/")
    return replace(file, path=f"{folder}{slash}{name.removeprefix(PRUNED)}") if name.startswith(PRUNED) else file
