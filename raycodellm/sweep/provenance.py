"""The provenance of a run besides its sweep file: the recipe, lm-eval, and the content of what the file names.

The run folder keeps it from the first trial on. A run that continued with other contents would mix arms that
cannot be compared, so a change is refused by its key.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from raycodellm import config, identity, retrying, stage_store, storage_files
from raycodellm.config import UserError
from raycodellm.files import DamagedFile, Folder
from raycodellm.identity import Contents
from raycodellm.records import RECIPE_VERSION, as_json, from_json
from raycodellm.sweep.folder import Run

CONTENTS = "contents.json"
ADDRESSES = "addresses"
"""Key of the addresses of the models that the sweep names; a reader may be in another folder than the driver was."""
DATA = "data.json"
_SOURCES = "sources."
logger = logging.getLogger(__name__)


class Fingerprinted(Protocol):
    """A `tokens.TokenStore`, say."""

    @property
    def fingerprint(self) -> str: ...


def require_same_recipe(run: Run, num_trials: int) -> None:
    """Raises UserError when a run that began with another recipe has trials left to do.

    To be called before the run's study is opened: an older version names some parameters otherwise there.
    """
    if run.num_ended_at_start < num_trials and run.folder.exists(CONTENTS):
        contents = {"recipe": RECIPE_VERSION}
        _require_same(_kept_contents(run, contents), contents, run)


def fix_contents(run: Run, num_left: int = 1) -> Contents | None:
    """Looks up the content of the models, tasks and data that the sweep names, and keeps it in the run folder.

    Raises UserError when trials of the run have ended that were made of something else. If `num_left` is 0, no trial is
    left to run, and only a changed model or task is refused, whose old score would be shown. None when the contents
    cannot be looked up.
    """
    try:
        contents = stage_store.contents_of_file(run.file)
    except UserError:
        if num_left > 0:
            raise
        return None
    now = {"recipe": RECIPE_VERSION, "compiled": _uses_compilation(run), **as_json(contents)}
    # The units of tasks, and which run code, follow from their contents; where a model lies changes no result.
    addresses = {ADDRESSES: now.pop(ADDRESSES)}
    del now["units"], now["running_code"]
    if run.num_ended_at_start:
        before = _kept_contents(run, now)
        now = _without_gaps(now, before)
        # A hub that is away says no commit; the commit that it said before is in the content of the task, too.
        now["data_commits"] = {**before.get("data_commits", {}), **now["data_commits"]}
        # The generated tasks of an older version lie in other files, and its scores are shown as they are.
        if num_left > 0 or (before.keys() == now.keys() and before["recipe"] == now["recipe"]):
            keys = [key for key in now if key != "data_commits"] if num_left > 0 else ["models", "tasks"]
            compared = {key: now[key] for key in keys}
            _require_same(before, compared, run)
    if num_left > 0:
        retrying.patiently(lambda: run.folder.write_json(CONTENTS, now | addresses), CONTENTS)
    return replace(contents, models=now["models"], tasks=now["tasks"], data_commits=now["data_commits"])


def fix_data(run: Run, tokenizer: str, stores: Mapping[str, Fingerprinted]) -> None:
    """Keeps in the run folder the fingerprints of the tokenizer and of each source's token store.

    A sweep without sources has none. Raises UserError when trials of the run have ended that drew from others.
    """
    if not stores:
        return
    now = {"tokenizer": tokenizer, **{f"{_SOURCES}{name}": store.fingerprint for name, store in stores.items()}}
    read_data = partial(retrying.patiently, lambda: run.folder.read_json(DATA), DATA)
    before = storage_files.attempt(read_data, logger.warning)
    num_ended = run.num_ended_at_start
    changed = next((key for key in now if before and num_ended and before.get(key) != now[key]), None)
    if changed is not None:
        raise UserError(
            f"{changed}: its content has changed since {num_ended} trials of this run ended, so new ones could not be "
            f"compared with them; put the old one back, or give the sweep a new name ({run.folder.uri})"
        )
    retrying.patiently(lambda: run.folder.write_json(DATA, now), DATA)


@dataclass(frozen=True)
class FixedData:
    """The identities of a sweep's data, as the run folder keeps them."""

    tokenizer: str
    stores: Mapping[str, str]
    """Maps each source to the fingerprint of its token store."""


def fixed_data(folder: Folder) -> FixedData | None:
    """The data of the run in this folder; None before its token stores are made, and for a sweep without sources.
    Raises `DamagedFile`."""
    try:
        content = folder.read_json(DATA)
    except FileNotFoundError:
        return None
    fingerprints = from_json(dict[str, str], content, f"{folder}/{DATA}")
    if "tokenizer" not in fingerprints:
        raise DamagedFile(f"{folder}/{DATA}", "names no tokenizer")
    stores = {
        name.removeprefix(_SOURCES): fingerprint
        for name, fingerprint in fingerprints.items()
        if name.startswith(_SOURCES)
    }
    return FixedData(fingerprints["tokenizer"], stores)


def _kept_contents(run: Run, contents: dict[str, Any]) -> dict[str, Any]:
    """The contents that the run folder keeps; `contents` if the file is damaged. A run without that file began with an
    older recipe."""
    if not run.folder.exists(CONTENTS):
        return {"recipe": "an older one"}
    try:
        kept = run.folder.read_json(CONTENTS)
    except ValueError as error:
        kept = str(error)
    if isinstance(kept, dict):
        return {key: value for key, value in kept.items() if key != ADDRESSES}
    logger.warning("%s/%s: is damaged, so that a changed model or task would not be noticed", run.folder, CONTENTS)
    return contents


def _uses_compilation(run: Run) -> bool:
    """True if compilation changes numbers of a stage that a trial may train."""
    compiled = run.sweep.scaling.deepspeed.compile
    points = (config.resolve(run.file, point) for point in run.file.probe_points())
    return compiled and any(
        identity.compiled_numbers(stage, True) for sweep in points for stage in sweep.trained_stages
    )


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], run: Run) -> None:
    """Raises UserError for the first change. A task in only one of `before` and `now` may have been added."""
    if isinstance(before.get("tasks"), Mapping) and "tasks" in now:
        common_tasks = [name for name in now["tasks"] if name in before["tasks"]]
        before, now = (
            {**contents, "tasks": {name: contents["tasks"][name] for name in common_tasks}}
            for contents in (before, now)
        )
    changed = next((key for key in now if _without_gaps(before.get(key), now[key]) != now[key]), None)
    if changed is None:
        return
    old, new = before.get(changed), now[changed]
    change = {
        "recipe": f"raycodellm's training recipe is {new}, was {old}",
        "compiled": f"scaling.deepspeed.compile, which changes numbers in 16 bits, is {new}, was {old}",
        "lm_eval": f"lm-eval is {new}, was {old}",
        "models": f"model.pretrained: the content of {_first_changed(old, new)} has changed",
        "tasks": f"evaluation.tasks: the content of {_first_changed(old, new)} has changed",
    }[changed]
    num_ended = run.num_ended_at_start
    since = f"{num_ended} trials of this run ended" if num_ended else "this run began"
    raise UserError(
        f"{change} since {since}, so new ones could not be compared with them; "
        f"put the old one back, or give the sweep a new name ({run.folder.uri})"
    )


def _without_gaps(value: Any, fallback: Any) -> Any:
    """`value`, with each None in it (a commit while the hub cannot be reached, say) replaced by `fallback`'s value."""
    if isinstance(value, list) and isinstance(fallback, list) and len(value) == len(fallback):
        return [
            fallback[index] if item is None else _without_gaps(item, fallback[index])
            for index, item in enumerate(value)
        ]
    if isinstance(value, dict) and isinstance(fallback, dict):
        return {key: _without_gaps(item, fallback.get(key)) for key, item in value.items()}
    return value


def _first_changed(old: Any, new: Any) -> str:
    """The first name whose content differs."""
    old, new = (hashes if isinstance(hashes, Mapping) else {} for hashes in (old, new))
    return repr(next((name for name in new if old.get(name) != new[name]), "a name"))
