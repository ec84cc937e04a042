"""The figures of a whole sweep, kept current while its trials end one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from raycodellm.config import Objective
from raycodellm.observability.labels import TrialLabels
from raycodellm.records import ENDED, TrialResult


class Totals:
    """The best objectives and the planned tokens of the trials that have ended; each is added once."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = objectives
        self.best: dict[str, float] = {}
        """Maps each objective to its best value among complete trials."""
        self._asked = 0
        """Planned tokens, each stage counted once per trial that asks for it."""
        self._planned: dict[str, int] = {}
        """Maps each stage's key to its planned tokens."""
        self._trained = 0
        """Their sum."""

    def add(self, result: TrialResult, labels: TrialLabels | None) -> None:
        """Adds a trial that has ended. `labels`: None where they are not known."""
        assert result.state in ENDED, f"trial {result.number} is {result.state}"
        for objective in self._objectives if result.state == "complete" else ():
            value, better = result.metrics.get(objective.metric, math.nan), min if objective.mode == "min" else max
            if math.isfinite(value):
                self.best[objective.metric] = better(value, self.best.get(objective.metric, value))
        if labels is not None:
            planned = _planned(result.stages, labels)
            self._asked += sum(planned.values())
            self._trained += sum(tokens for key, tokens in planned.items() if key not in self._planned)
            self._planned |= planned

    def tokens_saved(self, chains: Mapping[int, Sequence[str]], labels: Mapping[int, TrialLabels]) -> int:
        """Planned tokens of all stages that the trials ask for, less those of the stages that are trained.

        `chains`: jobs of the trials that have not ended, the evaluation last; `labels`: of these trials, where known.
        """
        of_open = [_planned(keys, labels[number]) for number, keys in chains.items() if number in labels]
        new = {key: tokens for planned in of_open for key, tokens in planned.items() if key not in self._planned}
        asked = self._asked + sum(sum(planned.values()) for planned in of_open)
        return asked - self._trained - sum(new.values())


def _planned(keys: Sequence[str], labels: TrialLabels) -> dict[str, int]:
    """Maps the key of each stage among `keys` to its planned tokens."""
    return dict(zip(keys, labels.num_tokens, strict=False))  # without the evaluation
