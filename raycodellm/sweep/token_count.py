"""The tokens that a sweep spends, kept current while its trials begin and end: an update costs as much as the trial has
stages, however many trials there are."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from raycodellm.records import ENDED, TrialResult
from raycodellm.tables import StageUse


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a trial's chain."""

    key: str
    folder: str
    num_tokens: int
    """Tokens that the stage trains when nothing fails."""


def unfinished_tokens(
    stages: Sequence[PlannedStage], finished: Mapping[str, StageUse], result: TrialResult | None
) -> dict[str, int]:
    """Tokens that a trial spends on its unfinished stages, by their keys. `finished`: the uses of finished stages.

    If the trial goes on, each unfinished stage counts whole. If it has ended, only the first one counts, in which the
    trial failed or was stopped early: with the tokens that the `result` tells of, else whole where the trial failed.
    The stages after it have not begun.
    """
    unfinished = [stage for stage in stages if stage.key not in finished]
    if result is None or result.state not in ENDED:
        return {stage.key: stage.num_tokens for stage in unfinished}
    num_trained = result.tokens.get("total", 0) - sum(
        finished[stage.key].tokens for stage in stages if stage.key in finished
    )
    num_trained -= min(num_trained, result.trunk_tokens)  # counted in the stage that trained the trunk
    return {
        stage.key: num_trained if num_trained > 0 or result.state == "pruned" else stage.num_tokens
        for stage in unfinished[:1]
    }


class TokenCount:
    """The tokens that a sweep spends, equal stages counted once."""

    def __init__(self) -> None:
        self.total = 0
        self.finished: dict[str, StageUse] = {}
        """The finished stages, by key. Those that another sweep trained cost nothing."""
        self._by_trial: dict[Hashable, Mapping[str, int]] = {}
        self._unfinished: dict[str, dict[Hashable, int]] = {}
        """Maps each unfinished stage to the tokens that each trial spends on it. The stage costs the largest number."""

    def finish(self, key: str, use: StageUse) -> None:
        """The stage has finished."""
        self.total -= self._spent_on(key)
        self.finished[key] = use
        self._unfinished.pop(key, None)
        self.total += use.tokens_here

    def put(self, trial: Hashable, unfinished: Mapping[str, int]) -> None:
        """The tokens of the trial's unfinished stages, by key, in place of those before."""
        previous = self._by_trial.pop(trial, {})
        for key in {**previous, **unfinished}:
            if key in self.finished:
                continue
            self.total -= self._spent_on(key)
            trials = self._unfinished.setdefault(key, {})
            trials.pop(trial, None)
            if key in unfinished:
                trials[trial] = unfinished[key]
            self.total += self._spent_on(key)
        if unfinished:
            self._by_trial[trial] = unfinished

    def _spent_on(self, key: str) -> int:
        if key in self.finished:
            return self.finished[key].tokens_here
        return max(self._unfinished.get(key, {}).values(), default=0)
