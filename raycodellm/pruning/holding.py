"""Lets one process at a time delete from a storage, and from a run folder only one that took it as a driver would."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.pruning.listing import DELETER
from raycodellm.sweep.ownership import Owner


class Deleter(Owner):
    """A process that deletes from a storage. Two at once might give back what the other takes."""

    name = DELETER


@contextlib.contextmanager
def held(storage: Folder, runs: Sequence[str], say: Callable[[str], None]) -> Iterator[None]:
    """Keeps others from deleting, and takes the run folders that are to be deleted, so that no driver begins there.

    Raises `UserError` naming a driver that runs one. `say` is told of a wait for a driver that may be gone.
    """
    deleter = Deleter(storage)
    try:
        deleter.claim(say)
    except UserError as error:
        raise UserError(f"{storage}: another prune-storage deletes from it now; wait for its end") from error
    with deleter.held(), contextlib.ExitStack() as stack:
        for name in runs:
            owner = Owner(storage / name)
            owner.claim(say)
            stack.callback(owner.give_back)
        yield
