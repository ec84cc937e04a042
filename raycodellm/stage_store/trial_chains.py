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
from raycodellm.stage_store.trunks import keeping

_OF_LENGTH = ("tokens", "learning_rate", "averaging")
"""Settings of a stage, searches among them, that stages of one trunk may differ in."""
_MOST_VALUES = 16
"""A search over more values, or without end, is no reason to keep checkpoints: few trials would share a trunk."""
_MOST_LENGTHS = 32
"""Most combinations of a stage's lengths and decays that are looked at."""


Siblings = dict[tuple[Any, ...], list[StageJob]]
"""The stages of other lengths, by all else that decides on them: many trials have the same."""


def trial_chain(
    file: SweepFile, params: Mapping[str, Any], seed: int, materials: Materials, known: Siblings | None = None
) -> Chain:
    """The jobs of the trial with these parameters (by name) and this seed.

    A stage keeps its optimizer state where any trial of the sweep starts from it, and checkpoints where stages of other
    trials share its trunk. `known`: what other trials of this file and these materials have found; is added to.
    """
    kept = config.stages_keeping_optimizer(file)
    names = frozenset(_branching(file) if materials.exact else ())
    own = chain(config.resolve(file, params), seed, materials, kept, names)
    if not names:
        return own
    known = {} if known is None else known

    def siblings(name: str) -> list[StageJob]:
        key = (name, seed, *sorted((one, repr(value)) for one, value in _deciding(file, name, params).items()))
        if key not in known:
            points = [config.resolve(file, point) for point in _other_points(file, name, params)]
            chains = (stage_jobs(sweep, seed, materials, kept, frozenset({name}), last=name) for sweep in points)
            known[key] = [jobs[-1] for jobs in chains if jobs[-1].stage.name == name]
        return known[key]

    stages = (keeping(job, siblings(job.stage.name)) if job.trunk is not None else job for job in own.stages)
    return replace(own, stages=tuple(stages))


def has_trunks(file: SweepFile) -> bool:
    """True if trials of the sweep may go on from checkpoints of each other's stages."""
    return bool(_branching(file))


def trunk_folders(file: SweepFile, params: Mapping[str, Any], seed: int, materials: Materials) -> tuple[str, ...]:
    """URIs of the folders of all trunks that stages of this trial may be part of."""
    sweep, kept = config.resolve(file, params), config.stages_keeping_optimizer(file)
    jobs = stage_jobs(sweep, seed, materials, kept, frozenset(_branching(file)))
    return tuple(job.trunk.folder for job in jobs if job.trunk is not None)


def _deciding(file: SweepFile, stage: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that decide on the stage, but for its length and decay; those of later stages do not."""
    names = [str(one.get("name")) for one in file.tree.get("stages", ()) if isinstance(one, dict)]
    later = names[names.index(stage) + 1 :]
    of_length = {one.name for one in file.parameters if _is_of_length(one, stage)}
    return {
        name: value
        for name, value in params.items()
        if name not in of_length and name.partition(".")[0] not in (*later, "evaluation")
    }


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
