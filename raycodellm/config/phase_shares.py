"""Searched lengths of a stage's phases: `share: {search: {simplex: [0.1, 0.8]}}` in each phase of the stage.

The shares of all phases are one point of a simplex: each within its bounds, and together 1. So the breakpoints between
phases are in order whatever is drawn, and all ways to place them within the bounds are equally likely. A phase with a
fixed share keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raycodellm.config.errors import UserError
from raycodellm.config.simplex import Simplex

_SHARE = "share"
_PHASES = "phases"
SEARCHED_BEFORE: dict[str, Any] = {"search": {}}
"""In the place of a share whose phases were searched at the first of them."""


def group_shares(tree: Any, path: tuple[Any, ...], node: dict[str, Any], location: str) -> dict[str, Any]:
    """The search `node` at `path` of a tree; of a phase's share the search over the shares of all phases, once.

    `location`: the place of `node` for messages. Raises `UserError` where a phase has no share to be searched with the
    others.
    """
    spec = node["search"]
    bounds = spec.get("simplex") if isinstance(spec, dict) and len(node) == 1 else None
    if path[-1:] != (_SHARE,) or not isinstance(bounds, list):
        return node
    phases = tree
    for part in path[:-2]:
        phases = phases[part]
    if not isinstance(phases, list):
        return node
    shares = {f"{place}.{_SHARE}": _bounds(phase) for place, phase in enumerate(phases)}
    for place, bounds in enumerate(shares.values()):
        if len(shares) < 2 or not _are_two_numbers(bounds):
            problem = "this is the only phase" if len(shares) < 2 else f"phase {place} has no such share"
            raise UserError(
                f"{location}: a simplex shares the stage among all its phases, and {problem}; give each of two or more "
                "phases {search: {simplex: [low, high]}} or a number"
            )
    first_searched = next(place for place, phase in enumerate(phases) if _is_searched(phase))
    return {"search": {"simplex": shares}} if path[-2] == first_searched else SEARCHED_BEFORE


def _is_searched(phase: Any) -> bool:
    return isinstance(phase, dict) and isinstance(phase.get(_SHARE), dict)


def _are_two_numbers(bounds: Any) -> bool:
    numbers = [number for number in bounds if isinstance(number, (int, float))] if isinstance(bounds, list) else []
    return len(numbers) == 2 == len(bounds)


def _bounds(phase: Any) -> Any:
    """The least and the most share of a phase; what is neither a share nor a search stays, to be refused."""
    share = phase.get(_SHARE) if isinstance(phase, dict) else None
    if isinstance(share, dict):
        spec = share.get("search")
        return spec.get("simplex") if isinstance(spec, dict) else share
    return [share, share]


def is_share(name: str) -> bool:
    """True for the name of a phase's share: `pretrain.phases.0.share`."""
    return name.split(".")[-3::2] == [_PHASES, _SHARE]


def name_of_phases(name: str, node: Mapping[str, Any]) -> str:
    """The name of the phases, where `node` searches all their shares; else `name`."""
    spec = node["search"]
    bounds = spec.get("simplex") if isinstance(spec, dict) else None
    return name.rpartition(".")[0].rpartition(".")[0] if isinstance(bounds, dict) else name


def is_of_phases(simplex: Simplex) -> bool:
    return all(name.endswith(f".{_SHARE}") for name in simplex.sources)


def share(simplexes: Sequence[Simplex], name: str, params: Mapping[str, Any]) -> Any:
    """The share of the phase at the path `name`, where `params` may lack some shares. `simplexes`: of the parameters of
    that name, the one that applies first."""
    simplex = simplexes[0]
    given_shares = {
        source: params[full_name]
        for source, full_name in zip(simplex.sources, simplex.names, strict=True)
        if full_name in params
    }
    if len(given_shares) < len(simplex.sources):
        given_shares = simplex.completed(given_shares)
    return given_shares[name.removeprefix(f"{simplex.name}.")]
