"""`raycodellm prune-storage`: lists what no kept sweep of a storage needs, asks, and deletes only that."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from raycodellm.commands.request import DONE, FAILED
from raycodellm.config import UserError
from raycodellm.files import Folder, cause
from raycodellm.pruning import (
    DELETER,
    GRACE_HOURS,
    Asked,
    Deleted,
    Look,
    carry_out,
    document,
    held,
    lines,
    look,
    printable,
    size,
)

Say = Callable[[str], None]
_CLOCK_SECONDS = 120.0
"""A difference between two clocks that the user is told of."""


@dataclass(frozen=True)
class Pruning:
    """The options of the command line."""

    forget: tuple[str, ...] = ()
    drop_training_state: bool = False
    grace_hours: float = GRACE_HOURS
    yes: bool = False
    """True to delete without a question."""
    show_all: bool = False
    as_json: bool = False
    follow_links: bool = False


def prune(
    uri: str,
    options: Pruning,
    complain: Say,
    ask: Callable[[str], str] | None = None,
    clock: Callable[[], float] | None = None,
) -> int:
    """Lists what can be deleted from the storage and deletes it when the user, or `--yes`, says so; returns the exit
    code. `ask`: puts a question to the user; None for the terminal, where there is one. `clock`: Unix seconds; None for
    this machine's, and at the deletion the storage's where that is behind."""
    if not options.grace_hours >= 0 or math.isinf(options.grace_hours):
        raise UserError(f"--grace: found {options.grace_hours:g}; must be a number of hours, 0 or more")
    storage = Folder(uri)
    request = Asked(options.forget, options.drop_training_state, options.grace_hours, options.follow_links)
    ask = ask or (input if sys.stdin.isatty() and sys.stdout.isatty() and not options.as_json else None)
    with _nothing_deleted():
        storage_look = look(storage, request, (clock or time.time)())
    plan = storage_look.plan
    if not options.as_json:
        print("\n".join(lines(storage_look, plan, show_all=options.show_all)), flush=True)
    deleted: Deleted | None = None
    if plan.items and (options.yes or (ask is not None and _agrees(ask, storage_look))):
        deleted = _delete(storage_look, clock, complain)
        for item in deleted.spared:
            complain(printable(f"{item.path}: is needed since a moment ago, and stays"))
        for path, reason in deleted.failed:
            complain(printable(f"{path}: is not deleted, or not whole: {reason}"))
        if not options.as_json:
            print(f"deleted: {len(deleted.items)} things, {size(deleted.num_bytes)}")
    elif plan.items and not options.as_json:
        print("nothing was deleted" + ("" if ask else "; there is no terminal to ask on: --yes deletes what is listed"))
    if options.as_json:
        print(json.dumps(document(storage_look, plan, deleted), indent=1))
    return FAILED if deleted is not None and deleted.failed else DONE


@contextlib.contextmanager
def _nothing_deleted() -> Iterator[None]:
    """Makes an `OSError` say that nothing is deleted: a run folder that another user lets nobody read, say."""
    try:
        yield
    except OSError as error:
        raise OSError(f"nothing is deleted, since the storage cannot be read: {cause(error)}") from error


def _agrees(ask: Callable[[str], str], storage_look: Look) -> bool:
    runs = "".join(
        f", and the run {printable(name)} with its scores and report" for name in storage_look.forgotten_runs
    )
    try:
        return ask(f"delete {size(storage_look.plan.num_bytes)}{runs}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _delete(first_look: Look, clock: Callable[[], float] | None, say: Say) -> Deleted:
    """Deletes the shown items that still no sweep needs: the question may have waited for hours."""
    storage = first_look.listing.storage
    with held(storage, first_look.forgotten_runs, say):
        with _nothing_deleted():
            second_look = look(storage, first_look.asked, _storage_time(storage, say) if clock is None else clock())
        plan = second_look.plan.only({item.path for item in first_look.plan.items})
        try:
            return carry_out(storage, plan, lambda: second_look.again().plan)
        except KeyboardInterrupt:
            say("what was not deleted yet is as it was; the same command goes on")
            raise


def _storage_time(storage: Folder, say: Say) -> float:
    """The time by the clock that gives the storage's files their times, and at most that of this machine's clock: ages
    by a clock that runs ahead would spare nothing. Unix seconds; the storage is held, by a file just written."""
    machine_time = time.time()
    stamp = storage.stamp(DELETER)
    storage_time = machine_time if stamp is None or not stamp[1] else stamp[1] / 1e9
    if machine_time - storage_time > _CLOCK_SECONDS:
        ahead = f"{(machine_time - storage_time) / 3600:.1f} h"
        say(f"this machine's clock is {ahead} ahead of the storage's, by which ages are reckoned")
    return min(machine_time, storage_time)
