"""The tokens and seconds that a sweep trained itself, took over from other sweeps, and saved by sharing: trials share
equal stages, and stages the steps of a trunk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raycodellm.records import StageRecord
from raycodellm.tables import formats


@dataclass(frozen=True)
class StageUse:
    """The part of a stage that the trials of a sweep consumed: all of it, unless it was stopped early or failed."""

    tokens: int
    seconds: float = 0.0
    """Device-seconds."""
    trunk_tokens: int = 0
    """Part of `tokens` that another stage of its trunk had trained."""
    trunk_seconds: float = 0.0
    is_elsewhere: bool = False
    """True if another sweep trained the stage."""
    is_trunk_elsewhere: bool = False
    """True if another sweep trained the steps of the trunk."""

    @property
    def tokens_here(self) -> int:
        """Tokens that the sweep trained itself in this stage."""
        return 0 if self.is_elsewhere else self.tokens - self.trunk_tokens

    @property
    def seconds_here(self) -> float:
        return 0.0 if self.is_elsewhere else self.seconds - self.trunk_seconds

    @property
    def tokens_taken_over(self) -> int:
        """Tokens that another sweep trained."""
        if self.is_elsewhere:
            return self.tokens
        return self.trunk_tokens if self.is_trunk_elsewhere else 0

    @property
    def seconds_taken_over(self) -> float:
        if self.is_elsewhere:
            return self.seconds
        return self.trunk_seconds if self.is_trunk_elsewhere else 0.0


def stage_use(record: StageRecord, sweep: str) -> StageUse:
    """The use of a finished stage by the sweep of this name. Records of older versions do not name the sweep that
    trained: they count as trained here."""
    return StageUse(
        record.num_tokens,
        record.device_seconds,
        record.trunk_tokens,
        record.trunk_seconds,
        record.trained_by not in ("", sweep),
        record.trunk_by not in ("", sweep),
    )


@dataclass(frozen=True)
class Sharing:
    """Tokens and device-seconds of all trials together. What was asked for was trained here, taken over from another
    sweep, or saved."""

    tokens_asked: int
    """Each stage counted once per trial that asks for it."""
    tokens_trained: int
    """Each stage that this sweep trained counted once, without the steps that it took over from another stage."""
    tokens_taken_over: int = 0
    """Each stage that another sweep trained, and each stage's steps of a trunk that another sweep trained, once."""
    seconds_trained: float = 0.0
    """Device-seconds, counted likewise."""
    seconds_taken_over: float = 0.0
    seconds_saved: float = 0.0
    """Device-seconds that every trial on its own would have spent in addition."""

    @property
    def tokens_saved(self) -> int:
        return self.tokens_asked - self.tokens_trained - self.tokens_taken_over


def sharing_sentence(shared: Sharing) -> str:
    """The tokens that were asked for, trained, taken over and saved, and the device time, if it is known."""
    share = f" ({shared.tokens_saved / shared.tokens_asked:.0%})" if shared.tokens_asked else ""
    elsewhere = f"{formats.count(shared.tokens_taken_over)} taken over from other sweeps, "
    sentence = (
        f"{formats.count(shared.tokens_asked)} tokens asked for, {formats.count(shared.tokens_trained)} trained, "
        f"{elsewhere if shared.tokens_taken_over else ''}"
        f"{formats.count(shared.tokens_saved)} saved by shared stages{share}"
    )
    if shared.seconds_trained or shared.seconds_taken_over:
        elsewhere = f"{formats.seconds(shared.seconds_taken_over)} taken over, "
        sentence += (
            f"; device time: {formats.seconds(shared.seconds_trained)} spent, "
            f"{elsewhere if shared.tokens_taken_over else ''}"
            f"{formats.seconds(shared.seconds_saved)} saved"
        )
    return sentence


def sharing(chains: Iterable[Sequence[str]], uses: Mapping[str, StageUse]) -> Sharing:
    """`chains`: each trial's stages by key; `uses`: of each stage. A stage without a use, such as one that has not
    begun, is left out."""
    keys = [key for chain in chains for key in chain if key in uses]
    asked, used = [uses[key] for key in keys], [uses[key] for key in dict.fromkeys(keys)]
    trained = math.fsum(use.seconds_here for use in used)
    taken_over = math.fsum(use.seconds_taken_over for use in used)
    return Sharing(
        tokens_asked=sum(use.tokens for use in asked),
        tokens_trained=sum(use.tokens_here for use in used),
        tokens_taken_over=sum(use.tokens_taken_over for use in used),
        seconds_trained=trained,
        seconds_taken_over=taken_over,
        seconds_saved=math.fsum(use.seconds for use in asked) - trained - taken_over,
    )


class SharingSoFar:
    """The tokens of `sharing`, kept current while trials end one after the other."""

    def __init__(self) -> None:
        self.tokens_asked = self.tokens_trained = self.tokens_taken_over = 0
        self._chains: dict[int, tuple[str, ...]] = {}
        """Maps each trial to the stages that it consumed."""
        self._stages: dict[str, tuple[StageUse, int]] = {}
        """Maps each of these stages to its use, and to the number of trials that asked for it."""

    @property
    def tokens_saved(self) -> int:
        return self.tokens_asked - self.tokens_trained - self.tokens_taken_over

    def put(self, trial: int, keys: Iterable[str], uses: Mapping[str, StageUse]) -> None:
        """A trial has ended that consumed these stages, or has ended otherwise than before. Of two uses of a stage that
        was stopped early or failed the longer counts."""
        for key in self._chains.pop(trial, ()):
            self._change(key, None, -1)
        self._chains[trial] = tuple(key for key in keys if key in uses)
        for key in self._chains[trial]:
            self._change(key, uses[key], 1)

    def _change(self, key: str, use: StageUse | None, num_more: int) -> None:
        earlier, num_trials = self._stages.pop(key, (None, 0))
        if earlier is not None:
            self._count(earlier, -num_trials, -1)
        longest = max(
            (candidate for candidate in (use, earlier) if candidate is not None),
            key=lambda candidate: candidate.tokens,
            default=None,
        )
        if longest is not None and num_trials + num_more:
            self._stages[key] = longest, num_trials + num_more
            self._count(longest, num_trials + num_more, 1)

    def _count(self, use: StageUse, num_trials: int, once: int) -> None:
        self.tokens_asked += num_trials * use.tokens
        self.tokens_trained += once * use.tokens_here
        self.tokens_taken_over += once * use.tokens_taken_over
