"""A sampler around Optuna's that proposes no point which the study has already.

It asks the sampler of the sweep file and stores nothing, so a point that is thrown away leaves no trace in the study.
Its proposals depend on the study's trials and the trial's number alone: after a driver was killed while it suggested a
trial, the next driver suggests the same point.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from raycodellm.config import SweepFile
from raycodellm.files import fingerprint
from raycodellm.search.arms import MAX_GRID_POINTS, finite_points
from raycodellm.search.prior import PriorTrial, sampler_view
from raycodellm.search.samplers import make_sampler
from raycodellm.search.space import by_key, sample, simplices, unit_keys
from raycodellm.search.space_filling import space_filling

_TRIES, _GP_TRIES = 10, 2
"""Proposals of the sweep file's sampler. A Gaussian process mostly repeats itself, and takes ten times as long."""
_RANDOM_TRIES = 100
"""Random proposals in a space that has too many points to list them."""

Distribution: TypeAlias = CategoricalDistribution | IntDistribution | FloatDistribution
Point = dict[str, Any]
"""Parameters by Optuna's keys."""


class DistinctSampler(BaseSampler):
    """Proposes whole points for which `is_tried` is false, as long as the space has such a point."""

    def __init__(
        self,
        file: SweepFile,
        num_arms: int,
        is_tried: Callable[[Mapping[str, Any]], bool],
        *,
        without_model: bool = False,
        prior: Sequence[PriorTrial] = (),
        keep: Callable[[int, Mapping[str, Any]], None] = lambda number, attributes: None,
    ) -> None:
        """`is_tried`: true for a point, by Optuna's keys, that is not to be proposed. `without_model`: random points in
        place of those of a sampler that learns. `prior`: trials of other sweeps that the sampler learns
        from. `keep`: is given what the sampler wrote into the trial of a copy of the study, by its number."""
        sweep, sampler_name = file.example(), file.example().search.sampler
        self._name = "random" if without_model and sampler_name != "qmc" else sampler_name
        self._file, self._seed, self._num_arms = file, sweep.seed, num_arms
        self._is_tried, self._prior, self._keep = is_tried, prior, keep
        self._sequence: Iterator[Point] = space_filling(file) if sampler_name == "qmc" else iter(())
        self._next_of_sequence: Point | None = next(self._sequence, None)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every parameter of the space: points are proposed as a whole."""
        return dict(self._distributions)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Point:
        """A point that was not tried. Returns one that was tried if no untried point has the trial's own values: those
        that were enqueued, or stored by a driver that was killed."""
        point: Point = {}
        copy, trial_copy = sampler_view(study, trial, self._file, self._prior)
        for point in self._proposals(copy, trial_copy):
            if not self._is_tried(point):
                break
        if copy is not study:
            attributes = copy.get_trials(deepcopy=False)[trial.number].system_attrs
            self._keep(trial.number, {name: attributes[name] for name in attributes if name not in trial.system_attrs})
        return point

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value for a parameter outside the proposed point. Never needed: a point has all that its trial samples."""
        return self._sampler_for(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler_for(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler_for(trial).after_trial(study, trial, state, values)

    @cached_property
    def _distributions(self) -> dict[str, BaseDistribution]:
        space: dict[str, BaseDistribution] = {}
        for simplex in simplices(self._file):
            space |= dict.fromkeys(unit_keys(self._file, simplex), FloatDistribution(0.0, 1.0))
        for parameter in self._file.parameters:
            low, high = parameter.domain.low, parameter.domain.high
            if parameter.domain.kind == "choice":
                space[parameter.key] = CategoricalDistribution(list(parameter.domain.options))
            elif parameter.domain.kind == "int":
                space[parameter.key] = IntDistribution(int(low), int(high))
            elif parameter.domain.simplex is None:
                space[parameter.key] = FloatDistribution(low, high, log=parameter.domain.kind == "loguniform")
        return space

    @cached_property
    def _all_points(self) -> list[Point] | None:
        """All points; None where they are too many to list."""
        points = finite_points(self._file, MAX_GRID_POINTS)
        return None if points is None else [by_key(self._file, point) for point in points]

    def _seed_of(self, trial: FrozenTrial) -> int:
        return int(fingerprint([self._seed, trial.number])[:8], 16)

    def _sampler_for(self, trial: FrozenTrial) -> BaseSampler:
        """The sampler of the sweep file for this trial."""
        return make_sampler(self._name, self._seed_of(trial), self._num_arms)

    def _proposals(self, study: Study, trial: FrozenTrial) -> Iterator[Point]:
        """Points for the trial: by the sampler of the sweep file, and then by chance."""
        fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        sampler, generator = self._sampler_for(trial), random.Random(self._seed_of(trial))
        for _ in range(_GP_TRIES if self._name == "gp" else _TRIES):
            yield self._proposal(sampler, study, trial, fixed)
        if self._all_points is None:
            sampler = RandomSampler(self._seed_of(trial))
            for _ in range(_RANDOM_TRIES):
                yield self._proposal(sampler, study, trial, fixed)
        else:
            agreeing = [
                point for point in self._all_points if all(fixed.get(key, point[key]) == point[key] for key in point)
            ]
            yield from generator.sample(agreeing, len(agreeing))

    def _proposal(self, sampler: BaseSampler, study: Study, trial: FrozenTrial, fixed: Point) -> Point:
        asker = _Asker(sampler, study, trial, {**self._along_sequence(), **fixed})
        sample(self._file, asker)
        return asker.point

    def _along_sequence(self) -> Point:
        """The first point of the sequence that was not tried; empty for another sampler than `qmc`, and at the end."""
        while self._next_of_sequence is not None and self._is_tried(self._next_of_sequence):
            self._next_of_sequence = next(self._sequence, None)
        return self._next_of_sequence or {}


class _Asker:
    """Asks a sampler for each parameter of a point, as an Optuna trial does, and stores nothing."""

    def __init__(self, sampler: BaseSampler, study: Study, trial: FrozenTrial, fixed: Point) -> None:
        """`fixed`: values that are not sampled."""
        self._sampler, self._study, self._trial, self._fixed = sampler, study, trial, fixed
        self._relative: Point | None = None
        self.point: Point = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._value(name, CategoricalDistribution(list(choices)))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return self._value(name, IntDistribution(low, high))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        return self._value(name, FloatDistribution(low, high, log=log))

    def _value(self, name: str, distribution: Distribution) -> Any:
        if name not in self.point:
            self.point[name] = self._fixed[name] if name in self._fixed else self._sampled(name, distribution)
        return self.point[name]

    def _sampled(self, name: str, distribution: Distribution) -> Any:
        if distribution.single():
            return distribution.choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low
        if self._relative is None:
            space = self._sampler.infer_relative_search_space(self._study, self._trial)
            self._relative = self._sampler.sample_relative(self._study, self._trial, space)
        if name in self._relative:
            return self._relative[name]
        return self._sampler.sample_independent(self._study, self._trial, name, distribution)
