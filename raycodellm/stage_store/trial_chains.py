"""The chain of a trial of a sweep: its jobs, and what its stages keep for the stages of other trials."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from raycodellm import config
from raycodellm.config import Parameter, SweepFile, UserError
from raycodellm.records import StageJob
from raycodellm.stage_store.chains import Chain, Materials, chain, stage_jobs
from raycodellm.stage_store.trunks import with_kept_steps

_LENGTH_SETTINGS = ("tokens", "learning_rate", "averaging")
"""Settings of a stage, searches among them, that stages of one trunk may differ in."""
_MOST_VALUES = 16
"""A search over more values, or without end, is no reason to keep checkpoints: few trials would share a trunk."""
_MOST_LENGTHS = 32
"""Most combinations of a stage's lengths and decays that are looked at."""


Siblings = dict[tuple[Any, ...], list[StageJob]]
"""Maps all that decides on a stage but its length to the stages of other lengths: many trials have the same."""


def trial_chain(
    file: SweepFile, params: Mapping[str, Any], seed: int, materials: Materials, known_siblings: Siblings | None = None
) -> Chain:
    """The jobs of the trial with these parameters (by name) and this seed.

    A stage keeps its optimizer state where any trial of the sweep starts from it, and checkpoints where stages of other
    trials share its trunk. `known_siblings`: the siblings that the chains of other trials of this file and these
    materials have looked up; is added to.
    """
    keeping_optimizer = config.stages_keeping_optimizer(file)
    branching = frozenset(_branching_stages(file) if materials.exact else ())
    own_chain = chain(config.resolve(file, params), seed, materials, keeping_optimizer, branching)
    if not branching:
        return own_chain
    known_siblings = {} if known_siblings is None else known_siblings

    def siblings(name: str) -> list[StageJob]:
        deciding = _deciding_params(file, name, params)
        key = (name, seed, *sorted((parameter, repr(value)) for parameter, value in deciding.items()))
        if key not in known_siblings:
            points = [config.resolve(file, point) for point in _other_points(file, name, params)]
            chains = (
                stage_jobs(sweep, seed, materials, keeping_optimizer, frozenset({name}), last=name) for sweep in points
            )
            known_siblings[key] = [jobs[-1] for jobs in chains if jobs[-1].stage.name == name]
        return known_siblings[key]

    stages = (
        with_kept_steps(job, siblings(job.stage.name)) if job.trunk is not None else job for job in own_chain.stages
    )
    return replace(own_chain, stages=tuple(stages))


def has_trunks(file: SweepFile) -> bool:
    """True if trials of the sweep may go on from checkpoints of each other's stages."""
    return bool(_branching_stages(file))


def trunk_folders(file: SweepFile, params: Mapping[str, Any], seed: int, materials: Materials) -> tuple[str, ...]:
    """URIs of the folders of all trunks that stages of this trial may be part of."""
    sweep, keeping_optimizer = config.resolve(file, params), config.stages_keeping_optimizer(file)
    jobs = stage_jobs(sweep, seed, materials, keeping_optimizer, frozenset(_branching_stages(file)))
    return tuple(job.trunk.folder for job in jobs if job.trunk is not None)


def _deciding_params(file: SweepFile, stage: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that decide on the stage, but for its length and decay; those of later stages do not."""
    names = [str(settings.get("name")) for settings in file.tree.get("stages", ()) if isinstance(settings, dict)]
    later = names[names.index(stage) + 1 :]
    length_parameters = {parameter.name for parameter in file.parameters if _sets_length(parameter, stage)}
    return {
        name: value
        for name, value in params.items()
        if name not in length_parameters and name.partition(".")[0] not in (*later, "evaluation")
    }


def _branching_stages(file: SweepFile) -> list[str]:
    """Names of the stages that trials train in several lengths or with several decays on one trunk.

    Everything that is searched over, but settings of later stages, has few values: else hardly any two trials have a
    trunk in common.
    """
    names = [str(stage.get("name")) for stage in file.tree.get("stages", ()) if isinstance(stage, dict)]
    branching = []
    for index, name in enumerate(names):
        later = names[index + 1 :]
        others = (*later, "evaluation")
        deciding = [parameter for parameter in file.parameters if parameter.name.partition(".")[0] not in others]
        if all(map(_few_values, deciding)) and any(_sets_length(parameter, name) for parameter in deciding):
            branching.append(name)
    return branching


def _sets_length(parameter: Parameter, stage: str) -> bool:
    parts = parameter.name.split(".")
    return parts[0] == stage and parts[1] in _LENGTH_SETTINGS


def _few_values(parameter: Parameter) -> tuple[Any, ...]:
    """The values of a search over few; none for others."""
    domain = parameter.domain
    values: tuple[Any, ...] = ()
    if domain.kind == "choice":
        values = domain.options
    elif domain.kind == "int" and domain.high - domain.low < _MOST_VALUES:
        values = tuple(range(int(domain.low), int(domain.high) + 1))
    return values if len(values) <= _MOST_VALUES else ()


def _other_points(file: SweepFile, stage: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The points of the sweep that differ from `params` in the stage's length and decay alone."""
    length_parameters = [
        parameter for parameter in file.parameters if _sets_length(parameter, stage) and parameter.is_active(params)
    ]
    combinations = itertools.product(*map(_few_values, length_parameters))
    for values in itertools.islice(combinations, _MOST_LENGTHS):
        point = dict(params)
        point.update((parameter.name, value) for parameter, value in zip(length_parameters, values, strict=True))
        try:
            config.resolve(file, point)
        except UserError:  # two values that do not go together: no trial has them
            continue
        yield point
