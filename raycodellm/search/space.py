"""What to try next: the search space as Optuna sees it, the samplers, and the study that remembers.

The only door to `optuna`. A parameter is sampled only where it means something; an Optuna trial is a trial
of the sweep, with the same number; its arm and seed are its user attributes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm import config
from raycodellm.config import Domain, Objective, Parameter, Search, SweepFile, UserError
from raycodellm.files import fingerprint

if TYPE_CHECKING:
    import optuna

MOST_TRIALS = 10_000
MOST_GRID_POINTS = 1_000
"""Each is made and validated before the sweep begins, which takes some milliseconds."""
FINISHED = ("COMPLETE", "FAIL", "PRUNED")


# ------------------------------------------------------------------------------------------------ the space


def sampling_order(file: SweepFile) -> list[Parameter]:
    """The parameters, each after those that can make it meaningless."""
    return sorted(file.parameters, key=lambda one: (_depth(one), _leaf(one.name) in _NEEDS))


def is_relevant(file: SweepFile, one: Parameter, params: Mapping[str, Any]) -> bool:
    """True if `one` changes anything, given the parameters sampled before it."""
    if not one.is_active(params):
        return False
    leaf = _leaf(one.name)
    if leaf not in _NEEDS:
        return True
    sibling, is_meaningful, default = _NEEDS[leaf]
    name = one.name.removesuffix(leaf) + sibling
    value = params[name] if name in params else config.value_at(file, name, params)
    value = default if value is None else value
    return value is None or is_meaningful(value)


# Last part of a parameter's path -> (its sibling, whether the sibling's value leaves it a meaning, the sibling's value
# when left out). At a code ratio of 0 or 1 every named shape is the same constant mixture; only wsd has a decay; a
# constant rate has no final value; a rate that goes on from the stage before has no warm-up.
_NEEDS = {
    "schedule": ("code_ratio", lambda ratio: 0.0 < ratio < 1.0, None),
    "learning_rate.decay": ("learning_rate.schedule", lambda schedule: schedule == "wsd", "cosine"),
    "learning_rate.warmup": ("learning_rate.boundary", lambda boundary: boundary != "continue", "restart"),
    "learning_rate.final": ("learning_rate.schedule", lambda schedule: schedule != "constant", "cosine"),
}


def _leaf(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[1:]) if len(parts) > 1 else name


def _depth(one: Parameter) -> int:
    return max(len(condition) for condition in one.conditions)


def named(file: SweepFile, point: Mapping[str, Any]) -> dict[str, Any]:
    """A point by the parameters' names, out of one by the keys that Optuna knows them by."""
    names = {one.key: one.name for one in file.parameters}
    return {names.get(key) or config.current_name(key): value for key, value in point.items()}


def keyed(file: SweepFile, params: Mapping[str, Any]) -> dict[str, Any]:
    """The other way: a whole point by the keys; what is no parameter of it keeps its name."""
    keys = {one.name: one.key for one in file.parameters if one.is_active(params)}
    return {keys.get(name, name): value for name, value in params.items()}


@dataclass(frozen=True)
class Space:
    """A define-by-run space for Optuna; a plain object, since Ray Tune pickles its searcher."""

    file: SweepFile

    def __call__(self, trial: Any) -> None:
        params: dict[str, Any] = {}
        for one in sampling_order(self.file):
            if is_relevant(self.file, one, params):
                params[one.name] = _suggest(trial, one.key, one.domain)


def _suggest(trial: Any, key: str, domain: Domain) -> Any:
    if domain.kind == "choice":
        return trial.suggest_categorical(key, list(domain.options))
    if domain.kind == "int":
        return trial.suggest_int(key, int(domain.low), int(domain.high))
    return trial.suggest_float(key, domain.low, domain.high, log=domain.kind == "loguniform")


def grid(file: SweepFile) -> list[dict[str, Any]]:
    """Every distinct point of a space of choices and whole numbers, in the order of the file.

    Raises `UserError` naming a parameter that has no finite set of values.
    """
    for one in file.parameters:
        if one.domain.kind not in ("choice", "int"):
            raise UserError(
                f"search.sampler: grid cannot list {one.name}, which is {one.domain.kind} over {one.domain}; "
                "give it a choice of values or use sampler: tpe"
            )
    points = list(itertools.islice(_points(file, sampling_order(file), {}), MOST_GRID_POINTS + 1))
    if len(points) > MOST_GRID_POINTS:
        raise UserError(
            f"search.sampler: the grid has over {MOST_GRID_POINTS:,} points, which cannot all be tried; give the "
            "searches fewer values, or use sampler: tpe with a number of trials"
        )
    first = [[name for name in points if _agrees(name, wanted)] for wanted in file.enqueued()]
    ordered = [*itertools.chain(*first), *points]
    return [point for place, point in enumerate(ordered) if point not in ordered[:place]] if first else points


def _agrees(point: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(name not in wanted or value == wanted[name] for name, value in point.items())


def _points(file: SweepFile, left: Sequence[Parameter], params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not left:
        yield dict(params)
        return
    one, rest = left[0], left[1:]
    if not is_relevant(file, one, params):
        yield from _points(file, rest, params)
        return
    domain = one.domain
    for value in domain.options if domain.kind == "choice" else range(int(domain.low), int(domain.high) + 1):
        yield from _points(file, rest, {**params, one.name: value})


def num_arms(file: SweepFile) -> int:
    """Arms that the sweep tries. Raises `UserError` when the number does not fit the sampler."""
    search = file.example().search
    if search.sampler == "grid":
        points = grid(file)
        if search.trials is not None and search.trials != len(points):
            raise UserError(
                f"search.trials: found {search.trials}, but the grid has {len(points)} points; "
                f"use {len(points)} or leave trials out"
            )
        for point in points:
            config.resolve(file, point)
        return _countable(len(points), search)
    if search.trials is None:
        raise UserError(f"search.trials: is missing; sampler {search.sampler} needs a number, for example trials: 6")
    return _countable(max(search.trials, len(search.enqueue)), search)


def _countable(num_arms: int, search: Search) -> int:
    if num_arms * search.replicates > MOST_TRIALS:
        trials = f"{num_arms:,} arms × {search.replicates:,} replicates are {num_arms * search.replicates:,} trials"
        raise UserError(f"search: {trials}; a sweep has at most {MOST_TRIALS:,}")
    return num_arms


def num_trials(file: SweepFile) -> int:
    """Trials of the whole sweep: every arm once per replicate."""
    return num_arms(file) * file.example().search.replicates


def preview(file: SweepFile, most: int) -> list[dict[str, Any]]:
    """The arms of a grid, or as many as the sweep will try drawn at random: to show what a sweep looks like.

    The first `most` of them.
    """
    if file.example().search.sampler == "grid":
        return grid(file)[:most]
    import optuna

    quiet()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=file.example().seed))
    for point in _keyed(file, file.enqueued()):
        study.enqueue_trial(point)
    arms = []
    for _ in range(min(most, num_arms(file))):
        trial = study.ask()
        Space(file)(trial)
        arms.append(named(file, trial.params))
    return arms


# ------------------------------------------------------------------------------------------------ the study


def quiet() -> None:
    """Optuna's messages and experimental warnings go to the log, not to the terminal."""
    import warnings

    import optuna

    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def sampler(search: Search, seed: int, num_arms: int, asked: int) -> optuna.samplers.BaseSampler:
    """The sampler of the sweep file. `asked`: trials the study has already; a continued study draws on, not again."""
    import optuna

    quiet()
    drawn = int(fingerprint([seed, asked])[:8], 16)
    startup = min(10, max(2, num_arms // 3))  # random arms before the model takes over; Optuna's 10 eats a small sweep
    if search.sampler == "tpe":
        return optuna.samplers.TPESampler(
            seed=drawn, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )
    if search.sampler == "gp":
        return optuna.samplers.GPSampler(seed=drawn, n_startup_trials=startup)
    if search.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=drawn, population_size=max(4, min(50, num_arms // 3)))
    return optuna.samplers.RandomSampler(seed=drawn)


def journal(path: Path) -> optuna.storages.JournalStorage:
    """Optuna's journal at `path`; a last line that a killed process left half written is cut off first."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    quiet()
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            path.write_bytes(data[: data.rfind(b"\n") + 1])
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def open_study(path: Path, file: SweepFile) -> optuna.Study:
    """The sweep's study, made with its first points when new, with the replicates that an interruption left out."""
    import optuna

    sweep = file.example()
    storage = journal(path)
    study = optuna.create_study(
        storage=storage,
        study_name=sweep.name,
        load_if_exists=True,
        directions=["minimize" if objective.mode == "min" else "maximize" for objective in sweep.search.objectives],
    )
    asked = study.get_trials(deepcopy=False)
    study.sampler = sampler(sweep.search, sweep.seed, num_arms(file), len(asked))
    if not asked:
        enqueue_first_points(study, file)
    for trial in asked:
        if trial.user_attrs.get("replicate") == 0:
            _enqueue_replicates(study, trial.user_attrs["arm"], trial.params, sweep.search.replicates)
    return study


def enqueue_first_points(study: optuna.Study, file: SweepFile) -> None:
    """Lines up the grid, or the points to try first; not those that a trial of the study has already."""
    asked = [{**t.params, **t.system_attrs.get("fixed_params", {})} for t in study.get_trials(deepcopy=False)]
    for point in _keyed(file, grid(file) if file.example().search.sampler == "grid" else file.enqueued()):
        if not any(point.items() <= params.items() for params in asked):
            study.enqueue_trial(point)


def distributions(file: SweepFile, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Optuna's distribution of each parameter, by its key; None where these are not all that a trial of this sweep has.

    `params`: by the parameters' names.
    """
    import optuna

    quiet()
    point = keyed(file, params)
    trial = optuna.trial.FixedTrial(point)
    try:
        Space(file)(trial)
        optuna.trial.create_trial(value=0.0, params=point, distributions=trial.distributions)
    except ValueError:  # one is missing, one too many, or one is outside of its space
        return None
    return dict(trial.distributions)


def _keyed(file: SweepFile, points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points by the keys that Optuna knows the parameters by. Where a point leaves a choice open, whose options have
    spaces of their own for one name, its value goes for each of them."""
    keys: dict[str, list[Parameter]] = {}
    for one in file.parameters:
        keys.setdefault(one.name, []).append(one)
    return [
        {one.key: value for name, value in point.items() for one in keys[name] if one.domain.holds(value)}
        for point in points
    ]


def _enqueue_replicates(study: optuna.Study, arm: int, params: Mapping[str, Any], replicates: int) -> None:
    there = {t.user_attrs.get("replicate") for t in study.get_trials(deepcopy=False) if t.user_attrs.get("arm") == arm}
    for replicate in range(1, replicates):
        if replicate not in there:
            study.enqueue_trial(dict(params), user_attrs={"arm": arm, "replicate": replicate})


@dataclass(frozen=True)
class Suggestion:
    """One trial to run."""

    number: int
    arm: int
    replicate: int
    params: dict[str, Any]


def identify(study: optuna.Study, trial: optuna.trial.Trial, replicates: int, file: SweepFile) -> Suggestion:
    """Gives a just suggested trial its arm and replicate, and lines up the arm's other replicates.

    An arm that is suggested again becomes one more replicate of itself: a new seed says more than the same run.
    """
    if "arm" not in trial.user_attrs:
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number and "arm" in t.user_attrs]
        same = [t.user_attrs for t in others if t.params == trial.params]
        arm = same[0]["arm"] if same else 1 + max((t.user_attrs["arm"] for t in others), default=-1)
        replicate = 1 + max((attrs["replicate"] for attrs in same), default=-1)
        trial.set_user_attr("arm", arm)
        trial.set_user_attr("replicate", replicate)
        if replicate == 0:
            _enqueue_replicates(study, arm, trial.params, replicates)
    attrs = trial.user_attrs
    return Suggestion(trial.number, attrs["arm"], attrs["replicate"], named(file, trial.params))


def running(study: optuna.Study) -> list[optuna.trial.Trial]:
    """Trials that an earlier driver left unfinished, as live trials that can be told a result."""
    import optuna

    frozen = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    return [optuna.trial.Trial(study, trial._trial_id) for trial in frozen]


def num_finished(study: optuna.Study) -> int:
    return sum(trial.state.name in FINISHED for trial in study.get_trials(deepcopy=False))


def tell(study: optuna.Study, trial: Any, values: Sequence[float] | None) -> None:
    """Ends a trial: complete with its objective values, or failed when `values` is None. Told twice is told once."""
    import optuna

    state = optuna.trial.TrialState.FAIL if values is None else optuna.trial.TrialState.COMPLETE
    study.tell(trial, None if values is None else list(values), state=state, skip_if_finished=True)


def objective_values(objectives: Sequence[Objective], metrics: Mapping[str, float]) -> list[float]:
    """The objectives out of a trial's metrics. Raises ValueError for one that is missing or not a finite number."""
    values = []
    for objective in objectives:
        if objective.metric not in metrics:
            near = ", ".join(sorted(metrics))
            raise ValueError(f"the evaluation gave no {objective.metric!r}, the sweep's objective; it gave {near}")
        value = float(metrics[objective.metric])
        if not math.isfinite(value):
            raise ValueError(f"the objective {objective.metric!r} is {value}, not a finite number")
        values.append(value)
    return values


def pairs(params: Mapping[str, Any]) -> str:
    """Parameters in one line: `pretrain.code_ratio=0.312 pretrain.schedule=decrease`."""
    return " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )
