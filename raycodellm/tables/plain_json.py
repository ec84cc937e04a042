"""Values as a JSON file can hold them."""

from __future__ import annotations

import math
from typing import Any


def finite_json(value: Any) -> Any:
    """The value with None for each number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite_json(member) for key, member in value.items()}
    if isinstance(value, list):
        return [finite_json(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
