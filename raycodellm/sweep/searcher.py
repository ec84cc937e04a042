"""Ray Tune's searcher over the sweep's Optuna study."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ray.tune.search import Searcher

from raycodellm import search, verdict
from raycodellm.records import ENDED, TrialResult
from raycodellm.search import Suggestion, SweepStudy
from raycodellm.sweep.confirmation import Confirmation, Standing, confirmation_news
from raycodellm.sweep.folder import Run
from raycodellm.sweep.halting import Halting
from raycodellm.sweep.results import Results
from raycodellm.sweep.spending import Account
from raycodellm.sweep.stopper import Halt
from raycodellm.sweep.told_results import record_death, tell_result, waits_for_reference, written_result
from raycodellm.sweep.trial import reported_result, reported_uses
from raycodellm.sweep.warm_start import prior_of

logger = logging.getLogger(__name__)


class Audience(Protocol):
    """Is told how far the sweep is; may be called from any thread."""

    def say(self, line: str) -> None: ...

    def expects(self, num_trials: int, most_trials: int) -> None:
        """The sweep has `num_trials` trials as far as is known now, and may come to `most_trials`."""


class StudySearcher(Searcher):
    """Suggests the study's trials to Ray Tune, and tells the study how each of them ended."""

    def __init__(
        self,
        run: Run,
        results: Results,
        halt: Halt,
        give_up: Callable[[int], bool],
        audience: Audience,
        account: Account | None = None,
    ) -> None:
        """`results` and `account` are told of each trial that begins or ends.

        `give_up` is called with the number of a trial whose own process died for good: it cancels the trial's jobs and
        returns whether the sweep continues without the trial. If not, the trial stays open.
        """
        super().__init__()
        self._run, self._results, self._halt, self._give_up = run, results, halt, give_up
        self._study = SweepStudy(run.journal, run.file, prior_of(run))
        self._running: dict[str, Suggestion] = {}
        """The trials that run, by Ray Tune's id."""
        self._audience = audience
        self._untold: list[TrialResult] = []
        """Trials that have ended and that the study was not told of yet."""
        self._confirmation = Confirmation(run, decides=True)
        self._standing: Standing | None = None
        self._num_searched = search.num_trials(run.file)
        self._begun = self._study.begun()
        """Numbers of the search's trials that were suggested."""
        self._has_reference_begun = False
        """True if the reference has been given its first fresh seeds."""
        self._account = account
        self._halting = Halting(run, results, account, audience.say)
        self._look()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The settings of the next trial for `run_trial`; `FINISHED` when no more trials should begin; None while the
        trials that run must end first. Ray Tune asks again every tenth of a second."""
        if self._halt.is_set() or self._halting.has_failed_too_often:
            return Searcher.FINISHED
        if not self._has_next():
            if self._must_wait():
                return None
            self._look()
            if not self._study.has_open:
                return None if self._running else Searcher.FINISHED
        if not self._study.has_interrupted and self._halting.is_over_budget():
            return Searcher.FINISHED
        suggestion = self._running[trial_id] = self._study.suggest()
        if suggestion.phase == "search":
            self._begun.add(suggestion.number)
        settings: dict[str, Any] = {
            "number": suggestion.number,
            "arm": suggestion.arm,
            "seed": self._run.sweep.seed + suggestion.replicate,
            "params": suggestion.params,
            "phase": suggestion.phase,
        }
        # Before the trial begins, so that no driver after this one gives its number to another point. How trials ended
        # need not be kept at once: their results say so.
        if self._run.hold is not None:
            self._run.hold.keep_journal()
        self._results.begin(**settings)
        if self._account is not None:
            self._account.begin(suggestion.params, settings["seed"])
        return settings

    def _has_next(self) -> bool:
        """True if a trial can begin now. Without a confirmation Ray Tune itself counts the trials."""
        if self._run.sweep.search.confirm is None or self._study.has_open:
            return True
        if not self._is_searching:
            return False
        if len(self._begun) >= self._num_searched and self._must_wait():
            self._begin_reference()
            return self._study.has_open
        return len(self._begun) < self._num_searched

    @property
    def _is_searching(self) -> bool:
        looks = self._standing.looks if self._standing is not None else None
        return looks is not None and looks.phase == "search"

    def _must_wait(self) -> bool:
        """True while a trial runs that the next look needs: a trial of the search, or of the look before."""
        return any(not self._is_searching or suggestion.phase == "search" for suggestion in self._running.values())

    def _begin_reference(self) -> None:
        """Gives the reference its first fresh seeds, which the verdict needs in any case: they fill the slots while
        the last trials of the search run."""
        confirm = self._run.sweep.search.confirm
        if confirm is None or self._has_reference_begun:
            return
        self._has_reference_begun = True
        reference = verdict.reference_arm(self._run.file, [result.row(()) for result in self._results.all()])
        if reference is not None:
            self._study.confirm([(reference, place) for place in range(confirm.seeds[0])])

    def _look(self) -> None:
        """Finds which confirmation trials come next; to be called when the driver begins, and when all trials that the
        look needs have ended."""
        results = self._results.all()
        previous, self._standing = self._standing, self._confirmation.standing(results)
        looks = self._standing.looks
        if looks is None or looks.phase == "search":
            return
        rows = [result.row(()) for result in results]  # for the names of the arms alone
        for line in confirmation_news(self._run.file, previous.looks if previous is not None else None, looks, rows):
            self._audience.say(line)
        self._audience.expects(self._standing.num_trials, self._standing.most_trials)
        self._study.confirm(self._standing.pending)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study the result that the trial wrote: complete, or failed."""
        number = self._running.pop(trial_id).number
        if error and not self._halt.is_set() and self._give_up(number):
            record_death(self._run, number, self._results.of(number))
        # A trial that died may have written its result before.
        ended = reported_result(result) or written_result(self._run, number)
        if ended is not None and ended.state in ENDED:
            self._results.end(ended)
            if self._account is not None:
                self._account.end(ended, reported_uses(result))
            self._tell(ended)
            if ended.state == "failed":
                self._halting.count_failures()

    def _tell(self, result: TrialResult) -> None:
        """Tells the study how the trial ended, once the first trial of the reference has ended where a constraint is
        relative to it. If the driver ends before, the next one tells it."""
        self._untold.append(result)
        reference = self._results.of(search.REFERENCE_TRIAL)
        if not waits_for_reference(self._run, reference):
            for untold in self._untold:
                tell_result(self._run, self._study, untold, reference)
            self._untold.clear()

    def save(self, checkpoint_path: str) -> None:
        """Writes an empty file: a sweep is continued from its study and its trials' folders, never from a snapshot of
        Ray Tune's."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing; see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Returns no state: Ray Tune pickles its searcher into snapshots, and the study's locks cannot be pickled."""
        return {}
