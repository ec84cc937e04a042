"""Numbers, durations and parameters, written for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "–"
"""The cell of a value that is missing."""


def score(value: float | None) -> str:
    """Three decimals, the precision that a few hundred items give."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.3f}"


def interval(low: float, high: float, decimals: int = 3) -> str:
    """`0.123 to 0.456`; nothing where an end is NaN."""
    return _ends(low, high, f".{decimals}f")


def signed_score(value: float) -> str:
    """`+0.012`; nothing for NaN."""
    return NOTHING if math.isnan(value) else f"{value:+.3f}"


def signed_interval(low: float, high: float, decimals: int = 3) -> str:
    """`-0.012 to +0.034`; nothing where an end is NaN."""
    return _ends(low, high, f"+.{decimals}f")


def p_value(p: float | None) -> str:
    """`0.012`, `0.34`, or `< 0.001`; nothing where it is not known."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.0005 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def _ends(low: float, high: float, form: str) -> str:
    if math.isnan(low) or math.isnan(high):
        return NOTHING
    return " to ".join(format(end, form) if math.isfinite(end) else "−∞" if end < 0 else "∞" for end in (low, high))


def value(setting: Any) -> str:
    """A parameter's value: a float in three digits, anything else in full."""
    if isinstance(setting, bool) or not isinstance(setting, (int, float)):
        return NOTHING if setting is None else str(setting)
    return str(setting) if isinstance(setting, int) else f"{setting:.3g}"


def count(number: float) -> str:
    """A number of tokens in three digits: 412, 41.2 k, 4.12 M, 1.20 B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size * 0.9995:
            scaled = number / size
            return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled))))}f} {unit}"
    return f"{number:.0f}"


def rounded(number: float, digits: int) -> str:
    """A number in so many digits, never as a power of ten from 1 on: `0.00012`, `4.2`, `1,300`."""
    text = f"{number:.{digits}g}"
    return f"{float(text):,.0f}" if "e+" in text or abs(number) >= 1_000 else text


def seconds(number: float) -> str:
    """A duration: 4.2 s, 59 s, 3 min 12 s, 1 h 30 min."""
    if number < 10:
        return f"{number:.1f} s"
    if number < 60:
        return f"{number:.0f} s"
    minutes = round(number / 60)
    if number < 600:
        return f"{int(number // 60)} min {int(number % 60)} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def params(settings: Mapping[str, Any]) -> str:
    """`pretrain.code_ratio 0.25, pretrain.schedule constant`; a mixture as `pretrain.weights.web 0.7, code 0.3`."""
    labelled = zip(short_param_names(list(settings)), settings.values(), strict=True)
    return ", ".join(f"{name} {value(setting)}" for name, setting in labelled) or "no searched parameter"


def short_param_names(names: Sequence[str]) -> list[str]:
    """Names of parameters as a sentence has them one after another: of several in one group of a stage's settings, such
    as `pretrain.weights`, the first is told whole and the others by their last part."""
    groups = ["", *(name.rpartition(".")[0] for name in names)]
    return [
        name.removeprefix(f"{group}.") if "." in group and group == group_before else name
        for name, group_before, group in zip(names, groups, groups[1:], strict=False)
    ]


def signed(difference: int) -> str:
    """`+1,234`, `-5` or `0`."""
    return f"{difference:+,}" if difference else "0"


def short_key(key: str) -> str:
    """The name of a job, and the first six digits of its identity."""
    name, _, identity = key.rpartition("-")
    return f"{name} {identity[:6]}"
