"""Which arms one curve may go through: those that differ in the parameter along the axis, and in nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raycodellm.config import Domain

_ABSENT = None
"""Value of a parameter that another one makes meaningless in an arm, such as the schedule of no code."""


@dataclass(frozen=True)
class ArmSet:
    """Arms with the same other settings, at two places of the axis at least."""

    settings: Mapping[str, Any]
    """Values of the parameters that tell the sets apart."""
    arms: tuple[int, ...]


@dataclass(frozen=True)
class ArmSets:
    """The sets along one axis, and the arms that are in none."""

    sets: tuple[ArmSet, ...]
    """In the order of their settings, as the sweep file has the options."""
    alone: tuple[int, ...]
    noise: tuple[str, ...]
    """Parameters whose values hardly repeat, so that no two arms agree in them: they count as noise."""

    @cached_property
    def shared(self) -> tuple[int, ...]:
        """The arms that are in several sets, since what tells these apart has no effect in them."""
        times = Counter(arm for one in self.sets for arm in one.arms)
        return tuple(arm for arm, number in times.items() if number > 1)


def arm_sets(
    params: Mapping[int, Mapping[str, Any]],
    places: Mapping[int, Any],
    domains: Mapping[str, Domain],
    is_of_axis: Callable[[str], bool],
) -> ArmSets:
    """The sets of the arms in `places`, which maps them to their place on the axis.

    `params`: of each arm; `is_of_axis`: true for the parameters that the axis stands for. An arm in which a parameter
    has no effect is in every set that agrees with it in the others.
    """
    arms = list(places)
    names = [name for name in domains if not is_of_axis(name) and _num_values(params, arms, name) > 1]
    telling = [name for name in names if domains[name].kind == "choice" or _repeats(params, arms, name)]
    keys = {arm: tuple(_hashable(params[arm].get(name)) for name in telling) for arm in arms}
    found, taken = [], set()
    for key in _whole_keys(keys.values(), telling, domains):
        members = tuple(arm for arm in arms if _agrees(keys[arm], key))
        if len({places[arm] for arm in members}) > 1:
            example = next(arm for arm in members if keys[arm] == key)
            settings = {name: params[example][name] for name in telling if params[example].get(name) is not None}
            found.append(ArmSet(settings, members))
            taken |= set(members)
    alone = tuple(arm for arm in arms if arm not in taken)
    return ArmSets(tuple(found), alone, tuple(name for name in names if name not in telling))


def _num_values(params: Mapping[int, Mapping[str, Any]], arms: Sequence[int], name: str) -> int:
    return len({_hashable(params[arm][name]) for arm in arms if params[arm].get(name) is not None})


def _repeats(params: Mapping[int, Mapping[str, Any]], arms: Sequence[int], name: str) -> bool:
    """True if the arms have half as many values of the number as there are arms that have it, or fewer."""
    having = [arm for arm in arms if params[arm].get(name) is not None]
    return 2 * _num_values(params, arms, name) <= len(having)


def _whole_keys(
    keys: Collection[tuple[Hashable, ...]], names: Sequence[str], domains: Mapping[str, Domain]
) -> list[tuple[Hashable, ...]]:
    """The keys that no other key completes, in the order of the options in the sweep file."""
    distinct = list(dict.fromkeys(keys))
    whole = [key for key in distinct if not any(key != other and _agrees(key, other) for other in distinct)]
    options = [[_hashable(one) for one in domains[name].options] for name in names]

    def place(key: tuple[Hashable, ...]) -> list[tuple[int, float, str]]:
        return [_place(value, known) for value, known in zip(key, options, strict=True)]

    return sorted(whole, key=place)


def _place(value: Hashable, options: Sequence[Hashable]) -> tuple[int, float, str]:
    if value in options:
        return (0, options.index(value), "")
    return (1, value, "") if isinstance(value, (int, float)) else (2, 0.0, str(value))


def _agrees(partial: tuple[Hashable, ...], whole: tuple[Hashable, ...]) -> bool:
    """True if `whole` has all values of `partial`, and lacks none that `partial` has."""
    return all(one in (other, _ABSENT) for one, other in zip(partial, whole, strict=True))


def _hashable(value: Any) -> Hashable:
    return value if isinstance(value, Hashable) else repr(value)
