"""The search spaces of a sweep file: which leaves are searched, over which values, in which options of a choice.

A parameter is named by its path (`pretrain.learning_rate.peak`), whichever option of a choice it stands in. A trial's
point, `enqueue` and the tables use that name. Where options give one path different spaces, the search has one
parameter per space, told apart by `Parameter.key`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from raycodellm.config import phase_shares
from raycodellm.config.errors import UserError, shown
from raycodellm.config.simplex import WHOLE, Simplex, read_simplex
from raycodellm.config.yaml_text import write_yaml

Condition = tuple[tuple[str, Any], ...]
"""Choices that a parameter depends on: (name of a choice, label of its option), outermost first."""
MOST_PARAMETERS = 200
MOST_OPTIONS = 500
_DOMAIN_KEYS = ("uniform", "loguniform", "int", "choice", "simplex")
_UNSEARCHABLE = ("name", "seed", "sources", "cleaning", "tokenizer", "search", "budget", "scaling", "tracking")


@dataclass(frozen=True)
class Domain:
    """The values that one searched leaf may take. `kind`: uniform, loguniform, int, choice or simplex."""

    kind: str
    low: float = 0.0
    high: float = 0.0
    options: tuple[Any, ...] = ()
    """Labels of a choice's options: scalars as they are, a nested tree or a list as compact YAML."""
    simplex: Simplex | None = None
    """The mixture of which this is one source's weight."""

    def probes(self) -> tuple[Any, ...]:
        """The values that a validity check tries: every option, or both ends of a range and a value between."""
        if self.kind == "choice":
            return self.options
        if self.kind == "int":
            low, high = int(self.low), int(self.high)
            return tuple(dict.fromkeys((low, high, low + 1, (low + high) // 2, high - 1)))
        if self.kind == "simplex":
            return tuple(dict.fromkeys((self.low, self.high)))
        # Not a round share of the way, so that the value is no whole number where both ends are.
        return (self.low, self.high, self.low + (self.high - self.low) / math.pi)

    def holds(self, value: Any) -> bool:
        """True if `value` is in the domain; an option of a choice is given by its label."""
        if self.kind == "choice":
            return any(is_same(value, option) for option in self.options)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if self.kind == "simplex":  # weights may be written in rounded numbers
            return self.low - 1 / WHOLE <= value <= self.high + 1 / WHOLE
        return self.low <= value <= self.high and (self.kind != "int" or float(value).is_integer())

    def __str__(self) -> str:
        return shown(list(self.options)) if self.kind == "choice" else f"[{self.low}, {self.high}]"


@dataclass(frozen=True)
class Parameter:
    """One searched leaf."""

    name: str
    """Path in the sweep file, a stage by its name."""
    key: str
    """Name in the search: the path, with its option where another option has another space at that path."""
    domain: Domain
    conditions: tuple[Condition, ...] = ((),)
    """The parameter is sampled where one of these conditions holds."""

    @property
    def decides_on_stage(self) -> bool:
        """True for `enabled` of a stage that may be skipped."""
        return self.name.count(".") == 1 and self.name.endswith(".enabled")

    def is_active(self, params: Mapping[str, Any]) -> bool:
        """True if the options that `params` chooses have this parameter."""
        return any(
            all(name in params and is_same(params[name], label) for name, label in condition)
            for condition in self.conditions
        )


def is_same(left: Any, right: Any) -> bool:
    """Equal, and both or neither a truth value: Python takes True for 1."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def is_search(node: Any) -> bool:
    """True for a search space: a mapping with the key `search`."""
    return isinstance(node, dict) and "search" in node


def option_label(option: Any) -> Any:
    """An option as the sampler sees it: a scalar as it is, anything else as compact YAML."""
    if option is None or isinstance(option, (bool, int, float, str)):
        return option
    return write_yaml(option, default_flow_style=True, width=10_000).strip()


def walk(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """All search spaces of a tree with their paths; does not enter the options of a choice."""
    if is_search(tree) and path:
        yield path, tree
    elif isinstance(tree, dict):
        for key, node in tree.items():
            yield from walk(node, (*path, key))
    elif isinstance(tree, list):
        for place, node in enumerate(tree):
            yield from walk(node, (*path, place))


def parameter_name(tree: Mapping[str, Any], path: tuple[Any, ...]) -> str:
    """The dotted path, a stage by its name: ('stages', 0, 'code_ratio') is `pretrain.code_ratio`."""
    if len(path) > 2 and path[0] == "stages":
        stage = tree["stages"][path[1]]
        name = stage.get("name") if isinstance(stage, dict) else None
        path = (name if isinstance(name, str) else path[1], *path[2:])
    return ".".join(str(part) for part in path)


class _Option(NamedTuple):
    """The option of a choice in which a search stands."""

    choice: str
    """Name of the choice."""
    place: int
    tree: Any


class _Search(NamedTuple):
    """One search space of the file."""

    name: str
    domain: Domain
    condition: Condition
    option: _Option | None
    """The innermost option around the search."""


def find_parameters(tree: dict[str, Any], origin: str) -> tuple[Parameter, ...]:
    """All parameters, in the order of the file. Raises `UserError` for a malformed space or a leaf that cannot be
    searched."""
    searches: list[_Search] = []
    for path, node in walk(tree):
        name = parameter_name(tree, path)
        condition = _condition_of_stage(tree, path)
        if condition is None:
            continue
        if path[0] in _UNSEARCHABLE or (path[0] == "stages" and (len(path) < 3 or path[2] == "name")):
            location = f"stages.{name}" if path[0] == "stages" else name
            raise UserError(f"{origin}: {location} cannot be searched over; search in model, a stage or evaluation")
        for search in _searches_at(
            name, phase_shares.group_shares(tree, path, node, f"{origin}: {name}"), origin, condition, None
        ):
            if search.domain.simplex and (path[0] != "stages" or not _takes_simplex(search.domain.simplex)):
                raise UserError(
                    f"{origin}: {search.domain.simplex.name}: simplex searches a mixture; use it for the weights of a "
                    "stage or of its phases, or for the shares of all phases"
                )
            searches.append(search)
            if len(searches) > MOST_PARAMETERS:
                raise UserError(f"{origin}: searches over more than {MOST_PARAMETERS:,} parameters; use fewer")
    return _merge_searches(searches, origin)


def _takes_simplex(simplex: Simplex) -> bool:
    return simplex.name.endswith(".weights") or phase_shares.is_of_phases(simplex)


def _condition_of_stage(tree: Mapping[str, Any], path: tuple[Any, ...]) -> Condition | None:
    """The condition of a search at `path`: inside a stage that may be skipped, that it is not. None where the stage is
    skipped in every trial."""
    if len(path) < 3 or path[0] != "stages" or path[2] == "enabled" or not isinstance(tree["stages"][path[1]], dict):
        return ()
    enabled = tree["stages"][path[1]].get("enabled", True)
    if is_search(enabled):
        return ((parameter_name(tree, (*path[:2], "enabled")), True),)
    return None if enabled is False else ()


def _searches_at(
    name: str, node: dict[str, Any], origin: str, condition: Condition, option: _Option | None
) -> Iterator[_Search]:
    """A search and all searches inside its options; a search over a mixture is one search per source."""
    if node is phase_shares.SEARCHED_BEFORE:
        return
    if phase_shares.is_share(name):
        name = phase_shares.name_of_phases(name, node)
    domain = _domain(name, node, origin)
    if domain.simplex is not None:
        simplex = domain.simplex
        for source, low, high in zip(simplex.names, simplex.lows, simplex.highs, strict=True):
            yield _Search(source, replace(domain, low=low / WHOLE, high=high / WHOLE), condition, option)
        return
    yield _Search(name, domain, condition, option)
    for place, inside in enumerate(node["search"]["choice"] if domain.kind == "choice" else ()):
        if is_search(inside):
            raise UserError(
                f"{origin}: {name}: an option is itself a search; write its values as options, or search over a key "
                "inside an option"
            )
        inner_condition = (*condition, (name, option_label(inside)))
        for path, inner in walk(inside):
            inner_name = ".".join([name, *map(str, path)])
            inner_node = phase_shares.group_shares(inside, path, inner, f"{origin}: {inner_name}")
            yield from _searches_at(inner_name, inner_node, origin, inner_condition, _Option(name, place, inside))


def _merge_searches(searches: Sequence[_Search], origin: str) -> tuple[Parameter, ...]:
    """One parameter per name and domain. Where a name has several domains, each parameter has a key of its own."""
    conditions: dict[tuple[str, Domain], list[Condition]] = {}
    options: dict[tuple[str, Domain], _Option | None] = {}
    for search in searches:
        parameter_conditions = conditions.setdefault((search.name, search.domain), [])
        options.setdefault((search.name, search.domain), search.option)
        if search.condition in parameter_conditions or any(
            _both_hold(search.condition, condition) for condition in parameter_conditions
        ):
            raise UserError(f"{origin}: two searches have the name {search.name}; give one of them another place")
        parameter_conditions.append(search.condition)
    names = [name for name, _ in conditions]
    keys: set[str] = set()
    parameters = []
    for (name, domain), parameter_conditions in conditions.items():
        key = name
        if names.count(name) > 1:
            option = options[name, domain]
            if option is None:
                raise UserError(f"{origin}: two searches have the name {name}; give one of them another place")
            inside = name.removeprefix(option.choice)
            key = f"{option.choice}[{_summary(option.tree) or option.place}]{inside}"
            key = f"{option.choice}[{option.place}]{inside}" if key in keys else key
        while key in keys:  # options of options may be alike
            key += "'"
        keys.add(key)
        parameters.append(Parameter(name, key, domain, tuple(parameter_conditions)))
    return tuple(parameters)


def _both_hold(first: Condition, second: Condition) -> bool:
    """True if one point may satisfy both conditions: no choice has two different options in them."""
    labels = dict(first)
    return all(name not in labels or is_same(labels[name], label) for name, label in second)


def _summary(option: Any) -> str:
    """The fixed scalars of an option, short enough for a name: `schedule=cosine`; empty where too long."""
    if not isinstance(option, dict):
        return ""
    plain = [f"{key}={value}" for key, value in option.items() if isinstance(value, (str, int, float))]
    text = ",".join(plain)
    return text if len(text) <= 60 else ""


def _domain(name: str, node: dict[str, Any], origin: str) -> Domain:
    other_keys = [key for key in node if key != "search"]
    if other_keys:
        raise UserError(
            f"{origin}: {name}: {shown(other_keys[0])} stands beside search; a search stands alone in its {{}}"
        )
    spec = node["search"]
    if not isinstance(spec, dict) or len(spec) != 1 or next(iter(spec)) not in _DOMAIN_KEYS:
        raise UserError(f"{origin}: {name}: search holds {shown(spec)}; use one of {', '.join(_DOMAIN_KEYS)}")
    kind, values = next(iter(spec.items()))
    if kind == "simplex":
        try:
            return Domain(kind, simplex=read_simplex(name, values))
        except ValueError as error:
            raise UserError(f"{origin}: {name}: {error}") from error
    if not isinstance(values, list) or not values:
        form = "[a, b]" if kind == "choice" else "[low, high]"
        raise UserError(f"{origin}: {name}: {kind} holds {shown(values)}; give a list, such as {form}")
    if kind == "choice":
        return _choice(name, values, origin)
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    need = {"int": "two whole numbers", "loguniform": "two numbers over 0"}.get(kind, "two numbers")
    is_valid = len(values) == len(numbers) == 2 and all(math.isfinite(value) for value in numbers)
    is_valid = is_valid and numbers[0] < numbers[1] and math.isfinite(numbers[1] - numbers[0])
    if is_valid and kind == "int":
        is_valid = all(float(value).is_integer() and abs(value) <= 2**53 for value in numbers)
    if not is_valid or (kind == "loguniform" and numbers[0] <= 0):
        raise UserError(f"{origin}: {name}: {kind} holds {shown(values)}; give {need}, the lower first")
    low, high = (int(value) if kind == "int" else float(value) for value in numbers)
    return Domain(kind, low, high)


def _choice(name: str, values: list[Any], origin: str) -> Domain:
    if len(values) > MOST_OPTIONS:
        raise UserError(f"{origin}: {name}: choice has {len(values):,} options; give at most {MOST_OPTIONS:,}")
    labels = tuple(option_label(option) for option in values)
    for option, label in zip(values, labels, strict=True):
        if isinstance(label, float) and not math.isfinite(label):
            raise UserError(f"{origin}: {name}: choice holds {label}; give finite numbers")
        # To Optuna, as to Python, 1, 1.0 and true are one option.
        if sum(label == other for other in labels) > 1:
            raise UserError(f"{origin}: {name}: choice names an option twice: {shown(option)}; name each once")
    return Domain("choice", options=labels)


def hull(domains: Sequence[Domain]) -> Domain:
    """The smallest domain that holds all of `domains`, for an axis or a list of groups."""
    if len(domains) == 1:
        return domains[0]
    if any(domain.kind == "choice" for domain in domains):
        return Domain("choice", options=tuple(dict.fromkeys(option for domain in domains for option in domain.options)))
    kinds = {domain.kind for domain in domains}
    low, high = min(domain.low for domain in domains), max(domain.high for domain in domains)
    return replace(domains[0], kind=kinds.pop() if len(kinds) == 1 else "uniform", low=low, high=high)
