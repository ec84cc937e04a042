"""Ray Tune and Optuna: the searcher that suggests numbered trials, and the tuner that runs them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from raycodellm import retrying, search, storage_files
from raycodellm.files import DamagedFile
from raycodellm.records import TrialResult, as_json
from raycodellm.sweep.folder import Run, read_result, write_table
from raycodellm.sweep.ownership import keep_journal
from raycodellm.sweep.repair import mend
from raycodellm.sweep.trial import Context, run_trial

logger = logging.getLogger(__name__)


class Halt(Protocol):
    """Says when no more trials should begin, and those that end without a result stay open."""

    def is_set(self) -> bool: ...


def make_searcher(run: Run, stopping: Halt, give_up: Callable[[int], bool]) -> Any:
    """Ray Tune's OptunaSearch on the run's journal, taking up the trials that an earlier driver left unfinished.

    `give_up` hears the number of a trial whose own process died for good: nobody waits for its jobs any more. It says
    whether the sweep goes on without the trial; else the trial stays open.
    """
    from ray.tune.search import Searcher
    from ray.tune.search.optuna import OptunaSearch

    sweep = run.sweep
    objectives = sweep.search.objectives
    study = search.open_study(run.journal, run.file)
    asked = len(study.get_trials(deepcopy=False))

    class StudySearch(OptunaSearch):
        """Suggests Optuna's trials with their numbers, arms and seeds; tells it complete or failed by the state."""

        unfinished = search.running(study)

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            if stopping.is_set():
                return Searcher.FINISHED
            if trial_id not in self._ot_trials and self.unfinished:
                self._ot_trials[trial_id] = self.unfinished.pop(0)
            super().suggest(trial_id)
            found = search.identify(self._ot_study, self._ot_trials[trial_id], sweep.search.replicates, run.file)
            keep_journal(run)
            seed = sweep.seed + found.replicate
            return {"number": found.number, "arm": found.arm, "seed": seed, "params": found.params}

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            """A trial reports once, at its end."""

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            trial = self._ot_trials[trial_id]
            if error and not stopping.is_set() and give_up(trial.number):
                _record_death(run, trial.number)
            _tell_written(run, self._ot_study, trial)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: a sweep is continued from its study and folders, not from Tune's snapshots."""
            Path(checkpoint_path).touch()

        def __reduce__(self) -> tuple[Any, ...]:
            """Tune pickles its searcher for such a snapshot; a name is enough, the study's locks cannot travel."""
            return str, (type(self).__name__,)

    return StudySearch(
        space=search.Space(run.file),
        metric=[o.metric for o in objectives] if len(objectives) > 1 else objectives[0].metric,
        mode=[o.mode for o in objectives] if len(objectives) > 1 else objectives[0].mode,
        storage=search.journal(run.journal),
        study_name=sweep.name,
        sampler=search.sampler(sweep.search, sweep.seed, search.num_arms(run.file), asked),
    )


def _record_death(run: Run, number: int) -> None:
    """The trial's own process died for good, so the driver writes down what it could not."""
    folder = run.trial_folder(number)
    if not folder.exists("result.json"):
        known = storage_files.attempt(lambda: storage_files.read_started(folder), logger.warning)
        result = known or TrialResult(number=number, state="failed", arm=-1, seed=-1)
        cause = "the trial's own process ended without a result; see the log"
        folder.write_json("result.json", as_json(replace(result, state="failed", error=cause)))


def tell_written_results(run: Run, say: Callable[[str], Any] = logger.warning) -> int:
    """Tells the study what trials wrote before their driver died, and returns the number of finished trials.

    What is damaged of the study or the trials is made right first; `say` hears what.
    """
    mend(run, say)
    study = search.open_study(run.journal, run.file)
    for trial in search.running(study):
        _tell_written(run, study, trial)
    return search.num_finished(study)


def _tell_written(run: Run, study: Any, trial: Any) -> None:
    """Tells the study what the trial wrote. One that wrote no result was stopped: it stays open for the next run."""
    folder, number = run.trial_folder(trial.number), trial.number
    is_there = retrying.patiently(lambda: folder.exists("result.json"), "result.json")
    if is_there:
        try:
            result = retrying.patiently(lambda: read_result(run, number), "result.json")
        except DamagedFile as error:  # the trial stays open: the next start makes its result again
            logger.warning("%s", error)
            return
        complete = result.state == "complete"
        values = search.objective_values(run.sweep.search.objectives, result.metrics) if complete else None
        search.tell(study, trial, values)
        keep_journal(run)


def tune_trials(context: Context, num_trials: int, concurrent: int, stopping: Halt) -> None:
    """Runs `num_trials` more trials, `concurrent` at once; returns when they have ended or `stopping` is set."""
    import ray
    from ray import tune

    run = context.run
    scaling = run.sweep.scaling
    scratch = run.folder / "tune"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a failed trial has no objective, and that is its result

    def give_up(number: int) -> bool:
        try:
            ray.get(context.dispatcher.cancel_trial.remote(number))
        except ray.exceptions.RayError:  # with the dispatcher every trial ends like this: the fault of none of them
            return False
        return True

    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, context=context), {"CPU": 0.01}),
        tune_config=tune.TuneConfig(
            search_alg=make_searcher(run, stopping, give_up),
            num_samples=num_trials,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch.uri,
            verbose=0,
            # A trial's process only waits: what kills it is its node, or somebody. Its jobs have budgets of their own.
            failure_config=tune.FailureConfig(max_failures=scaling.max_failures + scaling.max_preemptions),
            callbacks=[_table_writer(run)],
        ),
    )
    tuner.fit()
    scratch.delete()


def _table_writer(run: Run) -> Any:
    from ray import tune

    class TableWriter(tune.Callback):
        """Keeps `trials.parquet` up to date while the sweep runs."""

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            retrying.patiently(lambda: write_table(run), "trials.parquet")

        on_trial_error = on_trial_complete

    return TableWriter()
