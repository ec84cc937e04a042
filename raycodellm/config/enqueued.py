"""The points of `search.enqueue` and `search.reference` as the search takes them: options of choices by label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raycodellm.config.errors import UserError, shown, suggest
from raycodellm.config.simplex import Simplex
from raycodellm.config.spaces import Parameter, is_same, is_search, option_label, parameter_name, walk

_UNKNOWN = object()


def enqueued_points(
    tree: Mapping[str, Any], parameters: Sequence[Parameter], points: Sequence[Mapping[str, Any]], origin: str
) -> list[dict[str, Any]]:
    """Each point as parameter name -> value. Raises `UserError` for a value outside its space.

    A point names an option of a choice by the option's label, by the whole option, or by as much as tells it from the
    others, with values in the place of its searches: `{schedule: cosine, peak: 0.003}` sets the choice and the `peak`
    inside. A mixture is named source by source, or as a whole, `{pretrain.weights: {books: 0.7, code: 0.3}}`, where a
    source left out has weight 0.
    """
    options = _options(tree)
    return [
        _resolve_point(options, parameters, point, f"{origin}: search.enqueue.{n}") for n, point in enumerate(points)
    ]


def reference_point(
    tree: Mapping[str, Any], parameters: Sequence[Parameter], point: Mapping[str, Any], origin: str
) -> dict[str, Any]:
    """The point of `search.reference`, read as one of `search.enqueue` is."""
    return _resolve_point(_options(tree), parameters, point, f"{origin}: search.reference")


def _options(tree: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Maps the name of each search to the options of its choices."""
    options: dict[str, list[Any]] = {}
    for name, spec in _searches(tree):
        options.setdefault(name, []).extend(spec.get("choice", ()))
    return options


def _resolve_point(
    options: Mapping[str, Sequence[Any]], parameters: Sequence[Parameter], point: Mapping[str, Any], location: str
) -> dict[str, Any]:
    names = dict.fromkeys(parameter.name for parameter in parameters)
    mixtures = list(dict.fromkeys(parameter.domain.simplex for parameter in parameters if parameter.domain.simplex))
    resolved: dict[str, Any] = {}
    pending = list(point.items())
    while pending:
        name, value = pending.pop(0)
        named_mixtures = [mixture for mixture in mixtures if mixture.name == name and name not in names]
        if named_mixtures:
            pending += _weight_of_each(named_mixtures, value, location).items()
            continue
        if name not in names:
            full_name = next((full_name for full_name in names if full_name.startswith(f"{name}.")), None)
            if full_name is not None:
                raise UserError(
                    f"{location}: {shown(name)} is part of a path; give each parameter by its whole path: {full_name}"
                )
            raise UserError(f"{location}: {shown(name)} is not searched over; {suggest(name, names)}")
        if options.get(name):
            inside, value = _match_option(name, options[name], value, location)
            pending += inside.items()
        if name in resolved and not is_same(resolved[name], value):
            raise UserError(f"{location}.{name}: found {shown(resolved[name])} and {shown(value)}; say one value")
        resolved[name] = value
    for name, value in resolved.items():
        _check_value(name, value, resolved, [parameter for parameter in parameters if parameter.name == name], location)
    for mixture in mixtures:
        _complete_mixture(mixture, resolved, location)
    return resolved


def _weight_of_each(mixtures: Sequence[Simplex], value: Any, location: str) -> dict[str, Any]:
    """The weights of a whole mixture by the names of their parameters; 0 for a source that `value` leaves out."""
    if not isinstance(value, dict):
        raise UserError(f"{location}.{mixtures[0].name}: found {shown(value)}; give each source its weight")
    fitting = next((mixture for mixture in mixtures if value.keys() <= set(mixture.sources)), mixtures[0])
    for source in value:
        if source not in fitting.sources:
            hint = suggest(source, fitting.sources)
            raise UserError(f"{location}.{fitting.name}: {shown(source)} is no source of the search; {hint}")
    return dict(zip(fitting.names, (value.get(source, 0.0) for source in fitting.sources), strict=True))


def _complete_mixture(mixture: Simplex, resolved: dict[str, Any], location: str) -> None:
    """Puts the weights of `mixture`, if `resolved` names them, as the search has them. Raises `UserError` for a mixture
    that is not whole."""
    given_names = [name for name in mixture.names if name in resolved]
    if not given_names:
        return
    missing_names = [name for name in mixture.names if name not in resolved]
    if missing_names:
        raise UserError(
            f"{location}: has {given_names[0]}, but not {missing_names[0]}; name every source of a mixture, 0 for none"
        )
    total = math.fsum(resolved[name] for name in given_names)
    if abs(total - 1.0) > 1e-6:
        raise UserError(f"{location}.{mixture.name}: the weights add up to {total:g}; make them add up to 1")
    resolved |= zip(given_names, mixture.as_sampled([resolved[name] for name in given_names]), strict=True)


def _check_value(
    name: str, value: Any, resolved: Mapping[str, Any], parameters: Sequence[Parameter], location: str
) -> None:
    possible = [parameter for parameter in parameters if _may_be_active(parameter, resolved)]
    if not possible:
        raise UserError(f"{location}.{name}: has no meaning with the options that the point chooses; remove it")
    fitting = [parameter for parameter in possible if parameter.domain.holds(value)]
    if not fitting:
        spaces = " or ".join(dict.fromkeys(str(parameter.domain) for parameter in possible))
        raise UserError(f"{location}.{name}: {shown(value)} is outside its search space {spaces}")
    if len(fitting) < len(possible):
        choice = possible[0].conditions[0][-1][0] if possible[0].conditions[0] else name
        raise UserError(
            f"{location}.{name}: {shown(value)} is inside its search space in some options of {choice} only; "
            f"say {choice} too"
        )


def _may_be_active(parameter: Parameter, resolved: Mapping[str, Any]) -> bool:
    """True if the options chosen so far allow the parameter. A choice that the point leaves open may still fit."""
    return any(
        all(name not in resolved or is_same(resolved[name], label) for name, label in condition)
        for condition in parameter.conditions
    )


def _searches(tree: Any, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, value of the key `search`) of every search of the tree, those inside options included."""
    for path, node in walk(tree):
        name = ".".join([prefix, *map(str, path)]) if prefix else parameter_name(tree, path)
        yield name, node["search"]
        for option in node["search"].get("choice", ()):
            yield from _searches(option, name)


def _match_option(name: str, options: Sequence[Any], value: Any, location: str) -> tuple[dict[str, Any], Any]:
    """(values of the searches inside, label) of the option that `value` names; ({}, `value`) if it names none."""
    if not isinstance(value, (dict, list)):
        return {}, value
    if any(is_same(option_label(option), option_label(value)) for option in options):
        return {}, option_label(value)
    matched = [
        (inside, option_label(option))
        for option in options
        if (inside := _inner_values(name, option, value)) is not None
    ]
    if any(not is_same(label, matched[0][1]) for _, label in matched):
        raise UserError(f"{location}.{name}: {shown(value)} fits {len(matched)} options; say more of the one meant")
    return matched[0] if matched else ({}, value)


def _inner_values(name: str, option: Any, value: Any) -> dict[str, Any] | None:
    """The values in `value` at the places of the searches in `option`; None where the two do not agree."""
    if is_search(option):
        return {name: value}
    if isinstance(option, dict) and isinstance(value, dict):
        parts = [(key, option.get(key, _UNKNOWN), inner) for key, inner in value.items()]
    elif isinstance(option, list) and isinstance(value, list) and len(option) == len(value):
        parts = [
            (place, option_part, inner) for place, (option_part, inner) in enumerate(zip(option, value, strict=True))
        ]
    else:
        return {} if is_same(option, value) else None
    inner_values: dict[str, Any] = {}
    for key, option_part, inner in parts:
        part_values = None if option_part is _UNKNOWN else _inner_values(f"{name}.{key}", option_part, inner)
        if part_values is None:
            return None
        inner_values |= part_values
    return inner_values
