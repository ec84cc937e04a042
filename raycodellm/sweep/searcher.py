"""Ray Tune's searcher over the sweep's Optuna study."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from raycodellm.search import SweepStudy
from raycodellm.sweep.folder import Run
from raycodellm.sweep.results import Results
from raycodellm.sweep.stopper import Halt
from raycodellm.sweep.told_results import record_death, tell_result, written_result
from raycodellm.sweep.trial import reported_result
from raycodellm.sweep.trial_files import ENDED

logger = logging.getLogger(__name__)


class StudySearcher(Searcher):
    """Suggests the study's trials to Ray Tune, and tells the study how each of them ended."""

    def __init__(self, run: Run, results: Results, halt: Halt, give_up: Callable[[int], bool]) -> None:
        """`results` is told of each trial that begins or ends.

        `give_up` is called with the number of a trial whose own process died for good: it cancels the trial's jobs and
        returns whether the sweep continues without the trial. If not, the trial stays open.
        """
        super().__init__()
        self._run, self._results, self._halt, self._give_up = run, results, halt, give_up
        self._study = SweepStudy(run.journal, run.file)
        self._numbers: dict[str, int] = {}
        """Ray Tune's trial id to the trial's number."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The settings of the next trial for `run_trial`; `FINISHED` when no more trials should begin."""
        if self._halt.is_set():
            return Searcher.FINISHED
        suggestion = self._study.suggest()
        self._numbers[trial_id] = suggestion.number
        settings: dict[str, Any] = {
            "number": suggestion.number,
            "arm": suggestion.arm,
            "seed": self._run.sweep.seed + suggestion.replicate,
            "params": suggestion.params,
        }
        # Before the trial begins, so that no driver after this one gives its number to another point. How trials ended
        # need not be kept at once: their results say so.
        if self._run.hold is not None:
            self._run.hold.keep_journal()
        self._results.begin(**settings)
        return settings

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study the result that the trial wrote: complete, or failed."""
        number = self._numbers[trial_id]
        if error and not self._halt.is_set() and self._give_up(number):
            record_death(self._run, number)
        # A trial that died may have written its result before.
        told = reported_result(result) or written_result(self._run, number)
        if told is not None and told.state in ENDED:
            tell_result(self._run, self._study, told)
            self._results.end(told)

    def save(self, checkpoint_path: str) -> None:
        """Writes an empty file: a sweep is continued from its study and its trials' folders, never from a snapshot of
        Ray Tune's."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing; see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Ray Tune pickles its searcher into the same snapshots, and the study's locks cannot be pickled."""
        return {}
