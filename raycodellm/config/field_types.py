"""The types of the sweep file's fields: names, numbers (`true` is not 1, and quoted text is no number), and the frozen
model that all settings derive from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from raycodellm.config.errors import nearest, shown

_WITH_UNIT = re.compile(r"(\d{1,3}(?:,\d{3})+|\d{1,9}(?:\.\d{1,9})?)\s?([kKMBGT%]?)")
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "%": 0.01}
"""Units that people write behind a number, and that YAML does not know; `m` may be minutes."""
LARGEST_COUNT = 10**16
"""Largest number of tokens, or of anything else counted: more than anyone has trained on, and exact as a float."""


def _number(value: Any) -> Any:
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
        raise ValueError(f"found {shown(value)}; must be a number{_number_hint(value)}")
    return value


def _whole_number(value: Any) -> Any:
    value = _number(value)
    if isinstance(value, float):
        if not value.is_integer():  # infinity and NaN are refused here too
            raise ValueError(f"found {shown(value)}; must be a whole number")
        value = int(value)
    if abs(value) > LARGEST_COUNT:
        raise ValueError(f"found {shown(value)}; must be at most {LARGEST_COUNT:,}")
    return value


def _number_hint(value: Any) -> str:
    """The hint to a user who wrote this for a number; empty where nothing is near."""
    if isinstance(value, Mapping) and len(value) == 1 and nearest(next(iter(value)), ["search"]):
        return "; did you mean 'search'?"
    if not isinstance(value, str):
        return ""
    if _reads_as_number(value):
        return "; write it without quotes"
    if match := _WITH_UNIT.fullmatch(value.strip()):
        number = float(match[1].replace(",", "")) * _UNITS[match[2].replace("K", "k")]
        return f"; write {int(number):_}" if number.is_integer() else f"; write {number:g}"
    return ""


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


Number = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_whole_number)]
"""A whole number; `1e6` counts as one."""
NO_TRUTH_VALUE = BeforeValidator(_whole_number)
"""Refuses `true` where a few whole numbers are the choices: Python takes True for 1."""
Ratio = Annotated[Number, Field(ge=0.0, le=1.0)]
Decay = Annotated[Number, Field(ge=0.0, lt=1.0)]
"""Decay rate of a running mean. At 1 the mean would never take in a new value."""
NAME_PATTERN = r"^[A-Za-z0-9_-]+$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=80)]


class Frozen(BaseModel):
    """Base of all settings: immutable, without unknown keys, infinities or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def require_one_of(settings: BaseModel, *names: str) -> None:
    """Raises ValueError unless exactly one of the fields `names` is set."""
    names_given = [name for name in names if getattr(settings, name) is not None]
    if len(names_given) != 1:
        raise ValueError(f"needs exactly one of {', '.join(names)}; found {', '.join(names_given) or 'none'}")
