"""The sweep file as a tree: reading it, `--set`, its search spaces, and putting values in their place."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from raycodellm.config.credentials import refuse_credentials
from raycodellm.config.errors import UserError, suggest
from raycodellm.config.messages import explain
from raycodellm.config.settings import Sweep


@dataclass(frozen=True)
class Domain:
    """The values that one searched leaf may take. `kind`: uniform, loguniform, int or choice."""

    kind: str
    low: float = 0.0
    high: float = 0.0
    options: tuple[Any, ...] = ()
    """Of a choice: scalars as they are; anything else (a nested tree, a list) is labelled by its compact YAML."""

    def corners(self) -> tuple[Any, ...]:
        """The values that a validity check should try: both ends, or every option."""
        return self.options if self.kind == "choice" else (self.low, self.high)


@dataclass(frozen=True)
class SweepFile:
    """The raw tree of a sweep file and where it came from. Search spaces are still in it."""

    tree: dict[str, Any]
    origin: str = "sweep file"
    domains: dict[str, Domain] = field(default_factory=dict)
    """Parameter name (its path, `pretrain.code_ratio`) to domain, in the order of the file, nested ones included."""
    conditions: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Of a parameter inside an option of a choice: (name of the choice, label of the option)."""

    def example(self) -> Sweep:
        """The sweep with the first value of every search space: for all that does not depend on the search."""
        return resolve(self, {})

    def corner_points(self) -> Iterator[dict[str, Any]]:
        """Points to try in a validity check: every end of every search space, the others at their first values."""
        yield {}
        for name, domain in self.domains.items():
            parents = {}
            inner = name
            while inner in self.conditions:
                inner, label = self.conditions[inner]
                parents[inner] = label
            for value in domain.corners():
                yield {**parents, name: value}


_DOMAIN_KEYS = ("uniform", "loguniform", "int", "choice")
_UNSEARCHABLE = ("name", "sources", "cleaning", "tokenizer", "search", "scaling")


def load(path: str | Path, overrides: tuple[str, ...] = ()) -> SweepFile:
    """The validated sweep file at `path`, with `--set` overrides (`a.b=value`) put in first.

    Raises `UserError` with one message that names the key, the value found and what would work.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a sweep file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); a sweep file is YAML") from error
    return parse(text, origin=str(path), overrides=overrides)


def parse(text: str, origin: str = "sweep file", overrides: tuple[str, ...] = ()) -> SweepFile:
    try:
        tree = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{origin}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{origin}: holds {type(tree).__name__}, not keys and values; start with name: and stages:")
    for override in overrides:
        _set(tree, override)
    refuse_credentials(tree, f"{origin}: ")
    domains: dict[str, Domain] = {}
    conditions: dict[str, tuple[str, str]] = {}
    for name, domain, condition in _find_domains(tree, origin):
        if domains.setdefault(name, domain) != domain:
            raise UserError(f"{origin}: {name} has two different search spaces; give it one")
        if condition:
            conditions[name] = condition
    file = SweepFile(tree, origin, domains, conditions)
    for point in file.corner_points():
        resolve(file, point)
    _check_enqueued(file)
    return file


def parse_known(text: str, origin: str, say: Callable[[str], Any]) -> SweepFile:
    """A sweep file that may be of a newer version, to look at what its run left: keys that this version does not know
    are left out, and each is said."""
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
            tree = yaml.safe_load(text) if places else None
            removed = [place for place in places if _remove(tree, place)]
            if not removed:
                raise
            for place in removed:
                key = ".".join(map(str, place))
                say(f"{origin}: {key}: unknown key, of a newer version or a mistake; left out here")
            text = yaml.safe_dump(tree, sort_keys=False)


def _remove(tree: Any, place: tuple[Any, ...]) -> bool:
    for part in place[:-1]:
        inside = isinstance(tree, dict) and part in tree
        inside |= isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if inside:  # else a branch of a union, as pydantic names it
            tree = tree[part]
    return isinstance(tree, dict) and tree.pop(place[-1], tree) is not tree


class _UniqueKeyLoader(yaml.SafeLoader):
    pass


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue  # `<<`: what it brings in may be said again
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, (str, int)) and key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key if isinstance(key, (str, int)) else str(key))
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _set(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: is not KEY=VALUE; for example --set pretrain.code_ratio=0.3")
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: the value is not valid YAML") from error
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
        node[parts[-1]] = value


def _enter_stage(tree: dict[str, Any], parts: list[str]) -> tuple[Any, list[str]]:
    """`pretrain.tokens`, `stages.pretrain.tokens` and `stages.0.tokens` all name the same leaf."""
    stages = tree.get("stages")
    stages = stages if isinstance(stages, list) else []
    inner = parts[1:] if parts[0] == "stages" else parts
    for stage in stages:
        if len(inner) > 1 and isinstance(stage, dict) and stage.get("name") == inner[0]:
            return stage, inner[1:]
    return tree, parts


def _list_item(node: list, part: str, override: str) -> Any:
    if not part.isdigit() or int(part) >= len(node):
        raise UserError(f"--set {override}: {part} is not a place in a list of {len(node)}; use 0 to {len(node) - 1}")
    return node[int(part)]


def _is_search(node: Any) -> bool:
    return isinstance(node, dict) and "search" in node and len(node) == 1


def option_label(option: Any) -> Any:
    """What the sampler sees of an option: scalars as they are, anything else as compact YAML."""
    if option is None or isinstance(option, (bool, int, float, str)):
        return option
    return yaml.safe_dump(option, default_flow_style=True, width=10_000, sort_keys=False).strip()


def _walk(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """All search leaves of a tree with their paths, outermost first; does not enter them."""
    if _is_search(tree) and path:
        yield path, tree["search"]
    elif isinstance(tree, dict):
        for key, node in tree.items():
            yield from _walk(node, (*path, key))
    elif isinstance(tree, list):
        for place, node in enumerate(tree):
            yield from _walk(node, (*path, place))


def parameter_name(tree: Mapping[str, Any], path: tuple[Any, ...]) -> str:
    """Dotted path; a stage goes by its name: ('stages', 0, 'code_ratio') is `pretrain.code_ratio`."""
    if len(path) > 2 and path[0] == "stages":
        stage = tree["stages"][path[1]]
        path = (stage.get("name", path[1]) if isinstance(stage, dict) else path[1], *path[2:])
    return ".".join(str(part) for part in path)


def _find_domains(tree: dict[str, Any], origin: str) -> Iterator[tuple[str, Domain, tuple[str, str] | None]]:
    for path, spec in _walk(tree):
        name = parameter_name(tree, path)
        if path[0] in _UNSEARCHABLE or path == ("seed",):
            raise UserError(f"{origin}: {name} cannot be searched over; search in model, stages or evaluation")
        yield from _domains_at(name, spec, origin, None)


def _domains_at(
    name: str, spec: Any, origin: str, condition: tuple[str, str] | None
) -> Iterator[tuple[str, Domain, tuple[str, str] | None]]:
    domain = _domain(name, spec, origin)
    yield name, domain, condition
    for option in spec["choice"] if domain.kind == "choice" else ():
        for inner, inner_spec in _walk(option):
            inner_name = ".".join([name, *map(str, inner)])
            yield from _domains_at(inner_name, inner_spec, origin, (name, option_label(option)))


def _domain(name: str, spec: Any, origin: str) -> Domain:
    if not isinstance(spec, dict) or len(spec) != 1 or next(iter(spec)) not in _DOMAIN_KEYS:
        raise UserError(f"{origin}: {name}: search holds {spec!r}; use one of {', '.join(_DOMAIN_KEYS)}")
    kind, values = next(iter(spec.items()))
    if not isinstance(values, list) or not values:
        raise UserError(f"{origin}: {name}: {kind} holds {values!r}; give a list")
    if kind == "choice":
        labels = tuple(option_label(option) for option in values)
        if len(set(map(repr, labels))) != len(labels):
            raise UserError(f"{origin}: {name}: choice names an option twice: {values!r}; name each once")
        return Domain("choice", options=labels)
    try:
        low, high = (int(v) if kind == "int" else float(v) for v in values)
        whole = kind != "int" or all(float(v) == int(v) for v in values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{origin}: {name}: {kind} holds {values!r}; give two numbers, [low, high]") from error
    if not whole or not low < high or not math.isfinite(high - low) or (kind == "loguniform" and low <= 0):
        need = {"int": "two whole numbers", "loguniform": "two numbers over 0"}.get(kind, "two numbers")
        raise UserError(f"{origin}: {name}: {kind} holds {values!r}; give {need}, the lower first")
    return Domain(kind, low, high)


def resolve(file: SweepFile, params: Mapping[str, Any]) -> Sweep:
    """The sweep with `params` in the place of its search spaces; one that `params` leaves out takes its first value.

    Raises `UserError` naming the key, the value found and what would work.
    """
    tree = _substitute(file.tree, file.tree, (), params)
    try:
        return Sweep.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{file.origin}: {explain(error, tree)}") from error


def resolved_tree(file: SweepFile) -> dict[str, Any]:
    """The file as saved in the run folder: every default written out, search spaces kept where they stand."""
    tree = file.example().model_dump(mode="json", exclude_none=True)
    for path, spec in _walk(file.tree):
        node = tree
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = {"search": copy.deepcopy(spec)}
    return tree


def _substitute(node: Any, root: dict, path: tuple[Any, ...], params: Mapping[str, Any]) -> Any:
    if path and _is_search(node):
        name = parameter_name(root, path)
        return _choose(name, node["search"], params)
    if isinstance(node, dict):
        return {key: _substitute(child, root, (*path, key), params) for key, child in node.items()}
    if isinstance(node, list):
        return [_substitute(child, root, (*path, place), params) for place, child in enumerate(node)]
    return node


def _choose(name: str, spec: dict[str, Any], params: Mapping[str, Any]) -> Any:
    kind, values = next(iter(spec.items()))
    if kind != "choice":
        return params.get(name, values[0])
    option = next((o for o in values if option_label(o) == params.get(name, option_label(values[0]))), None)
    if option is None and None not in values:
        option = params[name]  # not an option: the validation or the caller says so with the value
    return _inside_option(option, name, params)


def _inside_option(node: Any, name: str, params: Mapping[str, Any]) -> Any:
    if _is_search(node):
        return _choose(name, node["search"], params)
    if isinstance(node, dict):
        return {key: _inside_option(child, f"{name}.{key}", params) for key, child in node.items()}
    if isinstance(node, list):
        return [_inside_option(child, f"{name}.{place}", params) for place, child in enumerate(node)]
    return node


def stages_kept(file: SweepFile) -> frozenset[str]:
    """Names of the stages whose optimizer state the stage after them may ask for, in any trial of the sweep."""
    stages = [stage for stage in file.tree.get("stages", ()) if isinstance(stage, dict)]
    pairs = itertools.pairwise(stages)
    return frozenset(str(before["name"]) for before, after in pairs if _mentions(after, "optimizer_state", "keep"))


def _mentions(node: Any, key: str, value: Any, inside: bool = False) -> bool:
    """Whether `value` stands under `key`, as it is or among the options of a search."""
    if isinstance(node, dict):
        return any(_mentions(child, key, value, inside or name == key) for name, child in node.items())
    if isinstance(node, list):
        return any(_mentions(child, key, value, inside) for child in node)
    return inside and node == value


def _check_enqueued(file: SweepFile) -> None:
    for number, point in enumerate(file.example().search.enqueue):
        for name, value in point.items():
            if name not in file.domains:
                known = suggest(name, file.domains)
                raise UserError(f"{file.origin}: search.enqueue.{number}: {name!r} is not searched over; {known}")
            domain = file.domains[name]
            inside = (
                option_label(value) in domain.options
                if domain.kind == "choice"
                else isinstance(value, (int, float)) and domain.low <= value <= domain.high
            )
            if not inside:
                space = list(domain.options) if domain.kind == "choice" else [domain.low, domain.high]
                raise UserError(
                    f"{file.origin}: search.enqueue.{number}.{name}: {value!r} is outside its search space {space}"
                )
