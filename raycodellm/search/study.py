"""The sweep's Optuna study: it suggests numbered trials and is told how each of them ended.

An Optuna trial is a trial of the sweep and has the same number. Its arm and its replicate are user attributes.

Confirmation trials are told with their values, as all others are: each is one more measurement of its arm's point. A
sampler sees them only where trials are added to a sweep whose confirmation has begun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm.config import SweepFile, UserError
from raycodellm.records import CONFIRM_SEEDS
from raycodellm.search.arms import first_points, num_arms, num_trials
from raycodellm.search.confirmation import Phase, phase_of_replicate
from raycodellm.search.enqueued import enqueue_first_points, first_named_trial
from raycodellm.search.journal_file import open_journal
from raycodellm.search.prior import PriorTrial
from raycodellm.search.space import by_name, keyed_points, point_text, sample

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
    """Values by the parameters' names."""

    @property
    def phase(self) -> Phase:
        return phase_of_replicate(self.replicate)


class SweepStudy:
    """The sweep's study in its journal file."""

    def __init__(self, path: Path, file: SweepFile, prior: Sequence[PriorTrial] = ()) -> None:
        """Opens the journal at `path`. A new study gets the sweep's first points; a continued one gets those that were
        added, and the replicates that an interruption left out, and suggests its unfinished trials before new ones.
        `prior`: trials of other sweeps that the sampler learns from."""
        from raycodellm.search.distinct import DistinctSampler

        self._file = file
        self._storage = open_journal(path)
        self._study = create_study(self._storage, file)
        sweep, trials = file.example(), self.trials()
        self._num_replicates, self._num_searched = sweep.search.replicates, num_trials(file)
        self._arms = _Arms(trials)
        enqueue_first_points(self._study, file)  # of a continued study those that a killed driver or the file added
        for trial in trials:
            if _has_arm(trial) and trial.user_attrs["replicate"] == 0:
                self._enqueue_replicates(trial.user_attrs["arm"], trial.params)
        self._first_points = {point_text(point) for point in keyed_points(file, first_points(file))}
        self._study.sampler = DistinctSampler(
            file, num_arms(file), self._is_tried, prior=prior, keep=self._keep_attributes
        )
        # Only where both the journal and the trial's folder were damaged: else the journal has its arm.
        self._lost = [trial.number for trial in self.trials() if self._is_lost_confirmation(trial)]
        self._to_suggest_again = [number for number in self.unfinished() if number not in self._lost]
        self._to_confirm: list[int] = []
        """Numbers of the confirmation trials that wait to be suggested."""

    def trials(self) -> list[FrozenTrial]:
        """All trials as Optuna keeps them, by number."""
        return self._study.get_trials(deepcopy=False)

    def unfinished(self) -> list[int]:
        """Numbers of the trials that were suggested and not told: running, or left by a driver that died."""
        from optuna.trial import TrialState

        return [trial.number for trial in self.trials() if trial.state == TrialState.RUNNING]

    def num_finished(self) -> int:
        return sum(trial.state.is_finished() for trial in self.trials())

    def begun(self) -> set[int]:
        """Numbers of the search's trials that were suggested, finished ones among them."""
        from optuna.trial import TrialState

        trials = [trial for trial in self.trials() if trial.state != TrialState.WAITING]
        return {
            trial.number for trial in trials if phase_of_replicate(trial.user_attrs.get("replicate", 0)) == "search"
        }

    @property
    def has_interrupted(self) -> bool:
        """True if a trial that an earlier driver left unfinished waits to be suggested again."""
        return bool(self._to_suggest_again)

    @property
    def has_open(self) -> bool:
        """True if a trial left unfinished, or one of the confirmation, waits to be suggested."""
        return bool(self._to_suggest_again or self._to_confirm)

    def confirm(self, requests: Sequence[tuple[int, int]]) -> None:
        """Suggests the requested confirmation trials from now on, each an arm and a place among the fresh seeds;
        enqueues those that the study lacks. To be called when the search is over: nothing more is sampled then. Raises
        `UserError` for an arm that the study cannot have."""
        from optuna.samplers import RandomSampler
        from optuna.trial import TrialState

        self._study.sampler = RandomSampler()  # asked before each trial, though every parameter is fixed
        for arm, place in requests:
            params = self._arms.params(arm)
            if params is None:
                raise UserError(
                    f"{self._file.origin}: arm {arm} gets fresh seeds, but its parameters do not fit the search space, "
                    "so it cannot be trained again; continue with the sweep file that its trials were run with"
                )
            if self._arms.add(arm, CONFIRM_SEEDS + place, params):
                if self._lost:
                    self._restore_confirmation(self._lost.pop(0), arm, CONFIRM_SEEDS + place, params)
                else:
                    self._enqueue(arm, CONFIRM_SEEDS + place, params)
        waiting = {
            _arm_and_replicate(trial): trial.number for trial in self.trials() if trial.state == TrialState.WAITING
        }
        requested = [(arm, CONFIRM_SEEDS + place) for arm, place in requests]
        self._to_confirm = [waiting[key] for key in requested if key in waiting]

    def suggest(self) -> Suggestion:
        """The next trial to run: one left unfinished under its own number, one of the confirmation, or a new one."""
        if self._to_suggest_again:
            trial = self._live_trial(self._to_suggest_again.pop(0))
        elif self._to_confirm:
            trial = self._begun_trial(self._to_confirm.pop(0))
        else:
            trial = self._new_trial()
        sample(self._file, trial)
        if not _has_arm(trial):
            self._assign_arm(trial)
        arm, replicate = trial.user_attrs["arm"], trial.user_attrs["replicate"]
        return Suggestion(trial.number, arm, replicate, by_name(self._file, trial.params))

    def tell(
        self,
        number: int,
        values: Sequence[float] | None,
        breaches: Mapping[str, float] | None = None,
        *,
        steps: Mapping[int, float] | None = None,
        is_pruned: bool = False,
    ) -> None:
        """Ends a trial: complete with its objective values; when `values` is None pruned or failed. A second call for
        the same trial changes nothing.

        `breaches`: how far the trial is beyond each constraint, over 0 where it breaks it. All complete trials have
        them or none has, since a Gaussian process over constraints needs them of each. `steps`: values at the rungs of
        early stopping, by trained steps.
        """
        from optuna.trial import TrialState

        if values is not None and breaches and not self.trials()[number].state.is_finished():
            complete_trials = [complete for complete in self.trials() if complete.state == TrialState.COMPLETE]
            if all(complete.constraints.keys() == breaches.keys() for complete in complete_trials):
                trial = self._live_trial(number)
                for name in breaches.keys() - self.trials()[number].constraints.keys():
                    trial.set_constraint(name, breaches[name])

        if number in self._to_suggest_again:
            self._to_suggest_again.remove(number)
        state = TrialState.COMPLETE
        if values is None:
            state = TrialState.PRUNED if is_pruned else TrialState.FAIL
        if steps and not self.trials()[number].state.is_finished():
            for step, value in steps.items():
                self._storage.set_trial_intermediate_value(self._id_of(number), step, value)
        self._study.tell(number, None if values is None else list(values), state=state, skip_if_finished=True)

    def _is_tried(self, point: Mapping[str, Any]) -> bool:
        """True if an arm has this point, or will have it as one of the first points."""
        return self._arms.has(point) or point_text(point) in self._first_points

    def _keep_attributes(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Keeps the attributes that a sampler wrote into a trial of a copy of the study."""
        for name, value in attributes.items():
            self._storage.set_trial_system_attr(self._id_of(number), name, value)

    def _live_trial(self, number: int) -> optuna.trial.Trial:
        """An unfinished trial as Optuna's live trial: parameters that it has already are not sampled again."""
        from optuna.trial import Trial

        return Trial(self._study, self._id_of(number))

    def _new_trial(self) -> optuna.trial.Trial:
        """The first trial that waits, or else a new one. All points of a grid wait: those that the file names go first,
        also points that were added to the file since the study began."""
        from optuna.trial import TrialState

        if self._file.example().search.sampler == "grid":
            waiting = [trial for trial in self.trials() if trial.state == TrialState.WAITING and not _has_arm(trial)]
            if (number := first_named_trial(self._file, waiting)) is not None:
                return self._begun_trial(number)
        return self._study.ask()

    def _begun_trial(self, number: int) -> optuna.trial.Trial:
        """A trial that waits, as a live one. Optuna itself begins the first that waits, which may be another."""
        from optuna.trial import TrialState

        self._storage.set_trial_state_values(self._id_of(number), TrialState.RUNNING)
        return self._live_trial(number)

    def _is_lost_confirmation(self, trial: FrozenTrial) -> bool:
        """True for an open trial without an arm whose number tells that it was a confirmation trial: the trials before
        it that are no confirmation trials are all that the search has. Trials added to the search come later."""
        confirms = self._file.example().search.confirm is not None
        if not confirms or _has_arm(trial) or trial.state.is_finished():
            return False
        num_confirmations = sum(
            _arm_and_replicate(earlier)[1] >= CONFIRM_SEEDS for earlier in self.trials()[: trial.number]
        )
        return trial.number >= self._num_searched + num_confirmations

    def _restore_confirmation(self, number: int, arm: int, replicate: int, params: Mapping[str, Any]) -> None:
        """Makes trial `number`, of which nothing is known, this replicate of this arm."""
        from optuna.trial import TrialState

        number_id = self._id_of(number)
        self._storage.set_trial_system_attr(number_id, "fixed_params", dict(params))
        for name, value in attributes(arm, replicate).items():
            self._storage.set_trial_user_attr(number_id, name, value)
        if self._storage.get_trial(number_id).state == TrialState.RUNNING:
            self._to_suggest_again.append(number)

    def _id_of(self, number: int) -> int:
        """Optuna's id of the trial in its storage."""
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def _enqueue(self, arm: int, replicate: int, params: Mapping[str, Any]) -> None:
        self._study.enqueue_trial(dict(params), user_attrs=attributes(arm, replicate))

    def _assign_arm(self, trial: optuna.trial.Trial) -> None:
        """Gives a just sampled trial its arm and replicate, and enqueues the other replicates of a new arm.

        A point that is enqueued twice becomes one more replicate of its arm: a new seed says more than an equal run.
        """
        params = trial.params  # a deep copy each time
        arm, replicate = self._arms.place(params)
        for name, value in attributes(arm, replicate).items():
            trial.set_user_attr(name, value)
        if replicate == 0:
            self._enqueue_replicates(arm, params)

    def _enqueue_replicates(self, arm: int, params: Mapping[str, Any]) -> None:
        """Enqueues the arm's replicates that the study lacks."""
        for replicate in range(1, self._num_replicates):
            if self._arms.add(arm, replicate, params):
                self._enqueue(arm, replicate, params)


class _Arms:
    """The arms of a study by their parameters, and the replicates that each has, those among them that wait."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self._by_params: dict[str, int] = {}
        self._params: dict[int, dict[str, Any]] = {}
        self._replicates: dict[int, set[int]] = {}
        self._next_arm = 0
        """The number after the highest of an arm."""
        for trial in trials:
            if _has_arm(trial):
                params = trial.params or trial.system_attrs.get("fixed_params", {})
                self.add(trial.user_attrs["arm"], trial.user_attrs["replicate"], params)

    def add(self, arm: int, replicate: int, params: Mapping[str, Any]) -> bool:
        """Adds a replicate to an arm. False if the arm has that replicate."""
        self._by_params.setdefault(point_text(params), arm)
        self._params.setdefault(arm, dict(params))
        self._next_arm = max(self._next_arm, arm + 1)
        replicates = self._replicates.setdefault(arm, set())
        is_new = replicate not in replicates
        replicates.add(replicate)
        return is_new

    def params(self, arm: int) -> dict[str, Any] | None:
        """The arm's parameters by Optuna's keys; None for an arm that the study does not have."""
        return self._params.get(arm)

    def has(self, params: Mapping[str, Any]) -> bool:
        """True if an arm has these parameters, by Optuna's keys."""
        return point_text(params) in self._by_params

    def place(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """The arm and the replicate of a trial with these parameters that was just sampled: a new arm, or one more
        replicate of an arm that has them."""
        arm = self._by_params.get(point_text(params))
        if arm is None:
            arm = self._next_arm
        searched = (number for number in self._replicates.get(arm, ()) if phase_of_replicate(number) == "search")
        replicate = 1 + max(searched, default=-1)
        self.add(arm, replicate, params)
        return arm, replicate


def _has_arm(trial: FrozenTrial | optuna.trial.Trial) -> bool:
    """True if the trial has its arm and its replicate, which are two entries of the journal: a driver may have been
    killed between them."""
    return {"arm", "replicate"} <= trial.user_attrs.keys()


def _arm_and_replicate(trial: FrozenTrial) -> tuple[int, int]:
    """The trial's arm and replicate, each -1 if the trial does not have it yet."""
    return trial.user_attrs.get("arm", -1), trial.user_attrs.get("replicate", -1)


def attributes(arm: int, replicate: int) -> dict[str, Any]:
    """User attributes of a trial. The phase follows from the replicate and is there for people."""
    phase: dict[str, Any] = {"phase": "confirm"} if phase_of_replicate(replicate) == "confirm" else {}
    return {"arm": arm, "replicate": replicate, **phase}


def create_study(storage: optuna.storages.BaseStorage, file: SweepFile) -> optuna.Study:
    """The study of the sweep's name in `storage`, created when new. One that exists is opened without a new line in its
    journal."""
    import optuna

    sweep = file.example()
    if any(study.study_name == sweep.name for study in storage.get_all_studies()):
        return optuna.load_study(storage=storage, study_name=sweep.name)
    return optuna.create_study(
        storage=storage,
        study_name=sweep.name,
        directions=["minimize" if objective.mode == "min" else "maximize" for objective in sweep.search.objectives],
    )
