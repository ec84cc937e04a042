"""Settings that once had another place in the sweep file: the old place is accepted and means the same."""

from __future__ import annotations

from typing import Any

_OF_EVERY_STAGE = {"precision": "precision", "attention": "attention", "config": "deepspeed_config"}
"""Key under `scaling.deepspeed` -> key of a stage. These settings decide the numbers, so they belong to the stage."""


def with_stage_settings(tree: Any) -> Any:
    """The tree with what `scaling.deepspeed` says of all stages written into each of them.

    Raises ValueError where a stage says something else. A tree of another shape comes back as it is, for pydantic to
    refuse.
    """
    scaling = tree.get("scaling") if isinstance(tree, dict) else None
    found = scaling.get("deepspeed") if isinstance(scaling, dict) else None
    stages = tree.get("stages") if isinstance(tree, dict) else None
    if not isinstance(found, dict) or not isinstance(stages, (list, tuple)):
        return tree
    said = {_OF_EVERY_STAGE[key]: (key, value) for key, value in found.items() if key in _OF_EVERY_STAGE}
    if not said:
        return tree
    kept = {key: value for key, value in found.items() if key not in _OF_EVERY_STAGE}
    return {
        **tree,
        "scaling": {**scaling, "deepspeed": kept},
        "stages": [_with(stage, said) if isinstance(stage, dict) else stage for stage in stages],
    }


def _with(stage: dict[str, Any], said: dict[str, tuple[str, Any]]) -> dict[str, Any]:
    for name, (key, value) in said.items():
        if name in stage and stage[name] != value:
            raise ValueError(
                f"stages.{stage.get('name')}.{name}: found {stage[name]!r}, but scaling.deepspeed.{key} says {value!r} "
                "for all stages; remove one of the two"
            )
    return {**stage, **{name: value for name, (_, value) in said.items()}}
