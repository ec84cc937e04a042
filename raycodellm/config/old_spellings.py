"""Settings that once had another name or place in the sweep file: the old spelling is accepted and means the same.

Every sweep file, `--set` override, name of a searched parameter and result of an earlier run passes through here, so
that the rest of the package knows the current spelling alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from raycodellm.config.errors import shown

STAGE_SETTINGS: dict[str, tuple[str, str]] = {
    "weight_decay": ("optimizer", "weight_decay"),
    "adam_betas": ("optimizer", "betas"),
    "adam_epsilon": ("optimizer", "epsilon"),
    "gradient_clip": ("optimizer", "gradient_clip"),
    "optimizer_state": ("optimizer", "state"),
    "average_last": ("averaging", "last"),
    "average_every": ("averaging", "every"),
    "precision": ("numerics", "precision"),
    "attention": ("numerics", "attention"),
    "deepspeed_config": ("numerics", "deepspeed_config"),
    "on_nan": ("faults", "on_nan"),
    "loss_limit": ("faults", "loss_limit"),
}
"""A stage's key as it once stood right under the stage -> its current group and key."""

_OF_EVERY_STAGE = {"precision": "precision", "attention": "attention", "config": "deepspeed_config"}
"""Key under `scaling.deepspeed` -> key under a stage's `numerics`. These settings change the computed numbers, so they
belong to the stage."""


def current_path(parts: Sequence[str]) -> list[str]:
    """Keys below a stage in the current spelling: `weight_decay` becomes `optimizer`, `weight_decay`."""
    return [*STAGE_SETTINGS.get(parts[0], parts[:1]), *parts[1:]] if parts else []


def current_name(name: str) -> str:
    """A parameter's name in the current spelling: `pretrain.weight_decay` becomes `pretrain.optimizer.weight_decay`."""
    stage, *parts = name.split(".")
    return ".".join([stage, *current_path(parts)])


def in_current_spelling(tree: Any, *, keep_scaling: bool = False) -> Any:
    """The sweep file's tree with every setting under its current name; a tree of another shape comes back unchanged.

    `keep_scaling` leaves the settings under `scaling.deepspeed` in their old place. Raises ValueError where the old and
    the current spelling of one setting hold different values.
    """
    if not isinstance(tree, dict):
        return tree
    tree = dict(tree)
    if isinstance(tree.get("stages"), (list, tuple)):
        tree["stages"] = [stage_in_current_spelling(stage) for stage in tree["stages"]]
        tree = tree if keep_scaling else _with_settings_of_every_stage(tree)
    search = tree.get("search")
    if isinstance(search, dict) and isinstance(search.get("enqueue"), list):
        points = [_point_in_current_spelling(f"enqueue.{n}", point) for n, point in enumerate(search["enqueue"])]
        search = tree["search"] = {**search, "enqueue": points}
    if isinstance(search, dict) and "reference" in search:
        tree["search"] = {**search, "reference": _point_in_current_spelling("reference", search["reference"])}
    return tree


def stage_in_current_spelling(stage: Any) -> Any:
    """One stage's settings with each setting of STAGE_SETTINGS in its group."""
    for old_key in STAGE_SETTINGS if isinstance(stage, dict) else ():
        if old_key in stage:
            value = stage[old_key]
            stage = {key: inner for key, inner in stage.items() if key != old_key}
            stage = _with_value(
                stage, STAGE_SETTINGS[old_key], value, f"{old_key}, its older spelling, says {shown(value)}"
            )
    return stage


def _with_settings_of_every_stage(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with the numeric settings of `scaling.deepspeed` moved into every stage."""
    scaling = tree.get("scaling")
    deepspeed = scaling.get("deepspeed") if isinstance(scaling, dict) else None
    if not isinstance(deepspeed, dict) or not _OF_EVERY_STAGE.keys() & deepspeed.keys():
        return tree
    stages = tree["stages"]
    for old_key, key in _OF_EVERY_STAGE.items():
        if old_key in deepspeed:
            if _holds_search(deepspeed[old_key]):
                raise ValueError(f"scaling.deepspeed.{old_key}: holds a search; write it as numerics.{key} of a stage")
            origin = f"scaling.deepspeed.{old_key} says {shown(deepspeed[old_key])} for all stages"
            stages = [
                _with_value(stage, ("numerics", key), copy.deepcopy(deepspeed[old_key]), origin)
                if isinstance(stage, dict)
                else stage
                for stage in stages
            ]
    other_settings = {key: value for key, value in deepspeed.items() if key not in _OF_EVERY_STAGE}
    return {**tree, "scaling": {**tree["scaling"], "deepspeed": other_settings}, "stages": stages}


def _holds_search(value: Any) -> bool:
    if isinstance(value, dict):
        return "search" in value or any(map(_holds_search, value.values()))
    return isinstance(value, list) and any(map(_holds_search, value))


def _with_value(stage: Mapping[str, Any], path: tuple[str, str], value: Any, origin: str) -> dict[str, Any]:
    """The stage with `value` at `path`, unless that holds another value. `origin`: where `value` comes from."""
    group, key = path
    inside = stage.get(group)
    inside = {} if inside is None else inside
    if not isinstance(inside, dict) or "search" in inside:
        raise ValueError(
            f"stages.{stage.get('name')}.{group}: found {shown(inside)}, but {origin}; write {group}.{key} inside "
            f"{group}"
        )
    if key in inside and inside[key] != value:
        raise ValueError(
            f"stages.{stage.get('name')}.{group}.{key}: found {shown(inside[key])}, but {origin}; remove one of the two"
        )
    return {**stage, group: {**inside, key: value}}


def _point_in_current_spelling(key: str, point: Any) -> Any:
    if not isinstance(point, dict):
        return point
    current: dict[Any, Any] = {}
    for name, value in point.items():
        new_name = current_name(name) if isinstance(name, str) else name
        if new_name in current and current[new_name] != value:
            raise ValueError(
                f"search.{key}.{new_name}: found {shown(current[new_name])} and {shown(value)} in its old and its "
                "current spelling; remove one of the two"
            )
        current[new_name] = value
    return current
