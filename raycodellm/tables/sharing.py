"""The tokens and seconds that trials save by sharing equal stages, and stages by sharing the steps of a trunk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raycodellm.tables import formats


@dataclass(frozen=True)
class Sharing:
    """Tokens and device-seconds of all trials together."""

    tokens_asked: int
    """Each stage counted once per trial that asks for it."""
    tokens_trained: int
    """Each stage counted once, without the steps that it took over from another stage of its trunk."""
    seconds_trained: float = 0.0
    """Device-seconds, counted likewise."""
    seconds_saved: float = 0.0
    """Device-seconds that every trial on its own would have spent in addition."""

    @property
    def tokens_saved(self) -> int:
        return self.tokens_asked - self.tokens_trained


def sharing_sentence(shared: Sharing) -> str:
    """The tokens that were asked for, trained and saved, and the device time, if it is known."""
    share = f" ({shared.tokens_saved / shared.tokens_asked:.0%})" if shared.tokens_asked else ""
    said = (
        f"{formats.count(shared.tokens_asked)} tokens asked for, {formats.count(shared.tokens_trained)} trained, "
        f"{formats.count(shared.tokens_saved)} saved by shared stages{share}"
    )
    if shared.seconds_trained:
        said += (
            f"; device time: {formats.seconds(shared.seconds_trained)} spent, "
            f"{formats.seconds(shared.seconds_saved)} saved"
        )
    return said


def sharing(
    chains: Iterable[Sequence[str]],
    num_tokens: Mapping[str, int],
    device_seconds: Mapping[str, float] | None = None,
    from_trunk: Mapping[str, tuple[int, float]] | None = None,
) -> Sharing:
    """`chains`: each trial's stages by key; `num_tokens` and `device_seconds`: of each stage. A stage without
    `num_tokens`, such as one that is not finished, is left out. `from_trunk`: tokens and device-seconds among these
    that a stage took over from another stage."""
    asked = [key for keys in chains for key in keys if key in num_tokens]
    seconds = device_seconds or dict.fromkeys(num_tokens, 0.0)
    trained = set(asked)
    taken = from_trunk or {}
    seconds_trained = math.fsum(seconds[key] - taken.get(key, (0, 0.0))[1] for key in trained)
    return Sharing(
        tokens_asked=sum(num_tokens[key] for key in asked),
        tokens_trained=sum(num_tokens[key] - taken.get(key, (0, 0.0))[0] for key in trained),
        seconds_trained=seconds_trained,
        seconds_saved=math.fsum(seconds[key] for key in asked) - seconds_trained,
    )
