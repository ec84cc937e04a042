"""Short names of models."""

from __future__ import annotations

from collections.abc import Sequence


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Maps each model to the last part of its path that tells it from the others, or to the whole path where no single
    part does. The models of a run all end in `model`: theirs is the name of the stage."""
    parts = {model: model.rstrip("/").split("/") for model in models}
    while len(parts) > 1 and len({path[-1] for path in parts.values()}) == 1 and min(map(len, parts.values())) > 1:
        parts = {model: path[:-1] for model, path in parts.items()}
    last = {model: path[-1] for model, path in parts.items()}
    return {model: name if name and [*last.values()].count(name) == 1 else model for model, name in last.items()}
