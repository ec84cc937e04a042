"""Deletes what a plan names, so that neither a killed deletion nor a sweep that begins meanwhile comes to harm.

1. The files that make things look finished go first: whatever happens next, the next run makes these things again.
2. The sweeps' needs are read once more. A trial writes which stages it needs before it looks whether they are finished.
   So a trial that has seen one finished is seen here: that stage gets its marker back and stays. A trial that comes
   later finds the stage unfinished and trains it.
3. The rest goes. On a local disk a folder first gets another name, so that a trial that makes the same thing again
   writes into a new folder. On an object store the deletion takes a request or two.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from raycodellm.files import Folder, cause
from raycodellm.pruning.kinds import PRUNED, STAGE
from raycodellm.pruning.plan import RUNS, Item, Plan
from raycodellm.slots.lease import LEASE

_NO_RENAME = (errno.ENOENT, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)
"""Errors of a folder that is gone, and of a mounted object store, which renames no folder: it is deleted in place."""
_WORKERS = 32
"""Requests at once to an object store, which answers each after some 50 ms."""


@dataclass(frozen=True)
class Deleted:
    """What was deleted, and what was not."""

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
    task = _Deletion(storage)
    runs = [item for item in plan.items if item.group == RUNS]
    others = [item for item in plan.items if item.group != RUNS]
    task.each(task.unmark, runs)
    task.each(task.delete, [run for run in runs if run.path not in task.failed])
    if task.failed:  # a run folder that stays needs its stages
        task.each(task.give_back, runs)
        return Deleted(tuple(run for run in runs if run.path not in task.failed), (), tuple(task.failed.items()))
    try:
        task.each(task.unmark, others)
        wanted = {item.path for item in look_again().items}
    except Exception:  # nothing is known of what is needed now
        task.each(task.give_back, others)
        raise
    task.each(task.give_back, [item for item in others if item.path not in wanted or item.path in task.failed])
    spared = {item.path for item in others if item.path not in wanted or _is_trained_again(storage, item)}
    task.each(task.delete, [item for item in others if item.path not in spared and item.path not in task.failed])
    gone = tuple(item for item in plan.items if item.path not in spared and item.path not in task.failed)
    return Deleted(gone, tuple(item for item in others if item.path in spared), tuple(task.failed.items()))


class _Deletion:
    """One deletion: what the markers held, and what could not be deleted."""

    def __init__(self, storage: Folder) -> None:
        self._storage = storage
        self._held: dict[str, dict[str, bytes]] = {}
        """By item: the content of its markers, by path."""
        self.failed: dict[str, str] = {}
        """Path of an item to why it was not deleted."""

    def each(self, act: Callable[[Item], None], items: Sequence[Item]) -> None:
        """A storage may hold things of other users, who let nobody delete them: the others go all the same."""

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
        held = self._held.setdefault(item.path, {})
        for path in item.markers:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, by a run that makes it again, say
                content = self._storage.read_bytes(path)
                self._storage.delete(path)
                held[path] = content

    def give_back(self, item: Item) -> None:
        for path, content in reversed(self._held.get(item.path, {}).items()):
            folder, _, name = path.rpartition("/")
            if (self._storage / folder).exists():
                (self._storage / folder).write_bytes(name, content)

    def delete(self, item: Item) -> None:
        _delete(self._storage, item)


def _is_trained_again(storage: Folder, item: Item) -> bool:
    """True if a sweep has begun to train the stage since it was listed."""
    if item.group != STAGE.nouns:
        return False
    lease = (storage / item.path).stamp(LEASE)
    return lease is not None and lease[1] / 1e9 > item.written


def _delete(storage: Folder, item: Item) -> None:
    if storage.local is None:
        storage.delete(item.path)
        return
    path = storage.local / item.path
    if item.is_file:
        path.unlink(missing_ok=True)
        return
    if not path.name.startswith(PRUNED):
        hidden = path.with_name(f"{PRUNED}{path.name}")
        shutil.rmtree(hidden, ignore_errors=True)  # left by a deletion that was killed
        try:
            os.rename(path, hidden)
            path = hidden
        except OSError as error:
            if error.errno not in _NO_RENAME:
                raise
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
