"""How a run stands, from the files of its folder."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm import report, search, sweep
from raycodellm.records import TrialResult, as_json
from raycodellm.report import BestArm
from raycodellm.sweep import ENDED

FORMAT = 1
"""Raised when a key of `RunStatus.as_json` changes its meaning or goes."""


@dataclass(frozen=True)
class RunStatus:
    """How a run stands."""

    name: str
    folder: str
    """URI of the run folder."""
    num_trials: int
    """Trials of the whole sweep."""
    states: Counter[str]
    """Number of the trials that have begun, by state."""
    best: BestArm | None
    """None while no trial is complete."""
    driver: str | None
    """The process that runs the sweep now, as far as its files tell; None for none."""
    results: Sequence[TrialResult]

    @classmethod
    def of(cls, run: sweep.Run, results: Sequence[TrialResult]) -> RunStatus:
        """`results`: of the run's trials, in order."""
        return cls(
            name=run.sweep.name,
            folder=run.folder.uri,
            num_trials=search.num_trials(run.file),
            states=Counter(result.state for result in results),
            best=report.best_arm([result.row() for result in results], run.sweep.search.objectives),
            driver=sweep.running_driver(run),
            results=results,
        )

    @property
    def num_ended(self) -> int:
        return sum(self.states[state] for state in ENDED)

    def __str__(self) -> str:
        """Two to four lines."""
        more = [f"{number} {state}" for state, number in sorted(self.states.items()) if state != "complete"]
        said = f"{self.name}: {self.num_ended} of {self.num_trials} trials ended"
        lines = [said + (f" ({', '.join(more)})" if more else "")]
        if self.best is not None:
            lines.append(f"best so far: {self.best}" if self.num_ended < self.num_trials else f"best: {self.best}")
        if self.driver is not None:
            lines.append(f"run by {self.driver}")
        return "\n".join([*lines, self.folder])

    def as_json(self) -> dict[str, Any]:
        """Plain values with stable keys, documented in docs/notebook.md; null stands for a number that is not known."""
        found = {
            "format": FORMAT,
            "name": self.name,
            "folder": self.folder,
            "num_trials": self.num_trials,
            "num_ended": self.num_ended,
            "states": dict(self.states),
            "driver": self.driver,
            "best": None if self.best is None else as_json(self.best),
            "trials": [_trial(result) for result in self.results],
        }
        return _finite(found)


def _trial(result: TrialResult) -> dict[str, Any]:
    names = ("number", "state", "arm", "seed", "params", "metrics", "tokens", "stages", "wall_seconds")
    kept = {name: as_json(getattr(result, name)) for name in (*names, "device_seconds", "deaths", "preemptions")}
    return {**kept, "error": result.error}


def _finite(value: Any) -> Any:
    """The value with None for each number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
