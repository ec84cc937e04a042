"""Reads other sweeps' trials as prior knowledge of this sweep's sampler (`search.warm_start`).

The run folder keeps the trials that were read, so that every driver of the sweep suggests from the same trials,
whatever has become of the other runs since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycodellm import config, search, storage_files
from raycodellm.config import Domain, SweepFile, UserError
from raycodellm.files import Folder
from raycodellm.records import as_json, from_json
from raycodellm.search import PriorTrial
from raycodellm.sweep.folder import Run
from raycodellm.tables.trials import Row, metric_of, params_of

KEPT = "warm_start.json"
_KEY = "search.warm_start"


@dataclass(frozen=True)
class Prior:
    """The trials that a sweep starts from."""

    trials: tuple[PriorTrial, ...] = ()
    lines: tuple[str, ...] = ()
    """For each run: how many of its trials are used, and why the others are not."""


def read_prior(file: SweepFile, storage: Folder) -> Prior:
    """Reads the complete trials of the runs in `search.warm_start` that are whole points of this sweep's space.

    Raises `UserError` for a sampler that learns nothing from them, a folder that is no run, and a run without a trial
    that has this sweep's objectives.
    """
    settings = file.example().search
    if settings.warm_start and settings.sampler not in search.LEARNING:
        raise UserError(
            f"{file.origin}: {_KEY}: has no effect with sampler: {settings.sampler}, which learns nothing from other "
            f"sweeps' trials; use {' or '.join(search.LEARNING)}, or remove warm_start"
        )
    trials: list[PriorTrial] = []
    lines: list[str] = []
    for name in settings.warm_start:
        folder = Folder(name) if "/" in name else storage / name
        if folder.uri == (storage / file.example().name).uri:
            raise UserError(f"{file.origin}: {_KEY}: {name} is this sweep itself; remove it")
        usable, why_not = _usable_trials(file, folder)
        trials += usable
        left_out = ", ".join(f"{number} {why}" for why, number in why_not.items())
        lines.append(
            f"{_KEY}: {len(usable)} trials of {folder} are used" + (f"; left out: {left_out}" if left_out else "")
        )
    return Prior(tuple(trials), tuple(lines))


def prior_of(run: Run) -> tuple[PriorTrial, ...]:
    """The trials that the sweep's sampler learns from: those that its first driver read and kept."""
    if not run.sweep.search.warm_start:
        return ()
    if run.folder.exists(KEPT):
        records = run.folder.read_json(KEPT).get("trials", [])
        return tuple(from_json(PriorTrial, record, f"{run.folder}/{KEPT}") for record in records)
    trials = read_prior(run.file, run.storage).trials
    run.folder.write_json(KEPT, {"trials": [as_json(trial) for trial in trials]})
    return trials


def _usable_trials(file: SweepFile, folder: Folder) -> tuple[list[PriorTrial], Counter[str]]:
    """The trials of a run that can be used, and the number of the others by the reason. A constraint relative to this
    sweep's reference is taken relative to the run's first trial at the same point, whatever that run compares with."""
    try:
        other_file = storage_files.read_sweep_file(folder, lambda line: None)
    except UserError as error:
        raise UserError(f"{file.origin}: {_KEY}: {error}") from error
    rows = storage_files.read_trials_table(folder) if folder.exists("trials.parquet") else []
    settings = file.example().search
    objectives = settings.objectives
    complete = [row for row in rows if row["state"] == "complete"]
    missing_metrics = [
        objective.metric
        for objective in objectives
        if not any(metric_of(row, objective.metric) is not None for row in complete)
    ]
    if missing_metrics:
        fault = f"has no complete trial with {missing_metrics[0]}" if complete else "has no complete trial"
        raise UserError(f"{file.origin}: {_KEY}: {folder} {fault}, so nothing can be learned from it; remove it")
    point = search.reference_point(file) if settings.constraints else None
    same = (row for row in complete if point is not None and _point_of_space(file, other_file, params_of(row)) == point)
    reference = next(same, None)
    usable: list[PriorTrial] = []
    why_not: Counter[str] = Counter()
    for row in rows:
        trial = _prior_trial(file, other_file, folder, row, reference)
        if isinstance(trial, str):
            why_not[trial] += 1
        else:
            usable.append(trial)
    return usable, why_not


def _prior_trial(
    file: SweepFile, other_file: SweepFile, folder: Folder, row: Row, reference: Row | None
) -> PriorTrial | str:
    """The trial as a prior trial, or the reason why it is left out."""
    settings = file.example().search
    if row["state"] != "complete":
        return str(row["state"])
    values = [metric_of(row, objective.metric) for objective in settings.objectives]
    if None in values:
        return "without the objective"
    params = _point_of_space(file, other_file, params_of(row))
    if isinstance(params, str):
        return params
    metrics = {constraint.metric: metric_of(row, constraint.metric) for constraint in settings.constraints}
    reference_metrics = (
        {constraint.metric: metric_of(reference, constraint.metric) for constraint in settings.constraints}
        if reference
        else {}
    )
    breaches = search.breaches(settings.constraints, _without_none(metrics), _without_none(reference_metrics))
    if len(breaches) < len(settings.constraints):
        return "without a constraint's metric, or the reference's value of it"
    return PriorTrial(folder.uri, row["number"], params, tuple(float(value or 0.0) for value in values), breaches)


def _without_none(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}


def _point_of_space(file: SweepFile, other_file: SweepFile, params: Mapping[str, Any]) -> dict[str, Any] | str:
    """The trial's parameters as a whole point of this sweep's space, or the reason why they are not one.

    A parameter that the other sweep did not search has the value that the other file gives. A parameter that only the
    other sweep searched must have the value that this sweep's file gives.
    """
    values = {
        name: params[name] if name in params else config.value_at(other_file, name, params) for name in file.domains
    }
    values = {name: _value_of_space(file.domains[name], value) for name, value in values.items() if value is not None}
    try:
        point = search.whole_point(file, values)
    except KeyError as missing:
        return f"without {missing.args[0]}"
    for name in params.keys() - file.domains.keys():
        if config.value_at(file, name, point) != params[name]:
            return f"with another {name}"
    is_inside = all(file.domains[name].holds(value) for name, value in point.items())
    return point if is_inside and search.distributions(file, point) is not None else "outside the space"


def _value_of_space(domain: Domain, value: Any) -> Any:
    """A value of a table as the space has it: an option of several types stands there as text."""
    options = domain.options if domain.kind == "choice" else ()
    return next((option for option in options if option == value or str(option) == value), value)
