"""Points as YAML, in the form that `search.enqueue` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raycodellm.config import SweepFile, write_yaml
from raycodellm.regression.encoding import Point


def as_enqueue(file: SweepFile, points: Sequence[Point]) -> str:
    """`search: {enqueue: [...]}` as YAML: parameters by name, a mixture as a whole."""
    return write_yaml({"search": {"enqueue": [enqueued_point(file, point) for point in points]}})


def enqueued_point(file: SweepFile, point: Point) -> dict[str, Any]:
    """The point as `search.enqueue` takes it."""
    written: dict[str, Any] = {}
    for name, value in point.items():
        simplex = file.domains[name].simplex
        if simplex is None:
            written[name] = value
        else:
            written.setdefault(simplex.name, {})[name.removeprefix(f"{simplex.name}.")] = value
    return written
