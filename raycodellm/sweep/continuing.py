"""Which settings of the search may differ when a run is continued: more trials, more replicates, more looks.

A confirmation may be changed freely until its first fresh seed has begun. Afterwards its planned looks keep the error
that they may spend, and its arms stay as they were chosen. A look may be added behind the planned ones, at twice the
seeds of the last: it spends error of its own (`statistics.look_errors`), so whoever adds looks until the answer pleases
claims no more than is said.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raycodellm import search, statistics, verdict
from raycodellm.config import SweepFile

CONFIRM = "search.confirm"
BEGUN = "search.confirm.begun"
"""Written by the run itself, so no difference of the user's."""
MORE = ("search.trials", "search.replicates")
_LOOKS = "search.confirm.seeds"
_SEEN = "fresh seeds have been seen"


def is_of_search(key: str) -> bool:
    """True for a setting that may differ in a continued run, within the rules of `why_not_more`."""
    return key in MORE or key.startswith(CONFIRM)


def why_not_more(saved: SweepFile, file: SweepFile, key: str, has_fresh: bool) -> str | None:
    """Why a run that began with `saved` cannot go on with the value that `file` has at `key`; None where it can.

    `has_fresh`: a confirmation trial has begun.
    """
    before, now = saved.example().search, file.example().search
    if key in MORE:
        name = key.rpartition(".")[2]
        old, new = getattr(before, name), getattr(now, name)
        is_more = old is not None and new is not None and new >= old
        return None if is_more else "a continued run may have more, not fewer"
    if not has_fresh:
        return None
    if key.startswith(_LOOKS) and before.confirm is not None and now.confirm is not None:
        return _why_not_looks(before.confirm.seeds, now.confirm.seeds)
    return f"{_SEEN}, and who has seen them may not choose what they are asked"


def _why_not_looks(old: Sequence[int], new: Sequence[int]) -> str | None:
    """Why looks after `new` seeds cannot follow those after `old` seeds once fresh seeds have been seen."""
    wanted = list(old)
    while len(wanted) < len(new):
        wanted.append(2 * wanted[-1])
    if list(new) == wanted and len(new) > len(old):
        return None
    return f"{_SEEN}: a look can only be added behind the last, at twice its seeds, as in {[*old, 2 * old[-1]]}"


def with_begun(
    saved: SweepFile, file: SweepFile, fresh: Sequence[Mapping[str, Any]], changed: Sequence[str]
) -> SweepFile:
    """The `file` with the plan of its confirmation before fresh seeds were seen (`search.confirm.begun`), where more
    was asked for since.

    `fresh`: the rows of the confirmation trials that have begun; `changed`: the keys that differ from `saved`.
    """
    before = saved.example().search.confirm
    tree = copy.deepcopy(file.tree)
    if before is None or file.example().search.confirm is None:
        return file
    begun = None if before.begun is None else before.begun.model_dump(mode="json", exclude_none=True)
    if begun is None and fresh and changed:
        complete = [row for row in fresh if row["state"] == "complete"]
        begun = {"looks": len(before.seeds), "trials": search.num_trials(saved)}
        if complete:
            begun["metrics"] = list(verdict.family_metrics(complete, saved.example().search.objectives))
    tree["search"]["confirm"].pop("begun", None)
    if begun is not None:
        tree["search"]["confirm"]["begun"] = begun
    return replace(file, tree=tree)


def news(saved: SweepFile, file: SweepFile, has_fresh: bool, changed: Sequence[str]) -> list[str]:
    """Lines on what a run does that is continued with more trials, replicates or looks."""
    before, now = saved.example().search, file.example().search
    names = {key: key.rpartition(".")[2] for key in MORE if key in changed}
    more = [f"{key}: {getattr(before, name)} before, {getattr(now, name)} now" for key, name in names.items()]
    lines = [f"{'; '.join(more)}; what has ended stays"] if more else []
    if more and has_fresh:
        lines.append(
            "search.confirm: the arms that get fresh seeds were chosen before; of the added trials none is confirmed"
        )
    if any(key.startswith(_LOOKS) for key in changed) and has_fresh and now.confirm is not None:
        total = sum(statistics.look_errors(now.confirm.seeds, len(now.confirm.planned)))
        lines.append(
            f"search.confirm.seeds: looks were added after fresh seeds had been seen; without any effect the sweep now "
            f"claims one in at most {100 * total:g} % of cases, where 5 % had been planned"
        )
    return lines
