"""The word that an interval of a difference deserves."""

from __future__ import annotations

import math
from typing import Literal

from raycodellm.statistics.intervals import Interval

Word = Literal["better", "worse", "equal", "not known"]


def verdict_word(difference: Interval, mode: Literal["min", "max"], margin: float | None = None) -> Word:
    """Verdict on an arm from its difference to the reference, with its ends at the level that a correction gave.

    `mode`: "min" if less is better; `margin`: in the metric's unit; differences up to it are of no interest, so that
    a whole interval inside ±margin is "equal", also where it excludes 0. Without a margin no arm is ever "equal". Ends
    that are NaN, an interval that ends at 0, and one without width are "not known": few items that all came out alike
    in few seeds say nothing of the noise.
    """
    low, high = difference.low, difference.high
    if math.isnan(low) or math.isnan(high) or low == high:
        return "not known"
    if margin is not None and -margin < low and high < margin:
        return "equal"
    if low > 0:
        return "worse" if mode == "min" else "better"
    if high < 0:
        return "better" if mode == "min" else "worse"
    return "not known"
