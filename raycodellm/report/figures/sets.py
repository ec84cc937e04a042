"""The arms that one curve may go through: those that differ in the parameter along the axis, and in nothing else."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raycodellm.config import Domain

Key = tuple[Hashable, ...]
"""Values of an arm's other settings, in the order of their names."""
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
        times = Counter(arm for arm_set in self.sets for arm in arm_set.arms)
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
    by_key: defaultdict[Key, list[int]] = defaultdict(list)
    for arm in arms:
        by_key[tuple(_hashable(params[arm].get(name)) for name in telling)].append(arm)
    rank, filled = {arm: place for place, arm in enumerate(arms)}, {_filled(key) for key in by_key}
    sets, taken = [], set()
    for key in _whole_keys(by_key, telling, domains):
        agreeing = (by_key.get(part, ()) for part in _parts(key, filled))
        members = tuple(sorted((arm for key_arms in agreeing for arm in key_arms), key=rank.__getitem__))
        if len({places[arm] for arm in members}) > 1:
            example = by_key[key][0]
            settings = {name: params[example][name] for name in telling if params[example].get(name) is not None}
            sets.append(ArmSet(settings, members))
            taken |= set(members)
    alone = tuple(arm for arm in arms if arm not in taken)
    return ArmSets(tuple(sets), alone, tuple(name for name in names if name not in telling))


def _num_values(params: Mapping[int, Mapping[str, Any]], arms: Sequence[int], name: str) -> int:
    return len({_hashable(params[arm][name]) for arm in arms if params[arm].get(name) is not None})


def _repeats(params: Mapping[int, Mapping[str, Any]], arms: Sequence[int], name: str) -> bool:
    """True if the arms have half as many values of the number as there are arms that have it, or fewer."""
    having = [arm for arm in arms if params[arm].get(name) is not None]
    return 2 * _num_values(params, arms, name) <= len(having)


def _whole_keys(keys: Collection[Key], names: Sequence[str], domains: Mapping[str, Domain]) -> list[Key]:
    """The keys that no other key completes, in the order of the options in the sweep file. The cost grows with the
    number of keys, and with the few choices of parameters that some arm has a value of."""
    filled = {_filled(key) for key in keys}
    completed = {part for key in keys for part in _parts(key, filled) if part != key}
    whole = [key for key in keys if key not in completed]
    options = [[_hashable(option) for option in domains[name].options] for name in names]

    def place(key: Key) -> list[tuple[int, float, str]]:
        return [_place(value, choices) for value, choices in zip(key, options, strict=True)]

    return sorted(whole, key=place)


def _place(value: Hashable, options: Sequence[Hashable]) -> tuple[int, float, str]:
    if value in options:
        return (0, options.index(value), "")
    return (1, value, "") if isinstance(value, (int, float)) else (2, 0.0, str(value))


def _filled(key: Key) -> frozenset[int]:
    """The places of the key that have a value."""
    return frozenset(place for place, value in enumerate(key) if value is not _ABSENT)


def _parts(key: Key, filled: Collection[frozenset[int]]) -> list[Key]:
    """The key with the values at some of its places alone, for each of the sets `filled` of places that lie in its
    own: the keys that agree with it are among these."""
    own = _filled(key)
    return [
        tuple(value if place in places else _ABSENT for place, value in enumerate(key))
        for places in filled
        if places <= own
    ]


def _hashable(value: Any) -> Hashable:
    return value if isinstance(value, Hashable) else repr(value)
