"""The sweep file of one size of a ladder: the ladder's own, with the size's model, tokens and learning rates."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm.config.errors import UserError
from raycodellm.config.ladder_settings import Ladder
from raycodellm.config.sweep_settings import Sweep

_DIGITS = 6
"""Significant digits of a scaled learning rate."""
_OF_A_SEARCH = ("early_stopping", "warm_start")
"""Settings of `search` that choose among arms: a size with arms that are chosen already has no use for them."""


def size_name(sweep: str, preset: str) -> str:
    """The name of a size's sweep: `code-tiny`. Names of sweeps have no dot, so that of `2.8b` becomes `_`."""
    return f"{sweep}-{preset.replace('.', '_')}"


def check_searches(sweep: Sweep, searched: Mapping[str, Any], origin: str) -> None:
    """Raises `UserError` where a ladder's arms would not be the same at every size, or nothing says how their learning
    rates follow from the size. `searched`: the searched leaves by name."""
    ladder = sweep.ladder
    if ladder is None:
        return
    for stage in sweep.stages:
        if f"{stage.name}.tokens" in searched:
            raise UserError(
                f"{origin}: stages.{stage.name}.tokens: is searched, but in a ladder the tokens follow from the size; "
                "give one number, or sweep without a ladder"
            )
    if "model.preset" in searched or "model" in searched:
        raise UserError(f"{origin}: model: is searched, but the ladder's presets are the models; leave it out of model")
    fixed_rate_stages = [stage.name for stage in sweep.stages if not _is_rate_searched(stage.name, searched)]
    transfers = sweep.model.parametrization == "mup"
    if transfers and ladder.learning_rate is not None:
        raise UserError(
            f"{origin}: ladder.learning_rate: model.parametrization: mup transfers the rates; leave one of both out"
        )
    if fixed_rate_stages and not transfers and ladder.learning_rate is None:
        example = ", ".join(f"{preset}: 1" for preset in ladder.presets[:3])
        raise UserError(
            f"{origin}: ladder: nothing says the learning rate of stage {fixed_rate_stages[0]} at each size; set "
            f"model.parametrization: mup, or factors, ladder.learning_rate: {{{example}}}, or search over its "
            "learning_rate.peak"
        )


def _is_rate_searched(stage: str, searched: Mapping[str, Any]) -> bool:
    return f"{stage}.learning_rate.peak" in searched or f"{stage}.learning_rate" in searched


@dataclass(frozen=True)
class Carried:
    """The arms that a size has from the smallest one."""

    num_arms: int
    """Without the reference."""
    points: Sequence[Mapping[str, Any]] = ()
    """The arms' points, as in `search.enqueue`; none while the smallest size has not chosen them."""


def size_tree(
    tree: Mapping[str, Any], sweep: Sweep, preset: str, num_parameters: int, carried: Carried | None = None
) -> dict[str, Any]:
    """The raw tree of the size's sweep file.

    `tree`, `sweep`: the ladder's. `num_parameters`: of the size's model. The stages' tokens are scaled to sum to
    `tokens_per_parameter` times these, each to the nearest number of whole steps, and at least one. `carried`: the arms
    that the smallest size chose; None for a size with the arms of the file.
    """
    ladder = sweep.ladder
    assert ladder is not None, "the file of a size is made of a ladder's"
    size_settings = {key: copy.deepcopy(value) for key, value in tree.items() if key != "ladder"}
    size_settings["name"] = size_name(sweep.name, preset)
    size_settings["model"] = {**(size_settings.get("model") or {}), "preset": preset}
    scale = ladder.tokens_per_parameter * num_parameters / sum(stage.tokens for stage in sweep.stages if stage.enabled)
    for settings, stage in zip(size_settings["stages"], sweep.stages, strict=True):
        settings["tokens"] = max(1, round(stage.tokens * scale / stage.batch_tokens)) * stage.batch_tokens
        _scale_rate(settings, stage.learning_rate.peak, ladder, preset)
    if carried is not None:
        confirm = {**size_settings["search"]["confirm"], "best": carried.num_arms}
        arms = {
            "sampler": "random",
            "trials": 1 + carried.num_arms,
            "enqueue": [dict(point) for point in carried.points],
        }
        search = {key: value for key, value in size_settings["search"].items() if key not in _OF_A_SEARCH}
        size_settings["search"] = {**search, **arms, "confirm": confirm}
    return size_settings


def _scale_rate(settings: dict[str, Any], peak: float, ladder: Ladder, preset: str) -> None:
    """Multiplies the stage's peak by the size's factor, in place, unless the peak is searched."""
    rate = settings["learning_rate"]
    if ladder.learning_rate is not None and "search" not in rate and not isinstance(rate["peak"], dict):
        rate["peak"] = float(f"{peak * ladder.learning_rate[preset]:.{_DIGITS}g}")
