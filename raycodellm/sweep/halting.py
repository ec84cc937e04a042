"""Why no further trial of a sweep begins: too many have failed, or a limit of its budget is reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm import budget, storage_files
from raycodellm.records import ENDED, TrialResult
from raycodellm.sweep.failures import too_many_failed
from raycodellm.sweep.folder import Run
from raycodellm.sweep.results import Results
from raycodellm.sweep.spending import Account


@dataclass(frozen=True)
class Halted:
    """A reason why no further trial begins."""

    line: str
    """The reason, and what continuing needs."""
    num_open: int
    """Trials that an earlier driver left unfinished and that end all the same."""


def why_halted(run: Run, results: Sequence[TrialResult], num_left: int, say: Callable[[str], Any]) -> Halted | None:
    """Why no further trial begins, before a driver runs any; None where one may, and where `num_left` says that no
    trial is left. `results`: of the trials that have begun. `say`: is told of a damaged file."""
    if line := too_many_failed(results, run.sweep.search.max_failed, num_left):
        return Halted(line, 0)
    spent = storage_files.attempt(lambda: storage_files.read_spent(run.folder), say, storage_files.Spent())
    num_open = sum(result.state not in ENDED for result in results)
    line = budget.why_stopped(budget.limits(run.sweep.budget, spent), num_left - num_open)
    return Halted(line, num_open) if line else None


class Halting:
    """Says once why no further trial begins, while a driver runs."""

    def __init__(self, run: Run, results: Results, account: Account | None, say: Callable[[str], Any]) -> None:
        self._run, self._results, self._account, self._say = run, results, account, say
        self.has_failed_too_often = False
        """True if more trials have failed than the sweep goes on with."""
        self._has_said_budget = False
        self.count_failures()

    def count_failures(self) -> None:
        """Says why no further trial begins, if too many have failed. To be called when a trial has failed."""
        if self.has_failed_too_often:
            return
        if line := too_many_failed(self._results.all(), self._run.sweep.search.max_failed):
            self.has_failed_too_often = True
            self._say(line)

    def is_over_budget(self) -> bool:
        """True if a limit of the budget is reached. To be asked when a trial could begin."""
        line = "" if self._account is None else budget.why_stopped(self._account.limits, num_left=1)
        if line and not self._has_said_budget:
            self._has_said_budget = True
            self._say(line)
        return bool(line)
