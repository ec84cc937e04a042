"""The reference arm: the point of `search.reference`, with a value for each parameter that has an effect."""

from __future__ import annotations

from typing import Any

from raycodellm.config import SweepFile, UserError
from raycodellm.search.space import is_relevant, sampling_order


def reference_point(file: SweepFile) -> dict[str, Any] | None:
    """The reference arm's parameters by name, as a trial has them; None where the file names no reference.

    Values of parameters that have no effect beside the others are left out. Raises `UserError` naming a parameter that
    has an effect and no value.
    """
    values = file.reference()
    if values is None:
        return None
    point: dict[str, Any] = {}
    for parameter in sampling_order(file):
        if not is_relevant(file, parameter, point):
            continue
        if parameter.name not in values:
            example = parameter.domain.options[0] if parameter.domain.kind == "choice" else parameter.domain.low
            raise UserError(
                f"{file.origin}: search.reference: has no value for {parameter.name}, which is searched; "
                f"add it, for example {parameter.name}: {example}"
            )
        point[parameter.name] = values[parameter.name]
    return point
