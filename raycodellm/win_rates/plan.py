"""The trials whose answers a judge compares: those of an arm and of the reference arm with the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raycodellm import search, verdict
from raycodellm.config import SweepFile
from raycodellm.tables.trials import Row
from raycodellm.verdict.measurements import phase_of, rows_by_arm, stopped_arms


@dataclass(frozen=True)
class SeedPair:
    """Two trials with one seed."""

    arm: int
    """Number of the arm that is compared with the reference."""
    seed: int
    trial: int
    """Number of the arm's trial."""
    reference_trial: int


@dataclass(frozen=True)
class LeftOut:
    """Trials that are not compared, of the phase that is."""

    failed: int = 0
    stopped_early: int = 0
    """Trials of arms that early stopping ended, those included that had ended before."""
    without_partner: int = 0
    """Complete trials whose seed the reference arm has no complete trial of."""
    arms_of_search: int = 0
    """Arms without a fresh seed, where the confirmed arms alone are compared."""


@dataclass(frozen=True)
class Plan:
    """The comparisons of a sweep."""

    reference: int | None
    """Number of the reference arm; None while it has no trial."""
    phase: Literal["search", "confirm"]
    """The phase whose seeds are compared: the confirmation, if it has any, else the search with its replicates."""
    pairs: tuple[SeedPair, ...]
    """Arm by arm, and of an arm seed by seed."""
    left_out: LeftOut


def plan(file: SweepFile, rows: Sequence[Row]) -> Plan:
    """The pairs of trials to compare. `rows`: of all trials that have begun.

    An arm that the search chose by its scores is compared by fresh seeds alone where it has any, and so no win rate
    rests on the seeds that chose it.
    """
    reference = verdict.reference_arm(file, rows)
    fresh = _pairs(rows, reference, "confirm")
    phase: Literal["search", "confirm"] = "confirm" if fresh else "search"
    pairs = fresh or _pairs(rows, reference, "search")
    compared = {pair.trial for pair in pairs} | {pair.reference_trial for pair in pairs}
    phase_rows = [row for row in rows if phase_of(row) == phase]
    states = [row["state"] for row in phase_rows]
    by_arm, stopped = rows_by_arm(rows), stopped_arms(rows)
    uncompared = {arm for arm in by_arm if arm != reference} - {pair.arm for pair in pairs}
    return Plan(
        reference,
        phase,
        tuple(pairs),
        LeftOut(
            failed=states.count("failed"),
            stopped_early=sum(row["arm"] in stopped and row["state"] in ("pruned", "complete") for row in phase_rows),
            without_partner=sum(
                row["state"] == "complete" and row["number"] not in compared and row["arm"] not in {reference, *stopped}
                for row in phase_rows
            ),
            arms_of_search=len(uncompared) if phase == "confirm" else 0,
        ),
    )


def _pairs(rows: Sequence[Row], reference: int | None, phase: str) -> list[SeedPair]:
    stopped = stopped_arms(rows)
    by_arm = {
        arm: _first_of_each_seed([row for row in arm_rows if row["state"] == "complete"])
        for arm, arm_rows in rows_by_arm(rows, phase).items()
        if arm not in stopped
    }
    partners = by_arm.get(reference, {}) if reference is not None else {}
    return [
        SeedPair(arm, seed, number, partners[seed])
        for arm, numbers in sorted(by_arm.items())
        for seed, number in sorted(numbers.items())
        if arm != reference and seed in partners
    ]


def _first_of_each_seed(rows: Sequence[Row]) -> dict[int, int]:
    """Maps each seed to the number of its first trial."""
    number_of_seed: dict[int, int] = {}
    for row in rows:
        number_of_seed.setdefault(row["seed"], row["number"])
    return number_of_seed


def most_questions(file: SweepFile, num_prompts: int) -> int:
    """Questions that the judge may be asked in the whole sweep; equal answers are not asked about."""
    settings = file.example().search
    if settings.confirm is not None:
        pairs = settings.confirm.best * settings.confirm.seeds[-1]
    else:
        pairs = search.num_trials(file) - settings.replicates
    return 2 * num_prompts * max(pairs, 0)
