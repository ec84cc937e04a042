"""The figures of a whole sweep, kept current while its trials end one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raycodellm.config import Objective
from raycodellm.records import ENDED, TrialResult


class Totals:
    """The best objectives of the trials that have ended; each trial is added once."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = objectives
        self.best: dict[str, float] = {}
        """Maps each objective to its best value among complete trials."""

    def add(self, result: TrialResult) -> None:
        """Adds a trial that has ended."""
        assert result.state in ENDED, f"trial {result.number} is {result.state}"
        for objective in self._objectives if result.state == "complete" else ():
            value, better = result.metrics.get(objective.metric, math.nan), min if objective.mode == "min" else max
            if math.isfinite(value):
                self.best[objective.metric] = better(value, self.best.get(objective.metric, value))
