"""The arms of a sweep before it runs: the grid's points, and how many arms and trials there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raycodellm import config
from raycodellm.config import Parameter, Search, SweepFile, UserError
from raycodellm.search.grid_order import least_waiting
from raycodellm.search.reference import reference_point
from raycodellm.search.space import is_relevant, sampling_order

MAX_TRIALS = 10_000
MAX_GRID_POINTS = 1_000
"""Each point is resolved and validated before the sweep begins, which takes some milliseconds."""


def grid(file: SweepFile) -> list[dict[str, Any]]:
    """Every distinct point of a space of choices and whole numbers: the reference, enqueued points, then the order in
    which slots wait least.

    Raises `UserError` naming a parameter that has no finite set of values, or when the grid is too large.
    """
    for parameter in file.parameters:
        if parameter.domain.simplex is not None:
            raise UserError(
                f"search.sampler: grid cannot list {parameter.domain.simplex.name}, which is a simplex; give it a "
                "choice of mixtures, or use sampler: random with a number of trials"
            )
        if parameter.domain.kind not in ("choice", "int"):
            raise UserError(
                f"search.sampler: grid cannot list {parameter.name}, which is {parameter.domain.kind} over "
                f"{parameter.domain}; give it a choice of values or use sampler: tpe"
            )
    points = list(itertools.islice(_points(file, sampling_order(file), {}), MAX_GRID_POINTS + 1))
    if len(points) > MAX_GRID_POINTS:
        raise UserError(
            f"search.sampler: the grid has over {MAX_GRID_POINTS:,} points, which cannot all be tried; give the "
            "searches fewer values, or use sampler: tpe with a number of trials"
        )
    points = least_waiting(file, points)
    named_first = [point for named in named_points(file) for point in points if _agrees(point, named)]
    ordered = [*named_first, *points]
    return [point for place, point in enumerate(ordered) if point not in ordered[:place]] if named_first else points


def finite_points(file: SweepFile, limit: int) -> list[dict[str, Any]] | None:
    """Every distinct point of the space by the parameters' names, in the file's order. None if the space has more than
    `limit` points, or infinitely many."""
    if any(parameter.domain.kind not in ("choice", "int") for parameter in file.parameters):
        return None
    points = list(itertools.islice(_points(file, sampling_order(file), {}), limit + 1))
    return points if len(points) <= limit else None


def _agrees(point: Mapping[str, Any], partial_point: Mapping[str, Any]) -> bool:
    """True if the `point` has the same value for each parameter that both points have."""
    return all(name not in partial_point or value == partial_point[name] for name, value in point.items())


def _points(file: SweepFile, remaining: Sequence[Parameter], params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every point that extends `params` by the `remaining` parameters."""
    if not remaining:
        yield dict(params)
        return
    parameter, later = remaining[0], remaining[1:]
    if not is_relevant(file, parameter, params):
        yield from _points(file, later, params)
        return
    domain = parameter.domain
    for value in domain.options if domain.kind == "choice" else range(int(domain.low), int(domain.high) + 1):
        yield from _points(file, later, {**params, parameter.name: value})


def named_points(file: SweepFile) -> list[dict[str, Any]]:
    """The reference, then the points of `search.enqueue` but those that say no more than the reference."""
    reference = reference_point(file)
    if reference is None:
        return file.enqueued()
    return [reference, *(point for point in file.enqueued() if not reference.items() <= point.items())]


def first_points(file: SweepFile) -> list[dict[str, Any]]:
    """The points that a new study tries first, by the parameters' names: the whole grid, or the reference and the
    enqueued points."""
    return grid(file) if file.example().search.sampler == "grid" else named_points(file)


def num_given_arms(file: SweepFile) -> int:
    """Number of arms that the file gives whole: the reference, and the points of `search.enqueue` that leave nothing to
    a sampler."""
    return sum(is_whole(file, point) for point in named_points(file))


def is_whole(file: SweepFile, point: Mapping[str, Any]) -> bool:
    """True if the point has every parameter that has an effect, so that a sampler has nothing to add."""
    params: dict[str, Any] = {}
    for parameter in sampling_order(file):
        if not is_relevant(file, parameter, params):
            continue
        if parameter.name not in point:
            return False
        params[parameter.name] = point[parameter.name]
    return True


def num_arms(file: SweepFile) -> int:
    """Number of arms that the sweep tries. Raises `UserError` when it does not fit the sampler or is too large."""
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
        return _checked_num_arms(len(points), search)
    if search.trials is None:
        raise UserError(f"search.trials: is missing; sampler {search.sampler} needs a number, for example trials: 6")
    distinct_points = finite_points(file, min(search.trials, MAX_TRIALS))
    trials = search.trials if distinct_points is None else len(distinct_points)
    return _checked_num_arms(max(trials, len(named_points(file))), search)


def lacking_points(file: SweepFile) -> str:
    """A line that tells that the space has fewer points than the file asks for; empty where it has enough."""
    search = file.example().search
    if search.sampler == "grid" or search.trials is None or num_arms(file) >= search.trials:
        return ""
    return (
        f"search.trials: {search.trials} asked for, but the space has {num_arms(file)} different points; each is tried "
        "once per replicate"
    )


def _checked_num_arms(num_arms: int, search: Search) -> int:
    if num_arms * search.replicates > MAX_TRIALS:
        trials = f"{num_arms:,} arms × {search.replicates:,} replicates are {num_arms * search.replicates:,} trials"
        raise UserError(f"search: {trials}; a sweep has at most {MAX_TRIALS:,}")
    return num_arms


def num_trials(file: SweepFile) -> int:
    """Trials of the search: every arm once per replicate. Their numbers are the first ones of the sweep."""
    return num_arms(file) * file.example().search.replicates


def format_params(params: Mapping[str, Any]) -> str:
    """Parameters in one line: `pretrain.code_ratio=0.312 pretrain.schedule=decrease`."""
    return " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )
