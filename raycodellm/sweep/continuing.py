"""Which settings of the search may differ when a run is continued: more trials, points, replicates and looks.

Points of `search.enqueue` may be added behind those with which the run began (`raycodellm suggest` writes such points),
and `search.trials` has to have room for them: no trial that has begun gives up its place.

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
from raycodellm.records import TrialResult

CONFIRM = "search.confirm"
BEGUN = "search.confirm.begun"
"""A key that the run itself writes, so a difference in it is not the user's."""
MORE = ("search.trials", "search.replicates")
POINTS = "search.enqueue"
_LOOKS = "search.confirm.seeds"
_FEWER = "a continued run may have more, not fewer"
_SEEN = "fresh seeds have been seen"


def is_of_search(key: str) -> bool:
    """True for a setting that may differ in a continued run, within the rules of `why_not_more`."""
    return key in MORE or key.startswith((CONFIRM, POINTS))


def why_not_more(saved: SweepFile, file: SweepFile, key: str, trials: Sequence[TrialResult]) -> str | None:
    """Why a run that began with `saved` cannot go on with the value that `file` has at `key`; None where it can.

    `trials`: those that have begun, trials of a confirmation among them.
    """
    before, now = saved.example().search, file.example().search
    if key == "search.trials":
        return _why_not_trials(saved, file)
    if key in MORE:
        return None if now.replicates >= before.replicates else _FEWER
    if key.startswith(POINTS):
        return _why_not_points(saved, file, [trial for trial in trials if trial.phase == "search"])
    if not any(trial.phase == "confirm" for trial in trials):
        return None
    if key.startswith(_LOOKS) and before.confirm is not None and now.confirm is not None:
        return _why_not_looks(before.confirm.seeds, now.confirm.seeds)
    return f"{_SEEN}, and who has seen them may not choose what they are asked"


def _why_not_trials(saved: SweepFile, file: SweepFile) -> str | None:
    """Why the run cannot go on with the number of trials in `file`, which for a grid is its size; None if it can."""
    if file.example().search.sampler == "grid":
        old, new = search.num_arms(saved), search.num_arms(file)
    else:
        old, new = saved.example().search.trials or 0, file.example().search.trials or 0
    return None if new >= old else _FEWER


def _why_not_points(saved: SweepFile, file: SweepFile, trials: Sequence[TrialResult]) -> str | None:
    """Why the points that `file` adds have no place beside the search's `trials` that have begun; None if they have."""
    old, new = saved.enqueued(), file.enqueued()
    if new[: len(old)] != old:
        return "a continued run may have more points behind those that it has, which stay as they are"
    if file.example().search.sampler == "grid":
        return None
    added = [
        point for point in new[len(old) :] if not any(search.is_tried(file, point, trial.params) for trial in trials)
    ]
    replicates = file.example().search.replicates
    point_trials = [trial for trial in trials if not 0 < trial.seed - file.example().seed < replicates]
    num_needed = max(len(point_trials), len(search.named_points(saved))) + len(added)
    if search.num_arms(file) >= num_needed:
        return None
    if search.lacking_points(file):
        return f"the space has {search.num_arms(file)} different points, of which {len(point_trials)} have begun"
    num_begun = len(point_trials)
    return f"{num_begun} trials have begun and {len(added)} points are added: give search.trials: {num_needed} or more"


def _why_not_looks(old: Sequence[int], new: Sequence[int]) -> str | None:
    """Why looks after `new` seeds cannot follow those after `old` seeds once fresh seeds have been seen."""
    expected = list(old)
    while len(expected) < len(new):
        expected.append(2 * expected[-1])
    if list(new) == expected and len(new) > len(old):
        return None
    return f"{_SEEN}: a look can only be added behind the last, at twice its seeds, as in {[*old, 2 * old[-1]]}"


def with_begun(
    saved: SweepFile, file: SweepFile, fresh: Sequence[Mapping[str, Any]], changed: Sequence[str]
) -> SweepFile:
    """The `file` with the plan of its confirmation before fresh seeds were seen (`search.confirm.begun`), if the user
    has asked for more since.

    `fresh`: the rows of the confirmation trials that have begun; `changed`: the keys that differ from `saved`.
    """
    saved_confirm = saved.example().search.confirm
    tree = copy.deepcopy(file.tree)
    if saved_confirm is None or file.example().search.confirm is None:
        return file
    plan = None if saved_confirm.begun is None else saved_confirm.begun.model_dump(mode="json", exclude_none=True)
    if plan is None and fresh and changed:
        complete = [row for row in fresh if row["state"] == "complete"]
        plan = {"looks": len(saved_confirm.seeds), "trials": search.num_trials(saved)}
        if complete:
            plan["metrics"] = list(verdict.family_metrics(complete, saved.example().search.objectives))
    tree["search"]["confirm"].pop("begun", None)
    if plan is not None:
        tree["search"]["confirm"]["begun"] = plan
    return replace(file, tree=tree)


def news(saved: SweepFile, file: SweepFile, has_fresh: bool, changed: Sequence[str]) -> list[str]:
    """Lines on what a run does that is continued with more trials, points, replicates or looks."""
    before, now = saved.example().search, file.example().search
    names = {key: key.rpartition(".")[2] for key in MORE if key in changed}
    changes = [f"{key}: {getattr(before, name)} before, {getattr(now, name)} now" for key, name in names.items()]
    if any(key.startswith(POINTS) for key in changed):
        old, new = len(before.enqueue), len(now.enqueue)
        changes.append(f"{POINTS}: {old} points before, {new} now, and the added ones are tried first")
    lines = [f"{'; '.join(changes)}; what has ended stays"] if changes else []
    if changes and has_fresh:
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
