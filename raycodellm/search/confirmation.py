"""The confirmation as the study knows it: its seeds, and how many trials it may take.

A confirmation trial is a trial of the study like any other. Its replicate is `CONFIRM_SEEDS` plus its place among the
fresh seeds, so the sweep's seed plus the replicate is the seed of every trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from raycodellm.config import SweepFile, UserError
from raycodellm.records import CONFIRM_SEEDS
from raycodellm.search.arms import MAX_TRIALS, num_arms, num_trials

Phase = Literal["search", "confirm"]


def phase_of_replicate(replicate: int) -> Phase:
    """The phase of a trial: its replicate says it."""
    return "confirm" if replicate >= CONFIRM_SEEDS else "search"


def num_confirmed(file: SweepFile) -> int:
    """Arms that get fresh seeds, the reference among them; 0 without a confirmation."""
    confirm = file.example().search.confirm
    return 0 if confirm is None else 1 + min(confirm.best, num_arms(file) - 1)


def most_confirm_trials(file: SweepFile) -> int:
    """Number of confirmation trials if every arm needs every look. Raises `UserError` when they are too many, and when
    the reference is alone."""
    confirm = file.example().search.confirm
    if confirm is None:
        return 0
    if num_confirmed(file) == 1:
        raise UserError("search.confirm: the search has no arm beside the reference; give search.trials 2 or more")
    max_trials = num_confirmed(file) * confirm.seeds[-1]
    if num_trials(file) + max_trials > MAX_TRIALS:
        raise UserError(
            f"search.confirm: {num_confirmed(file)} arms × {confirm.seeds[-1]:,} seeds are {max_trials:,} trials "
            f"beside the search's {num_trials(file):,}; a sweep has at most {MAX_TRIALS:,}"
        )
    return max_trials


def most_trials(file: SweepFile) -> int:
    """Trials of the whole sweep if every arm that is confirmed needs every look."""
    return num_trials(file) + most_confirm_trials(file)


def known_trials(
    file: SweepFile, rows: Iterable[Mapping[str, Any]], pending: Iterable[tuple[int, int]], is_searching: bool
) -> int:
    """Trials of the whole sweep as far as is known: the search's, and those that its looks have asked for.

    `rows`: of `trials.parquet`; `pending`: (arm, place among the fresh seeds) of the confirmation trials that the
    current look needs and that have not ended. While `is_searching`, those of the first look count.
    """
    rows, sweep = list(rows), file.example()
    confirmation_seeds = {(row["arm"], row["seed"]) for row in rows if row.get("phase") == "confirm"}
    confirmation_seeds |= {(arm, sweep.seed + CONFIRM_SEEDS + place) for arm, place in pending}
    num_searched = max(num_trials(file), sum(row.get("phase") != "confirm" for row in rows))
    confirm = sweep.search.confirm
    num_first_look = num_confirmed(file) * confirm.seeds[0] if confirm is not None and is_searching else 0
    return num_searched + max(num_first_look, len(confirmation_seeds))
