"""One look at a storage: what lies in it, what each sweep needs, and so what is needed by none."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raycodellm import ladder, stage_store
from raycodellm.config import UserError
from raycodellm.files import Damaged, Folder
from raycodellm.pruning.kinds import strangers_in_run
from raycodellm.pruning.listing import Listing, files_below, list_runs, list_storage, see_anew
from raycodellm.pruning.needs import Needs, mentions, read_needs
from raycodellm.pruning.plan import LEFTOVERS, RUNS, Asked, Item, Plan, decide
from raycodellm.records import RECIPE_VERSION
from raycodellm.storage_files import LADDER


@dataclass(frozen=True)
class Look:
    """A storage as it was at one time."""

    listing: Listing
    asked: Asked
    at: float
    """Unix seconds."""
    needs: tuple[Needs, ...]
    """Needs of each sweep that is kept."""
    forgotten: tuple[Needs, ...]
    folders: tuple[Item, ...]
    """Folders of the sweeps and ladders to forget, and of those whose deletion was interrupted."""

    @property
    def plan(self) -> Plan:
        return decide(self.listing, self.needs, self.asked, self.at, self.forgotten, self.folders)

    @property
    def forgotten_runs(self) -> list[str]:
        return [needs.sweep for needs in self.forgotten]

    def again(self) -> Look:
        """A new look: the things that were listed, with the needs of the sweeps as they are now."""
        storage = self.listing.storage
        earlier_needs = {needs.sweep: needs for needs in self.needs}
        see_anew(storage)
        for name in earlier_needs:  # each with the folder in which its trials begin, and that in which its driver does
            see_anew(storage / name)
            see_anew(storage / name / "trials")
        runs = [name for name in list_runs(storage).runs if name not in self.forgotten_runs]
        run_needs = _needs(storage, runs, self.asked, earlier_needs)
        ladder_needs = [needs for needs in self.needs if needs.sweep in self.listing.ladders]
        return Look(self.listing, self.asked, self.at, (*run_needs, *ladder_needs), self.forgotten, self.folders)


def look(storage: Folder, request: Asked, now: float) -> Look:
    """Looks at a storage. Raises `UserError` for a folder that is none, for a run folder that cannot be read, and for a
    sweep that cannot be forgotten."""
    listing = list_storage(storage, follow_links=request.follow_links)
    _require_storage(storage, listing)
    forgotten = _names_to_forget(listing, request)
    runs, ladders = ([name for name in names if name not in forgotten] for names in (listing.runs, listing.ladders))
    run_needs = _needs(storage, runs, request, {})
    _refuse_read_later(run_needs, forgotten)
    ladder_needs = [Needs(name, mentioned=mentions(_ladder_settings(storage / name))) for name in ladders]
    forgotten_needs = []
    for name in forgotten:
        if name in listing.runs:
            try:
                forgotten_needs.append(read_needs(storage, name))
            except UserError:  # the sweep's needs are known no more, and its things go as any that nobody needs
                forgotten_needs.append(Needs(name))
    folders = [_folder_item(storage, name) for name in forgotten]
    folders += [Item(LEFTOVERS, name, tuple(files_below(storage / name))) for name in listing.hidden]
    return Look(listing, request, now, (*run_needs, *ladder_needs), tuple(forgotten_needs), tuple(folders))


def _needs(storage: Folder, runs: Sequence[str], request: Asked, earlier_needs: Mapping[str, Needs]) -> list[Needs]:
    """The needs of each run. Raises `UserError` for one that cannot be read, unless somebody has just deleted it."""
    needs = []
    for name in runs:
        try:
            needs.append(read_needs(storage, name, earlier_needs.get(name), asks_finished=request.drop_training_state))
        except UserError:
            if name in list_runs(storage).runs:
                raise
    return needs


def _require_storage(storage: Folder, listing: Listing) -> None:
    if storage.exists("sweep.yaml"):
        raise UserError(f"{storage}: is the run folder of one sweep; give its storage, {storage.parent}")
    if not (listing.things or listing.runs or listing.ladders or listing.linked or storage.exists(stage_store.RECIPE)):
        raise UserError(f"{storage}: holds nothing of raycodellm; give the --storage of your runs")
    recipe = stage_store.last_recipe(storage) or ""
    if recipe.isdecimal() and int(recipe) > RECIPE_VERSION:
        raise UserError(
            f"{storage}: was used by a newer raycodellm (recipe {recipe}, here {RECIPE_VERSION}), whose things are not "
            "known here; use that version"
        )


def _names_to_forget(listing: Listing, request: Asked) -> list[str]:
    """Names of the run folders and ladders to delete. Raises `UserError` for a name that cannot be one of them."""
    sizes = {name: _sizes(listing.storage / name) for name in listing.ladders}
    chosen: list[str] = []
    for name in request.forget:
        if name in sizes:
            chosen += [name, *(size for size in sizes[name] if size in listing.runs)]
        elif name in listing.runs:
            chosen.append(name)
        else:
            existing = ", ".join((*listing.runs, *listing.ladders)) or "none"
            raise UserError(f"--forget: there is no run {name!r} in {listing.storage}; there are: {existing}")
    chosen = list(dict.fromkeys(chosen))
    for name in chosen:
        ladder_name = next((other for other, members in sizes.items() if name in members and other not in chosen), None)
        if ladder_name is not None:
            raise UserError(
                f"--forget: {name} is one size of the ladder {ladder_name}, whose report needs it; forget {ladder_name}"
            )
    return chosen


def _sizes(folder: Folder) -> list[str]:
    with contextlib.suppress(Damaged):
        return [size.sweep for size in ladder.open_ladder(folder.uri).facts.sizes]
    return []


def _ladder_settings(folder: Folder) -> dict:
    try:
        return folder.read_json(LADDER).get("settings", {})
    except Damaged as error:
        raise UserError(
            f"nothing is deleted, since {folder.name} cannot be read: {error}; `raycodellm run` of the ladder writes "
            f"the file again, or give the ladder up with --forget {folder.name}"
        ) from error


def _refuse_read_later(run_needs: Sequence[Needs], forgotten: Sequence[str]) -> None:
    """Raises `UserError` for a sweep to forget whose trials a kept sweep has still to read."""
    for needs in run_needs:
        for name in needs.reads:
            if name.rstrip("/").rpartition("/")[2] in forgotten:
                raise UserError(
                    f"--forget: {needs.sweep} starts from the trials of {name} (search.warm_start) and has not read "
                    "them yet; run it first, or take the name out of its sweep file"
                )


def _folder_item(storage: Folder, name: str) -> Item:
    if storage.local is not None and (storage.local / name).is_symlink():
        raise UserError(f"--forget: {name} is a link; delete what it leads to, and the link, by hand")
    files = files_below(storage / name)
    strangers = strangers_in_run(file.path for file in files)
    if strangers:
        raise UserError(f"--forget: {name}/{strangers[0]} was not written by raycodellm; move it away first")
    return Item(RUNS, name, tuple(files))
