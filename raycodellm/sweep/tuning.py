"""Runs the trials through Ray Tune. The only user of `ray.tune` beside the searcher and the trial function."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from raycodellm import search
from raycodellm.dispatch import trial_actor
from raycodellm.file_systems import for_ray
from raycodellm.slots.head import ON_HEAD
from raycodellm.sweep import tracking
from raycodellm.sweep.results import Results
from raycodellm.sweep.spending import Account
from raycodellm.sweep.stopper import Halt
from raycodellm.sweep.trial import TrialContext, run_trial
from raycodellm.tables.trials import trial_name

if TYPE_CHECKING:
    from raycodellm.sweep.searcher import Audience

_NEVER_SECONDS = 1_000_000_000


def tune_trials(
    context: TrialContext,
    results: Results,
    account: Account,
    num_trials: int,
    num_slots: int,
    halt: Halt,
    audience: Audience,
) -> None:
    """Runs `num_trials` more trials, as many at once as keep `num_slots` slots busy, and those that a confirmation asks
    for. Returns when they have ended or `halt` is set.

    `results` and `account` are told of each trial that begins or ends, `audience` of each look at a confirmation.
    """
    import ray
    from ray import tune

    from raycodellm.sweep.searcher import StudySearcher

    run = context.run
    scaling = run.sweep.scaling
    scratch = run.folder / "tune"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a failed trial reports no objective
    # A sweep is continued from its trials' folders. Ray Tune's own files are not read, and would be many requests.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(_NEVER_SECONDS)

    def give_up(number: int) -> bool:
        try:
            ray.get(context.dispatcher.cancel_trial.remote(number))
        except ray.exceptions.RayError:  # without its dispatcher every trial ends like this, by no fault of its own
            return False
        return True

    trial = tune.with_parameters(run_trial, context=context)
    trial.__name__ = trial_actor(run.sweep.name)  # the dashboard's name of the processes that trials wait in
    tuner = tune.Tuner(
        tune.with_resources(trial, {"CPU": 0, **ON_HEAD}),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(run, results, halt, give_up, audience, account),
            num_samples=num_trials + search.most_confirm_trials(run.file),  # the searcher says when a confirmation ends
            max_concurrent_trials=search.trials_at_once(run.file, num_slots),
            reuse_actors=True,
            trial_name_creator=lambda trial: f"{run.sweep.name}-{trial_name(trial.config['number'])}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            **for_ray(scratch.uri),
            verbose=0,
            # A trial's process only waits, so only its node or a person ends it. Its jobs have budgets of their own.
            failure_config=tune.FailureConfig(max_failures=scaling.max_failures + scaling.max_preemptions),
            callbacks=tracking.callbacks(run.sweep, run.folder),
        ),
    )
    try:
        tuner.fit()
    finally:
        scratch.delete()
