"""The sweep's Optuna study: it suggests numbered trials and is told how each of them ended.

An Optuna trial is a trial of the sweep and has the same number. Its arm and its replicate are user attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm.config import SweepFile
from raycodellm.search.arms import first_points, num_arms
from raycodellm.search.journal_file import open_journal
from raycodellm.search.samplers import make_sampler
from raycodellm.search.space import by_name, keyed_points, sample

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Suggestion:
    """One trial to run."""

    number: int
    arm: int
    replicate: int
    """The trial's seed is the sweep's seed plus `replicate`."""
    params: dict[str, Any]
    """By the parameters' names."""


class SweepStudy:
    """The sweep's study in its journal file."""

    def __init__(self, path: Path, file: SweepFile) -> None:
        """Opens the journal at `path`. A new study gets the sweep's first points; a continued one gets the replicates
        that an interruption left out, and suggests its unfinished trials before new ones."""
        from optuna.trial import TrialState

        self._file = file
        self._storage = open_journal(path)
        self._study = create_study(self._storage, file)
        sweep, known = file.example(), self.trials()
        self._num_replicates = sweep.search.replicates
        self._arms = _Arms(known)
        if all(trial.state == TrialState.WAITING for trial in known):  # a killed driver may have enqueued some of them
            enqueue_first_points(self._study, file)
        for trial in known:
            if _has_arm(trial) and trial.user_attrs["replicate"] == 0:
                self._enqueue_replicates(trial.user_attrs["arm"], trial.params)
        self._study.sampler = make_sampler(sweep.search, sweep.seed, num_arms(file), len(self.trials()))
        self._to_suggest_again = self.unfinished()

    def trials(self) -> list[FrozenTrial]:
        """All trials as Optuna keeps them, by number."""
        return self._study.get_trials(deepcopy=False)

    def unfinished(self) -> list[int]:
        """Numbers of the trials that were suggested and not told: running, or left by a driver that died."""
        from optuna.trial import TrialState

        return [trial.number for trial in self.trials() if trial.state == TrialState.RUNNING]

    def num_finished(self) -> int:
        return sum(trial.state.is_finished() for trial in self.trials())

    def suggest(self) -> Suggestion:
        """The next trial to run: one left unfinished under its own number, else a new one."""
        trial = self._running_trial(self._to_suggest_again.pop(0)) if self._to_suggest_again else self._study.ask()
        sample(self._file, trial)
        if not _has_arm(trial):
            self._give_arm(trial)
        arm, replicate = trial.user_attrs["arm"], trial.user_attrs["replicate"]
        return Suggestion(trial.number, arm, replicate, by_name(self._file, trial.params))

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """Ends a trial: complete with its objective values, or failed when `values` is None. A second call for the same
        trial changes nothing."""
        from optuna.trial import TrialState

        if number in self._to_suggest_again:
            self._to_suggest_again.remove(number)
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        self._study.tell(number, None if values is None else list(values), state=state, skip_if_finished=True)

    def _running_trial(self, number: int) -> optuna.trial.Trial:
        """An unfinished trial as Optuna's live trial: parameters that it has already are not sampled again."""
        from optuna.trial import Trial

        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        return Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def _give_arm(self, trial: optuna.trial.Trial) -> None:
        """Gives a just sampled trial its arm and replicate, and enqueues the other replicates of a new arm.

        A point that is suggested again becomes one more replicate of its arm: a new seed says more than an equal run.
        """
        params = trial.params  # a deep copy each time
        arm, replicate = self._arms.place(params)
        trial.set_user_attr("arm", arm)
        trial.set_user_attr("replicate", replicate)
        if replicate == 0:
            self._enqueue_replicates(arm, params)

    def _enqueue_replicates(self, arm: int, params: Mapping[str, Any]) -> None:
        """Enqueues the arm's replicates that the study lacks."""
        for replicate in range(1, self._num_replicates):
            if self._arms.add(arm, replicate, params):
                self._study.enqueue_trial(dict(params), user_attrs={"arm": arm, "replicate": replicate})


class _Arms:
    """The arms of a study by their parameters, and the replicates that each has, those among them that wait."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self._by_params: dict[str, int] = {}
        self._replicates: dict[int, set[int]] = {}
        for trial in trials:
            if _has_arm(trial):
                params = trial.params or trial.system_attrs.get("fixed_params", {})
                self.add(trial.user_attrs["arm"], trial.user_attrs["replicate"], params)

    def add(self, arm: int, replicate: int, params: Mapping[str, Any]) -> bool:
        """False if the arm has that replicate."""
        self._by_params.setdefault(_text(params), arm)
        known = self._replicates.setdefault(arm, set())
        is_new = replicate not in known
        known.add(replicate)
        return is_new

    def place(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """The arm and the replicate of a trial with these parameters that was just sampled: a new arm, or one more
        replicate of an arm that has them."""
        arm = self._by_params.get(_text(params))
        if arm is None:
            arm = 1 + max(self._replicates, default=-1)
        replicate = 1 + max(self._replicates.get(arm, ()), default=-1)
        self.add(arm, replicate, params)
        return arm, replicate


def _has_arm(trial: FrozenTrial | optuna.trial.Trial) -> bool:
    """True if the trial has its arm and its replicate, which are two entries of the journal: a driver may have been
    killed between them."""
    return {"arm", "replicate"} <= trial.user_attrs.keys()


def _text(params: Mapping[str, Any]) -> str:
    return repr(sorted(params.items()))


def create_study(storage: optuna.storages.BaseStorage, file: SweepFile) -> optuna.Study:
    """The study of the sweep's name in `storage`, created when new."""
    import optuna

    sweep = file.example()
    return optuna.create_study(
        storage=storage,
        study_name=sweep.name,
        load_if_exists=True,
        directions=["minimize" if objective.mode == "min" else "maximize" for objective in sweep.search.objectives],
    )


def enqueue_first_points(study: optuna.Study, file: SweepFile) -> None:
    """Enqueues the grid or the points to try first, except those that a trial of the study has already."""
    known = [{**t.params, **t.system_attrs.get("fixed_params", {})} for t in study.get_trials(deepcopy=False)]
    for point in keyed_points(file, first_points(file)):
        if not any(point.items() <= params.items() for params in known):
            study.enqueue_trial(point)
