"""The types of the sweep file's fields: names, numbers (`true` is not 1, and quoted text is no number), and the frozen
model that all settings derive from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from raycodellm.config.errors import shown

LARGEST_COUNT = 10**16
"""Tokens, or anything else that is counted: more than was ever trained on, and exact as a float."""


def _number(value: Any) -> Any:
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
        in_quotes = "; write it without quotes" if isinstance(value, str) and _reads_as_number(value) else ""
        raise ValueError(f"found {shown(value)}; must be a number{in_quotes}")
    return value


def _whole(value: Any) -> Any:
    value = _number(value)
    if isinstance(value, float):
        if not value.is_integer():  # neither is an infinite one
            raise ValueError(f"found {value:g}; must be a whole number")
        value = int(value)
    if abs(value) > LARGEST_COUNT:
        raise ValueError(f"found {shown(value)}; must be at most {LARGEST_COUNT:,}")
    return value


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


Number = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_whole)]
"""`1e6` is one too."""
NO_TRUTH_VALUE = BeforeValidator(_whole)
"""For a whole number out of a few: to Python, True is 1."""
Ratio = Annotated[Number, Field(ge=0.0, le=1.0)]
Share = Annotated[Number, Field(ge=0.0, lt=1.0)]
"""With 1, a moment would never hear of a gradient."""
NAME_PATTERN = r"^[A-Za-z0-9_-]+$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=80)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def exactly_one(model: BaseModel, *names: str) -> None:
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        raise ValueError(f"needs exactly one of {', '.join(names)}; found {', '.join(given) or 'none'}")
