"""Decides what of a storage is deleted. Pure: a listing and the sweeps' needs in, a plan out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from raycodellm.finished import OPTIMIZER
from raycodellm.pruning.kinds import PRUNED, STAGE, TRUNK, is_leftover, is_marker
from raycodellm.pruning.listing import Listing, StoredFile, Thing, WithFiles
from raycodellm.pruning.needs import Needs
from raycodellm.storage_files import CHECKPOINTS, COMPLETE, DONE

GRACE_HOURS = 24.0
"""Age under which nothing is deleted: a run that has no trial yet may be making it, or be about to use it."""
_TRAINED_SECONDS = 600.0
"""A younger lease in a stage's folder means that somebody trains the stage; a living holder writes it every 40 s. A
younger temporary file of a thing that a sweep needs is being written."""
OPTIMIZERS, CHECKPOINTS_LEFT, LEFTOVERS, RUNS = "optimizer states", "checkpoints", "leftovers", "run folders"


@dataclass(frozen=True)
class Item(WithFiles):
    """One thing to delete, or a part of one."""

    group: str
    path: str
    """From the storage on."""
    files: tuple[StoredFile, ...] = field(repr=False)
    """The files as they were listed; their paths start from the item's own."""
    folder_written: float = 0.0
    """Time of the last change of a folder without files, Unix seconds; 0 where it is not known."""
    is_file: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        """Files that make it look finished, from the storage on: first the one that the others mean nothing without."""
        paths = [file.path for file in self.files if is_marker(file.path)] if not self.is_file else []
        return tuple(f"{self.path}/{path}" for path in sorted(paths, key=lambda path: (path.count("/"), path)))


@dataclass(frozen=True)
class Kept:
    """One thing that sweeps need, without its parts that go."""

    path: str
    num_bytes: int
    sweeps: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The things to delete, and those to leave, with the reason."""

    items: tuple[Item, ...] = ()
    young: tuple[Item, ...] = ()
    """Needed by no sweep, but written so lately that a beginning run may be about to use it."""
    left_alone: dict[str, str] = field(default_factory=dict)
    """Needed by no sweep, but with something in it that raycodellm did not write: path to what that is."""
    kept: tuple[Kept, ...] = ()

    @property
    def num_bytes(self) -> int:
        return sum(item.num_bytes for item in self.items)

    @property
    def kept_bytes(self) -> int:
        """Bytes of all that any sweep needs, each counted once."""
        return sum(thing.num_bytes for thing in self.kept)

    def bytes_of(self, sweep: str) -> tuple[int, int]:
        """Bytes that the sweep needs, and bytes of these that no other sweep needs."""
        needed = [thing for thing in self.kept if sweep in thing.sweeps]
        needed_alone = [thing for thing in needed if thing.sweeps == (sweep,)]
        return sum(thing.num_bytes for thing in needed), sum(thing.num_bytes for thing in needed_alone)

    def only(self, paths: set[str]) -> Plan:
        """The plan with those of its items whose paths are given."""
        return replace(self, items=tuple(item for item in self.items if item.path in paths))


@dataclass(frozen=True)
class Asked:
    """The user's request."""

    forget: tuple[str, ...] = ()
    """Names of sweeps, and of ladders, to delete with all that only they need."""
    drop_training_state: bool = False
    """True to delete, too, what finished sweeps need only to train more."""
    grace_hours: float = GRACE_HOURS
    follow_links: bool = False
    """True to delete, too, from folders of kinds that are links out of the storage."""


def decide(
    listing: Listing,
    needs: Sequence[Needs],
    request: Asked,
    now: float,
    forgotten: Sequence[Needs] = (),
    run_folders: Sequence[Item] = (),
) -> Plan:
    """The plan for a storage.

    `needs`: of all sweeps that are kept; `now`: Unix seconds; `forgotten`: the needs of the sweeps to forget, whose
    things are not spared for being young; `run_folders`: the folders of these sweeps.
    """
    items = list(run_folders)
    young: list[Item] = []
    left_alone: dict[str, str] = {}
    kept_things: list[Kept] = []
    oldest_spared = now - 3600.0 * request.grace_hours
    for thing in listing.things:
        if thing.name.startswith(PRUNED):
            items.append(Item(LEFTOVERS, thing.path, thing.files, thing.folder_written))
            continue
        is_state = _is_training_state(thing)
        users = [
            sweep
            for sweep in needs
            if sweep.uses(thing) and not (is_state and _needs_no_training_state(sweep, request))
        ]
        if users:
            parts = list(_parts(thing, users, request)) if not _is_trained(thing, now) else []
            deleted_parts = [part for part in parts if part.written <= _spared_from(part, oldest_spared, now)]
            items += deleted_parts
            num_bytes = thing.num_bytes - sum(part.num_bytes for part in deleted_parts)
            kept_things.append(Kept(thing.path, num_bytes, tuple(user.sweep for user in users)))
        elif (stranger := thing.stranger) is not None:
            left_alone[thing.path] = stranger
        else:
            item = Item(thing.kind.nouns, thing.path, thing.files, thing.folder_written)
            is_forgotten = any(sweep.uses(thing) for sweep in forgotten)
            is_young = thing.written > oldest_spared and not is_forgotten
            (young if is_young or _is_trained(thing, now) else items).append(item)
    old_probes = [probe for probe in listing.probes if probe.written <= oldest_spared]
    items += [Item(LEFTOVERS, probe.path, (probe,), is_file=True) for probe in old_probes]
    return Plan(tuple(items), tuple(young), left_alone, tuple(kept_things))


def _spared_from(part: Item, oldest_spared: float, now: float) -> float:
    """Unix seconds: a part, written later than this, of a thing that is needed is spared."""
    if PRUNED in part.path:
        return now
    return min(oldest_spared, now - _TRAINED_SECONDS) if part.group == LEFTOVERS else oldest_spared


def _needs_no_training_state(needs: Needs, request: Asked) -> bool:
    """True if what the sweep needs only to train more may go."""
    return request.drop_training_state and needs.is_finished


def _is_training_state(thing: Thing) -> bool:
    return thing.kind is TRUNK


def _is_trained(thing: Thing, now: float) -> bool:
    """True if another process trains the stage now."""
    leases = (file for file in thing.files if file.path == "LEASE")
    return thing.kind is STAGE and any(now - file.written < _TRAINED_SECONDS for file in leases)


def _parts(thing: Thing, users: Sequence[Needs], request: Asked) -> Iterator[Item]:
    """Parts of a thing that is needed which nobody needs: state to train on, and what killed writers have left."""
    if thing.stranger is not None or not any(map(is_marker, thing.paths)):
        return  # what is unfinished is being made, or goes on from what it has
    if thing.kind is STAGE and DONE in thing.paths:
        is_optimizer_needed = any(
            thing.name in user.optimizers and not _needs_no_training_state(user, request) for user in users
        )
        has_optimizer = f"{OPTIMIZER}/{COMPLETE}" in thing.paths
        if not is_optimizer_needed:
            yield from _part(OPTIMIZERS, thing, OPTIMIZER)
        # A stage that lacks the optimizer state which a sweep needs is trained once more, from these checkpoints.
        if not is_optimizer_needed or has_optimizer:
            yield from _part(CHECKPOINTS_LEFT, thing, CHECKPOINTS)
    leftovers: defaultdict[str, list[StoredFile]] = defaultdict(list)
    for file in thing.files:
        if is_leftover(file.path):
            leftovers[_leftover_root(file.path)].append(file)
    for path, files in leftovers.items():
        yield Item(LEFTOVERS, f"{thing.path}/{path}", _relative_to(path, files), is_file=files[0].path == path)


def _part(group: str, thing: Thing, folder: str) -> Iterator[Item]:
    if files := thing.inside(folder):
        yield Item(group, f"{thing.path}/{folder}", _relative_to(folder, files))


def _relative_to(folder: str, files: Sequence[StoredFile]) -> tuple[StoredFile, ...]:
    """The files with paths that start from one of their thing's folders."""
    return tuple(replace(file, path=file.path.removeprefix(f"{folder}/")) for file in files)


def _leftover_root(path: str) -> str:
    """The path up to its first part that a killed writer has left."""
    parts = path.split("/")
    index = next(position for position, part in enumerate(parts) if is_leftover(part))
    return "/".join(parts[: index + 1])
