"""The sweep file as a tree: reading the file, `--set`, and putting values in the place of search spaces."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raycodellm.config import phase_shares
from raycodellm.config.credentials import refuse_credentials
from raycodellm.config.early_stopping import require_comparable
from raycodellm.config.enqueued import enqueued_points, reference_point
from raycodellm.config.errors import UserError, nearest_place, shown
from raycodellm.config.ladder_sizes import Carried, check_searches, size_tree
from raycodellm.config.messages import explain
from raycodellm.config.old_spellings import current_path, in_current_spelling
from raycodellm.config.pairs import Pair, compared_pairs
from raycodellm.config.simplex import read_simplex
from raycodellm.config.spaces import (
    Domain,
    Parameter,
    find_parameters,
    hull,
    is_same,
    is_search,
    option_label,
    parameter_name,
    walk,
)
from raycodellm.config.sweep_settings import Sweep
from raycodellm.config.text_domains import with_held_out_texts
from raycodellm.config.two_ways import set_one_way, without_other_ways
from raycodellm.config.yaml_text import MOST_CHARACTERS, read_yaml, write_yaml

MOST_PROBES = 500
"""Most points tried to see whether a sweep file is valid; each takes a millisecond or two."""


@dataclass(frozen=True)
class SweepFile:
    """The raw tree of a sweep file, search spaces included, in the current spelling."""

    tree: dict[str, Any]
    origin: str = "sweep file"
    """Where the tree came from, for messages."""
    parameters: tuple[Parameter, ...] = ()
    """All searched leaves in the order of the file, those inside options included."""

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """Parameter name (its path, `pretrain.code_ratio`) -> the values it may take, in any option of a choice."""
        domains_of: dict[str, list[Domain]] = {}
        for parameter in self.parameters:
            domains_of.setdefault(parameter.name, []).append(parameter.domain)
        return {name: hull(domains) for name, domains in domains_of.items()}

    @cached_property
    def labels(self) -> dict[str, tuple[Any, ...]]:
        """Name of a choice -> labels of its options, where no other search has that name; cached, as slow to make."""
        names = [parameter.name for parameter in self.parameters]
        return {
            parameter.name: parameter.domain.options
            for parameter in self.parameters
            if names.count(parameter.name) == 1
        }

    def example(self) -> Sweep:
        """The sweep with the first value of every search space, for facts that no search changes."""
        return self._example

    @cached_property
    def _example(self) -> Sweep:
        """Kept: it is asked for at each trial, and takes a millisecond."""
        return resolve(self, {})

    def enqueued(self) -> list[dict[str, Any]]:
        """The points of `search.enqueue`: parameter name -> value, an option of a choice by its label."""
        points = self.example().search.enqueue
        return enqueued_points(self.tree, self.parameters, points, self.origin)

    def reference(self) -> dict[str, Any] | None:
        """The point of `search.reference`, as those of `enqueued`; None where the file names none."""
        point = self.example().search.reference
        return None if point is None else reference_point(self.tree, self.parameters, point, self.origin)

    def pretrained_models(self) -> tuple[str, ...]:
        """The values of `model.pretrained` that the sweep may try, in the order of the file."""
        models = (resolve(self, point).model.pretrained for point in self.probe_points())
        return tuple(dict.fromkeys(name for name in models if name is not None))

    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of given models that the sweep compares: those of `search.pairs`; when left out, every model with
        the reference, or else the first. None of a sweep with stages."""
        sweep, reference = self.example(), self.reference()
        if sweep.stages:
            return ()
        base = str(resolve(self, reference or {}).model.pretrained)
        return compared_pairs(sweep.search.pairs, self.pretrained_models(), base, self.origin)

    def probe_points(self) -> Iterator[dict[str, Any]]:
        """Points for a validity check: each parameter in turn at its options, or at the ends of its range and between;
        all other parameters at their first values. One more skips all stages that may be skipped."""
        yield {}
        if len(skips := {parameter.name: False for parameter in self.parameters if parameter.decides_on_stage}) > 1:
            yield skips
        for parameter in self.parameters:
            for condition, value in itertools.product(parameter.conditions, parameter.domain.probes()):
                yield {**dict(condition), parameter.name: value}


def load(path: str | Path, overrides: tuple[str, ...] = ()) -> SweepFile:
    """The validated sweep file at `path`, with the `--set` overrides (`a.b=value`) applied.

    Raises `UserError` with one message that names the key, the value found and what would work.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)  # a bound, in case the path is /dev/zero
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); a sweep file is YAML") from error
        reason = getattr(error, "strerror", None) or error
        hint = f"; {nearest_place(str(path))}" if isinstance(error, FileNotFoundError) else ""
        raise UserError(f"{path}: cannot be read ({reason}); give the path of a sweep file{hint}") from error
    return parse(text, origin=str(path), overrides=overrides)


def parse(text: str, origin: str = "sweep file", overrides: tuple[str, ...] = ()) -> SweepFile:
    """The validated sweep file in `text`; `origin` names the file in messages. Raises `UserError` as `load` does."""
    tree = read_yaml(text, origin)
    if not isinstance(tree, dict):
        content = "is empty" if tree is None else f"holds {'a list' if isinstance(tree, list) else shown(tree)}"
        raise UserError(f"{origin}: {content}, and a sweep file has keys and values; start with name: and stages:")
    # The stages before the overrides, for one spelling of each path; what holds for all stages after them.
    tree = _in_current_spelling(tree, origin, keep_scaling=True)
    for override in overrides:
        _apply_override(tree, override)
    tree = _in_current_spelling(tree, origin)
    refuse_credentials(tree, f"{origin}: ")
    file = SweepFile(tree, origin, find_parameters(tree, origin))
    probes = sum(len(parameter.conditions) * len(parameter.domain.probes()) for parameter in file.parameters)
    if probes > MOST_PROBES:
        raise UserError(f"{origin}: the searches have {probes:,} options in all; give at most {MOST_PROBES:,}")
    require_comparable((_resolve_probe(file, point) for point in file.probe_points()), origin)
    for point in (*file.enqueued(), file.reference() or {}):
        resolve(file, point)
    file.pairs()  # refuses a pair of models that the sweep does not try
    check_searches(file.example(), file.domains, origin)
    return file


def _in_current_spelling(tree: dict[str, Any], origin: str, *, keep_scaling: bool = False) -> dict[str, Any]:
    try:
        return in_current_spelling(tree, keep_scaling=keep_scaling)
    except ValueError as error:
        raise UserError(f"{origin}: {error}") from error


def parse_known(text: str, origin: str, say: Callable[[str], Any]) -> SweepFile:
    """A sweep file that a newer version may have written, for looking at its run. Leaves out the keys that this version
    does not know, and reports each by `say`."""
    while True:
        try:
            return parse(text, origin)
        except UserError as error:
            invalid = error.__cause__
            places = (
                [item["loc"] for item in invalid.errors() if item["type"] == "extra_forbidden"]
                if isinstance(invalid, ValidationError)
                else []
            )
            tree = read_yaml(text, origin) if places else None
            removed = [place for place in places if _remove(tree, place)]
            if not removed:
                raise
            for place in removed:
                key = ".".join(map(str, place))
                say(f"{origin}: {key}: unknown key, of a newer version or a mistake; left out here")
            text = write_yaml(tree)


def _remove(tree: Any, place: tuple[Any, ...]) -> bool:
    """Removes the key at pydantic's path `place`; False where the tree has no such key."""
    for part in place[:-1]:
        inside = isinstance(tree, dict) and part in tree
        inside |= isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if inside:  # otherwise the part names a branch of a union in pydantic
            tree = tree[part]
    return isinstance(tree, dict) and tree.pop(place[-1], tree) is not tree


def _resolve_probe(file: SweepFile, point: Mapping[str, Any]) -> Sweep:
    """The sweep at the point. A UserError about its last value says that the value comes from a search."""
    try:
        return resolve(file, point)
    except UserError as error:
        domain = file.domains.get(next(reversed([*point]), ""))
        if domain is None or domain.kind in ("choice", "simplex"):
            raise
        use = "int, a choice or another range" if domain.kind != "int" else "a choice or another range"
        raise UserError(f"{error} (a value of its search, {domain.kind} over {domain}; use {use})") from error


def _apply_override(tree: dict[str, Any], override: str) -> None:
    """Applies one `--set` override to the tree, in place."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: is not KEY=VALUE; for example --set pretrain.code_ratio=0.3")
    value = read_yaml(text, f"--set {shown(override)}")
    node, parts = _enter_stage(tree, key.strip().split("."))
    for part in parts[:-1]:
        if isinstance(node, list):
            node = _list_item(node, part, override)
        else:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, (dict, list)):
            raise UserError(f"--set {override}: {part} holds {node!r}, which has no keys inside")
    if isinstance(node, list):
        _list_item(node, parts[-1], override)
        node[int(parts[-1])] = value
    else:
        set_one_way(node, parts[-1], value)


def _enter_stage(tree: dict[str, Any], parts: list[str]) -> tuple[Any, list[str]]:
    """(stage, path inside it) for `pretrain.tokens`, `stages.pretrain.tokens` and `stages.0.tokens` alike; any other
    path starts at the tree."""
    stages = tree.get("stages")
    stages = stages if isinstance(stages, list) else []
    inner = parts[1:] if parts[0] == "stages" else parts
    if len(inner) < 2:
        return tree, parts
    matching = [stage for stage in stages if isinstance(stage, dict) and stage.get("name") == inner[0]]
    if not matching and parts[0] == "stages" and inner[0].isdecimal():
        matching = [stage for stage in stages[int(inner[0]) :][:1] if isinstance(stage, dict)]
    return (matching[0], current_path(inner[1:])) if matching else (tree, parts)


def _list_item(node: list, part: str, override: str) -> Any:
    if not part.isdecimal() or int(part) >= len(node):
        raise UserError(f"--set {override}: {part} is not a place in a list of {len(node)}; use 0 to {len(node) - 1}")
    return node[int(part)]


def resolve(file: SweepFile, params: Mapping[str, Any]) -> Sweep:
    """The sweep with `params` in the place of its search spaces. A parameter that `params` leaves out takes its first
    value.

    Raises `UserError` naming the key, the value found and what would work.
    """
    tree = _substitute(file, file.tree, (), params)
    try:
        sweep = Sweep.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{file.origin}: {explain(error, tree)}") from error
    return with_held_out_texts(sweep)


def size_file(file: SweepFile, preset: str, num_parameters: int, carried: Carried | None = None) -> SweepFile:
    """The sweep file of a ladder's size, an ordinary one. `num_parameters`: of the preset's model. `carried`: its arms,
    where the smallest size chooses them."""
    tree = size_tree(file.tree, file.example(), preset, num_parameters, carried)
    return parse(write_yaml(tree), f"{file.origin} (size {preset})")


def resolved_tree(file: SweepFile) -> dict[str, Any]:
    """The file as saved in the run folder: with all defaults that count, and search spaces in their places."""
    tree = file.example().model_dump(mode="json", exclude_none=True)
    for path, node in walk(file.tree):
        inside: Any = tree
        for part in path[:-1]:
            inside = inside[part] if isinstance(inside, list) or part in inside else inside[str(part)]
        inside[path[-1]] = copy.deepcopy(node)
    without_other_ways(tree)
    return tree


def _substitute(file: SweepFile, node: Any, path: tuple[Any, ...], params: Mapping[str, Any]) -> Any:
    if path and is_search(node):
        return _value_of_search(file, parameter_name(file.tree, path), node["search"], params)
    if isinstance(node, dict):
        return {key: _substitute(file, child, (*path, key), params) for key, child in node.items()}
    if isinstance(node, list):
        return [_substitute(file, child, (*path, place), params) for place, child in enumerate(node)]
    return node


def _value_of_search(file: SweepFile, name: str, spec: dict[str, Any], params: Mapping[str, Any]) -> Any:
    kind, values = next(iter(spec.items()))
    if kind == "simplex" and isinstance(values, list):  # a phase's share
        parameters = sorted(
            (parameter for parameter in file.parameters if parameter.name == name),
            key=lambda parameter: not parameter.is_active(params),
        )
        return phase_shares.share(
            [parameter.domain.simplex for parameter in parameters if parameter.domain.simplex], name, params
        )
    if kind == "simplex":
        weights = {source: params[f"{name}.{source}"] for source in values if f"{name}.{source}" in params}
        return weights if len(weights) == len(values) else read_simplex(name, values).completed(weights)
    if kind != "choice":
        return params.get(name, values[0])
    if name not in params:
        return _substitute_in_option(file, values[0], name, params)
    unique_labels = file.labels.get(name)
    labels = unique_labels if unique_labels and len(unique_labels) == len(values) else map(option_label, values)
    # A value that is no option stays as it is: the validation or the caller refuses it by its value.
    pairs = zip(values, labels, strict=True)
    option = next((option for option, label in pairs if is_same(label, params[name])), params[name])
    return _substitute_in_option(file, option, name, params)


def _substitute_in_option(file: SweepFile, node: Any, name: str, params: Mapping[str, Any]) -> Any:
    if is_search(node):
        return _value_of_search(file, name, node["search"], params)
    if isinstance(node, dict):
        return {key: _substitute_in_option(file, child, f"{name}.{key}", params) for key, child in node.items()}
    if isinstance(node, list):
        return [_substitute_in_option(file, child, f"{name}.{place}", params) for place, child in enumerate(node)]
    return node


def value_at(file: SweepFile, name: str, params: Mapping[str, Any]) -> Any:
    """The value at the path `name` in the file, or in the options that `params` chooses; None where there is none."""
    head, *rest = name.split(".")
    stages = (stage for stage in file.tree.get("stages", ()) if stage.get("name") == head)
    node: Any = next(stages, file.tree.get(head))
    path = head
    for part in rest:
        if is_search(node):
            node = _value_of_search(file, path, node["search"], params) if path in params else None
        node = node.get(part) if isinstance(node, dict) else None
        path = f"{path}.{part}"
    return None if isinstance(node, dict) else node


def stages_keeping_optimizer(file: SweepFile) -> frozenset[str]:
    """Names of the stages whose optimizer state the next stage may ask for, in any trial of the sweep."""
    stages = [stage for stage in file.tree.get("stages", ()) if isinstance(stage, dict)]
    return frozenset(
        str(parent.get("name"))
        for place, child in enumerate(stages)
        if _mentions(child.get("optimizer"), "state", "keep")
        for parent in _possible_parents(stages[:place])
    )


def _possible_parents(stages: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The stages that may come right before the one after `stages`: the last, and those before stages that a trial may
    skip."""
    for stage in reversed(stages):
        if stage.get("enabled", True) is not False:
            yield stage
        if stage.get("enabled", True) is True:
            return


def _mentions(node: Any, key: str, value: Any, inside: bool = False) -> bool:
    """True if `value` is under `key`, directly or among the options of a search."""
    if isinstance(node, dict):
        return any(_mentions(child, key, value, inside or name == key) for name, child in node.items())
    if isinstance(node, list):
        return any(_mentions(child, key, value, inside) for child in node)
    return inside and node == value
