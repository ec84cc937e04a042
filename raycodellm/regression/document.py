"""`suggested.json` of a run: predictions, kept until they are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raycodellm.files import Folder
from raycodellm.records import as_json, from_json

NAME = "suggested.json"
FORMAT = 1
"""Raised when a key changes its meaning or goes."""


@dataclass(frozen=True)
class SuggestedPoint:
    """A point with its prediction, in the metric's unit."""

    params: Mapping[str, Any]
    predicted: float
    low: float
    high: float
    """Ends of the interval for the score of the arm, measured as the arms were that the form was fitted to."""


@dataclass(frozen=True)
class Optimum:
    """The best measured arm beside the predicted best. Scores are in the metric's unit."""

    predicted: SuggestedPoint
    """The predicted best of the whole space, with the interval for its score with one seed."""
    predicted_measured: float | None
    """The score that the predicted best was measured with; None where no arm has its parameters."""
    arm: int
    """Number of the best measured arm."""
    params: Mapping[str, Any]
    score: float
    """The arm's mean over its seeds. The best of several noisy scores is too good on average."""
    num_seeds: int
    from_others: float
    """The arm's score as the other arms alone predict it."""
    low: float
    high: float
    """Ends of the interval for the arm's mean over as many seeds, likewise from the other arms alone."""


@dataclass(frozen=True)
class Suggested:
    """The points of one `raycodellm suggest`."""

    format: int
    sweep: str
    """Name of the sweep that was fitted."""
    metric: str
    mode: str
    form: str
    error: float
    """The form's cross-validated error."""
    level: float
    """Level of the intervals."""
    num_arms: int
    """Arms that were fitted."""
    points: tuple[SuggestedPoint, ...] = ()
    optimum: Optimum | None = None
    """The predicted and the measured best of the sweep; None in files of older versions."""
    more: dict[str, Any] = field(default_factory=dict)
    """Fields that only a newer version knows."""


def write_suggested(run: Folder, suggested: Suggested) -> None:
    """Writes `suggested.json` into the run folder, in the place of an earlier one."""
    run.write_json(NAME, as_json(suggested))


def read_suggested(run: Folder) -> Suggested | None:
    """The content of `suggested.json`; None where there is none. Raises `DamagedFile`."""
    if not run.exists(NAME):
        return None
    return from_json(Suggested, run.read_json(NAME), str(run / NAME))
