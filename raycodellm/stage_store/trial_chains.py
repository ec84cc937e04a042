"""The chain of a trial of a sweep: its jobs, and what its stages keep for the stages of other trials."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from raycodellm import config
from raycodellm.config import Parameter, SweepFile, UserError
from raycodellm.stage_store.chains import Chain, Materials, chain
from raycodellm.stage_store.trunks import keeping

_OF_LENGTH = ("tokens", "learning_rate", "averaging")
"""Settings of a stage, searches among them, that stages of one trunk may differ in."""
_MOST_VALUES = 16
"""A search over more values, or without end, is no reason to keep checkpoints: few trials would share a trunk."""
_MOST_LENGTHS = 32
"""Most combinations of a stage's lengths and decays that are looked at."""


def trial_chain(file: SweepFile, params: Mapping[str, Any], seed: int, materials: Materials) -> Chain:
    """The jobs of the trial with these parameters (by name) and this seed.

    A stage keeps its optimizer state where any trial of the sweep starts from it, and checkpoints where stages of other
    trials share its trunk.
    """
    kept = config.stages_keeping_optimizer(file)
    names = frozenset(_branching(file) if materials.exact else ())

    def made(point: Mapping[str, Any]) -> Chain:
        return chain(config.resolve(file, point), seed, materials, kept, names)

    own = made(params)
    if not names:
        return own
    others = {name: [made(point) for point in _other_points(file, name, params)] for name in names}
    stages = tuple(
        keeping(job, [stage for other in others.get(job.stage.name, ()) for stage in other.stages])
        for job in own.stages
    )
    return replace(own, stages=stages)


def _branching(file: SweepFile) -> list[str]:
    """Names of the stages that trials train in several lengths or with several decays on one trunk.

    Everything that is searched over, but settings of later stages, has few values: else hardly any two trials have a
    trunk in common.
    """
    names = [str(stage.get("name")) for stage in file.tree.get("stages", ()) if isinstance(stage, dict)]
    found = []
    for place, name in enumerate(names):
        later = names[place + 1 :]
        deciding = [one for one in file.parameters if one.name.partition(".")[0] not in (*later, "evaluation")]
        if all(map(_values, deciding)) and any(_is_of_length(one, name) for one in deciding):
            found.append(name)
    return found


def _is_of_length(parameter: Parameter, stage: str) -> bool:
    parts = parameter.name.split(".")
    return parts[0] == stage and parts[1] in _OF_LENGTH


def _values(parameter: Parameter) -> tuple[Any, ...]:
    """The values of a search over few; none for others."""
    domain = parameter.domain
    found: tuple[Any, ...] = ()
    if domain.kind == "choice":
        found = domain.options
    elif domain.kind == "int" and domain.high - domain.low < _MOST_VALUES:
        found = tuple(range(int(domain.low), int(domain.high) + 1))
    return found if len(found) <= _MOST_VALUES else ()


def _other_points(file: SweepFile, stage: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The points of the sweep that differ from `params` in the stage's length and decay alone."""
    searched = [one for one in file.parameters if _is_of_length(one, stage) and one.is_active(params)]
    combinations = itertools.product(*map(_values, searched))
    for values in itertools.islice(combinations, _MOST_LENGTHS):
        point = {**params, **{one.name: value for one, value in zip(searched, values, strict=True)}}
        try:
            config.resolve(file, point)
        except UserError:  # two values that do not go together: no trial has them
            continue
        yield point
