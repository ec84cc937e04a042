"""The search space as Optuna samples it: which parameters a trial has, in which order, and under which keys.

Optuna knows a parameter by its key. The key is the parameter's name (its path in the sweep file) unless several options
of a choice search over the same name in spaces of their own: then each of them has its own key. A mixture is searched
by its units (`config.simplex`), numbers from 0 to 1, one fewer than its free sources; everywhere else it is known by
its weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from raycodellm import config
from raycodellm.config import Domain, Parameter, SweepFile
from raycodellm.config.simplex import Simplex
from raycodellm.search.journal_file import quiet_optuna


class Asker(Protocol):
    """The part of an Optuna trial that samples; `optuna.trial.Trial` and `FixedTrial` have it."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...


class _Need(NamedTuple):
    """A parameter has an effect only for some values of its sibling in the sweep file."""

    sibling: str
    has_effect: Callable[[Any], bool]
    default: Any
    """The sibling's value where the sweep file leaves it out."""


_NEEDS = {
    # At a code ratio of 0 or 1 every named shape is the same constant mixture.
    "schedule": _Need("code_ratio", lambda ratio: 0.0 < ratio < 1.0, None),
    # Without code nothing comes on top of the text.
    "budget": _Need("code_ratio", lambda ratio: ratio > 0.0, None),
    "learning_rate.decay": _Need("learning_rate.schedule", lambda schedule: schedule == "wsd", "cosine"),
    # A learning rate that continues from the stage before has no warm-up.
    "learning_rate.warmup": _Need("learning_rate.boundary", lambda boundary: boundary != "continue", "restart"),
    "learning_rate.final": _Need("learning_rate.schedule", lambda schedule: schedule != "constant", "cosine"),
}
"""Maps a parameter's path inside its stage to the parameter's need."""


def sampling_order(file: SweepFile) -> list[Parameter]:
    """The parameters, each after those that decide whether it has an effect."""
    return sorted(file.parameters, key=lambda parameter: (_depth(parameter), _path_in_stage(parameter.name) in _NEEDS))


def is_relevant(file: SweepFile, parameter: Parameter, params: Mapping[str, Any]) -> bool:
    """True if `parameter` has an effect, given the parameters sampled before it (by name)."""
    if not parameter.is_active(params):
        return False
    path = _path_in_stage(parameter.name)
    if path not in _NEEDS:
        return True
    need = _NEEDS[path]
    name = parameter.name.removesuffix(path) + need.sibling
    value = params[name] if name in params else config.value_at(file, name, params)
    value = need.default if value is None else value
    return value is None or need.has_effect(value)


def _path_in_stage(name: str) -> str:
    """`pretrain.learning_rate.peak` → `learning_rate.peak`; a name of one part is its own path."""
    return name.partition(".")[2] or name


def _depth(parameter: Parameter) -> int:
    return max(len(condition) for condition in parameter.conditions)


def sample(file: SweepFile, trial: Asker) -> dict[str, Any]:
    """Samples every parameter that has an effect. Returns the point by the parameters' names."""
    params: dict[str, Any] = {}
    for parameter in sampling_order(file):
        if parameter.name in params or not is_relevant(file, parameter, params):
            continue
        simplex = parameter.domain.simplex
        if simplex is None:
            params[parameter.name] = _suggest(trial, parameter.key, parameter.domain)
        else:
            units = [trial.suggest_float(key, 0.0, 1.0, log=False) for key in unit_keys(file, simplex)]
            params |= zip(simplex.names, simplex.weights(units), strict=True)
    return params


def unit_keys(file: SweepFile, simplex: Simplex) -> tuple[str, ...]:
    """Optuna's keys of a mixture's units, each named by the source whose weight it decides."""
    keys = [parameter.key for parameter in file.parameters if parameter.domain.simplex == simplex]
    return tuple(f"{keys[index]}.unit" for index in simplex.with_unit)


def coordinates(file: SweepFile) -> tuple[str, ...]:
    """Optuna's keys of everything that is sampled in some point of the space, in the order of sampling."""
    units = {simplex: unit_keys(file, simplex) for simplex in simplices(file)}
    keys = (
        units[parameter.domain.simplex] if parameter.domain.simplex else (parameter.key,)
        for parameter in sampling_order(file)
    )
    return tuple(dict.fromkeys(key for parameter_keys in keys for key in parameter_keys))


def simplices(file: SweepFile) -> list[Simplex]:
    """The searched mixtures, in the order of the file."""
    return list(dict.fromkeys(parameter.domain.simplex for parameter in file.parameters if parameter.domain.simplex))


def _suggest(trial: Asker, key: str, domain: Domain) -> Any:
    if domain.kind == "choice":
        return trial.suggest_categorical(key, list(domain.options))
    if domain.kind == "int":
        return trial.suggest_int(key, int(domain.low), int(domain.high))
    return trial.suggest_float(key, domain.low, domain.high, log=domain.kind == "loguniform")


def distributions(file: SweepFile, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Optuna's distribution of each parameter, by its key. None when `params` (by name) is no whole point of the space:
    a parameter is missing, superfluous, or outside its bounds."""
    import optuna

    quiet_optuna()
    point = by_key(file, params)
    trial = optuna.trial.FixedTrial(point)
    try:
        sample(file, trial)
        optuna.trial.create_trial(value=0.0, params=point, distributions=trial.distributions)
    except ValueError:
        return None
    return dict(trial.distributions)


# ------------------------------------------------------------------------------------------------ names and keys


def by_name(file: SweepFile, point: Mapping[str, Any]) -> dict[str, Any]:
    """A point by the parameters' names, from one by Optuna's keys. A key of an older version gets its present name.

    Leaves out a mixture of which the point lacks a unit.
    """
    names = {parameter.key: parameter.name for parameter in file.parameters}
    mixtures = {
        key: (simplex, keys) for simplex in simplices(file) for keys in [unit_keys(file, simplex)] for key in keys
    }
    named: dict[str, Any] = {}
    for key, value in point.items():
        if key not in mixtures:
            named[names.get(key) or config.current_name(key)] = value
            continue
        simplex, keys = mixtures[key]
        if key == keys[0] and point.keys() >= set(keys):
            named |= zip(simplex.names, simplex.weights([point[unit_key] for unit_key in keys]), strict=True)
    return named


def by_key(file: SweepFile, params: Mapping[str, Any]) -> dict[str, Any]:
    """A whole point by Optuna's keys, from one by the parameters' names. An unknown name stays as it is, and so do
    weights that are no mixture of the space."""
    keys = {parameter.name: parameter.key for parameter in file.parameters if parameter.is_active(params)}
    units = _units(
        file, params, {parameter.domain.simplex for parameter in file.parameters if parameter.is_active(params)}
    )
    weight_names = {name for simplex in units for name in simplex.names}
    point = {keys.get(name, name): value for name, value in params.items() if name not in weight_names}
    return {**point, **{key: unit for unit_values in units.values() for key, unit in unit_values.items()}}


def _units(
    file: SweepFile, params: Mapping[str, Any], among: Collection[Simplex | None]
) -> dict[Simplex, dict[str, float]]:
    """The units by their keys of each mixture among `among` whose weights are in `params` and in its bounds."""
    by_mixture = {}
    for simplex in simplices(file):
        if simplex in among and all(name in params for name in simplex.names):
            with contextlib.suppress(ValueError):
                units = simplex.units([params[name] for name in simplex.names])
                by_mixture[simplex] = dict(zip(unit_keys(file, simplex), units, strict=True))
    return by_mixture


def point_text(point: Mapping[str, Any]) -> str:
    """A text that two points by Optuna's keys have in common where they are the same."""
    return repr(sorted(point.items()))


def keyed_points(file: SweepFile, points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points by Optuna's keys. Where a point leaves a choice open whose options search over one name in spaces of their
    own, the value is given to each key whose space holds it."""
    parameters: dict[str, list[Parameter]] = {}
    for parameter in file.parameters:
        parameters.setdefault(parameter.name, []).append(parameter)
    mixtures, keyed = simplices(file), []
    for point in points:
        plain = {
            parameter.key: value
            for name, value in point.items()
            for parameter in parameters[name]
            if parameter.domain.simplex is None and parameter.domain.holds(value)
        }
        for units in _units(file, point, mixtures).values():
            plain |= units
        keyed.append(plain)
    return keyed
