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
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from raycodellm.files import Folder
from raycodellm.pruning.kinds import PRUNED, STAGES
from raycodellm.pruning.plan import RUNS, Item, Plan
from raycodellm.slots.lease import LEASE

T = TypeVar("T")
_WORKERS = 32
"""Requests at once to an object store, which answers each after some 50 ms."""


@dataclass(frozen=True)
class Deleted:
    """What was deleted, and what was spared at the last moment."""

    items: tuple[Item, ...] = ()
    spared: tuple[Item, ...] = ()

    @property
    def num_bytes(self) -> int:
        return sum(item.num_bytes for item in self.items)


def carry_out(storage: Folder, plan: Plan, look_again: Callable[[], Plan]) -> Deleted:
    """Deletes the plan's items. `look_again`: the plan as the sweeps' needs are then.

    Raises `OSError` where the storage refuses. What was not deleted by then looks unfinished.
    """
    runs = [item for item in plan.items if item.group == RUNS]
    others = [item for item in plan.items if item.group != RUNS]
    _each(
        storage, lambda item: _delete(storage, item, has_markers=True), runs
    )  # first: else a run would lack its stages
    taken = dict(zip(others, _each(storage, lambda item: _unmark(storage, item), others), strict=True))
    try:
        wanted = {item.path for item in look_again().items}
    except BaseException:  # nothing is known of what is needed now
        _each(storage, lambda item: _mark(storage, taken[item]), others)
        raise
    spared = [item for item in others if item.path not in wanted or _is_trained_again(storage, item)]
    _each(storage, lambda item: _mark(storage, taken[item]), [item for item in spared if item.path not in wanted])
    gone = [item for item in others if item not in spared]
    _each(storage, lambda item: _delete(storage, item), gone)
    return Deleted((*runs, *gone), tuple(spared))


def _each(storage: Folder, act: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
    if storage.local is not None:
        return [act(item) for item in items]
    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(act, items))


def _unmark(storage: Folder, item: Item) -> dict[str, bytes]:
    """Deletes the item's markers; returns what they held, by path."""
    held = {}
    for path in item.markers:
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, by a run that makes it again, say
            held[path] = storage.read_bytes(path)
            storage.delete(path)
    return held


def _mark(storage: Folder, held: dict[str, bytes]) -> None:
    for path, content in reversed(held.items()):
        folder, _, name = path.rpartition("/")
        (storage / folder).write_bytes(name, content)


def _is_trained_again(storage: Folder, item: Item) -> bool:
    """True if a sweep has begun to train the stage since its marker was deleted."""
    is_stage = item.path.startswith(f"{STAGES}/") and item.path.count("/") == 1
    return is_stage and bool(item.markers) and (storage / item.path).exists(LEASE)


def _delete(storage: Folder, item: Item, *, has_markers: bool = False) -> None:
    if has_markers:
        _unmark(storage, item)
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
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, hidden)
        path = hidden
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
