"""Pydantic's errors in the words of the sweep file: the key, the value found, what would work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from raycodellm.config.errors import nearest, shown, suggest
from raycodellm.config.field_types import NAME_PATTERN
from raycodellm.config.old_spellings import STAGE_SETTINGS
from raycodellm.config.source_settings import KINDS
from raycodellm.config.stage_settings import Stage
from raycodellm.config.sweep_settings import Sweep

_MOST_FAULTS = 3
"""Most faults named in one message."""
_HINTS = {
    "model": "for example model: {preset: tiny}",
    "tokenizer": "for example tokenizer: {train: {vocab_size: 4096}}",
    "sources": "for example sources: {books: {kind: text, path: books/}}",
    "stages": "give at least one, with name, tokens, sequence_length, batch_tokens, learning_rate and a mixture; "
    "or [], to evaluate given models",
    "evaluation": "for example evaluation: {tasks: [boxes], limit: 200}",
    "search": "for example search: {trials: 6}, or search: {sampler: grid}",
    "learning_rate": "for example learning_rate: {peak: 3.0e-3}",
    "objective": "for example objective: {metric: mean/bpb, mode: min}",
    "peak": "the highest learning rate, for example 3.0e-3",
    "kind": f"one of {', '.join(KINDS)}",
    "reference": "for example reference: {pretrain.code_ratio: 0.0}",
    "confirm": "for example confirm: {best: 2, seeds: [2, 4, 8], margin: 0.01}",
    "seeds": "for example seeds: [2, 4, 8]",
    "pairs": "for example pairs: [[base, other]]",
    "margin": "give a number over 0, or such numbers by unit or metric, for example margin: {bpb: 0.01, acc: 0.02}",
    "constraints": "for example constraints: [{metric: boxes/acc, mode: max, bound: 0.2}]",
    "early_stopping": "for example early_stopping: {metric: bpb/prose, at: [0.25, 0.5], keep: 0.5}",
    "at": "for example at: [0.25, 0.5]",
    "judge": "for example judge: {base_url: http://localhost:8000/v1, model: judge-name}",
    "judge.model": "the judge's name at its endpoint, for example model: judge-name",
    "warm_start": "for example warm_start: [first-sweep]",
    "budget": "for example budget: {tokens: 2e9, wall_hours: 12}",
    "ladder": "for example ladder: {presets: [tiny, mini, nano]}",
    "ladder.learning_rate": "for example learning_rate: {tiny: 1, nano: 0.4}",
    "presets": "for example presets: [tiny, mini, nano]",
}
"""Maps a key, or a path where the key alone says too little, to what could stand there."""


def explain(error: ValidationError, tree: dict[str, Any]) -> str:
    """The faults of `tree` in one line."""
    # For a refused item of a tuple, pydantic also calls the tuple too short; only the first of the two errors is news.
    items = [item for item in error.errors() if item["type"] != "too_short" or not item["input"]]
    # Where a setting may be one mapping or a list of them, the mapping is what a user meant who gave neither.
    mappings = {item["loc"][:-1] for item in items if item["type"] == "model_type"}
    items = [item for item in items if item["type"] != "tuple_type" or item["loc"][:-1] not in mappings]
    inside = {item["loc"][:place] for item in items for place in range(len(item["loc"]) - 1)}
    items = [item for item in items if item["type"] != "tuple_type" or item["loc"][:-1] not in inside]
    faults = _merge_faults(dict.fromkeys(_explain_one(item, tree) for item in _without_misspelt(_one_branch(items))))
    more = f"; and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
    return "; ".join(faults[:_MOST_FAULTS]) + more


def _merge_faults(faults: Iterable[str]) -> list[str]:
    """The faults, those of one value in one: a setting may be a number or a word."""
    ways_of: dict[str, list[tuple[str, str]]] = {}
    for fault in faults:
        subject, separator, requirement = fault.partition("; must be ")
        allowed, sign, hint = requirement.partition("; ")
        ways_of.setdefault(subject if separator else fault, []).extend([(allowed, sign + hint)] if separator else [])
    return [
        f"{subject}; must be {' or '.join(allowed for allowed, _ in ways)}{''.join(hint for _, hint in ways)}"
        if ways
        else subject
        for subject, ways in ways_of.items()
    ]


def _one_branch(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The errors without those of the branch that a user did not mean, where a setting may be a number or a mapping.

    A mapping was meant as one, and a number as a number. Anything else is told once, with both that would work.
    """
    retained = list(items)
    for mapping in [item for item in items if item["type"] == "dict_type"]:
        siblings = [item for item in items if item["loc"][:-1] == mapping["loc"][:-1] and item is not mapping]
        is_number = isinstance(mapping["input"], (int, float)) and not isinstance(mapping["input"], bool)
        for sibling in [mapping] if siblings and is_number else siblings:
            retained.remove(sibling)
    inside = {
        tuple(item["loc"][:place]) for item in retained for place, part in enumerate(item["loc"]) if _is_mapping(part)
    }
    return [item for item in retained if item["loc"][:-1] not in inside or _is_mapping(item["loc"][-1])]


def _without_misspelt(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The errors without a missing key that stands beside its misspelling: the unknown key names it already."""
    unknown = [item["loc"] for item in items if item["type"] == "extra_forbidden"]
    return [
        item
        for item in items
        if item["type"] != "missing"
        or not any(loc[:-1] == item["loc"][:-1] and nearest(loc[-1], [item["loc"][-1]]) for loc in unknown)
    ]


def _is_mapping(part: Any) -> bool:
    """True for the name by which pydantic calls a mapping among the branches of a union."""
    return isinstance(part, str) and part.startswith("dict[")


def _explain_one(item: Mapping[str, Any], tree: dict[str, Any]) -> str:
    path = tuple(part for part in _path_in(tree, item["loc"]) if part != "[key]")  # pydantic's word for a name
    key = _path_text(tree, path)
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_suggest_key(path)}"
    if item["type"] == "missing":
        return f"{key}: is missing; {_hint(path)}"
    if item["type"] == "value_error":
        message = item["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    message = _remedy(item, path)
    return f"{key}: found {shown(item['input'])}; {message[0].lower()}{message[1:]}"


def _remedy(item: Mapping[str, Any], path: tuple[Any, ...]) -> str:
    """Tells what would work in the place of the value found, in the words of YAML and not of Python."""
    kind, keys = item["type"], [part for part in path if isinstance(part, str)]
    example = _HINTS.get(".".join(keys[-2:]), _HINTS.get(keys[-1] if keys else ""))
    shapes = {
        "model_type": "give keys and values in braces",
        "dict_type": "give keys and values in braces",
        "tuple_type": "give a list in brackets",
        "list_type": "give a list in brackets",
    }
    if kind in shapes and example and not example.startswith("for example"):
        return example
    if kind in shapes:
        return f"{shapes[kind]}, {example}" if example else shapes[kind]
    if kind == "too_short":
        return "give at least one"
    if kind == "too_long" and "max_length" in item.get("ctx", {}):
        return f"give {item['ctx']['max_length']} values at most"
    words = {
        "bool_type": "must be true or false",
        "bool_parsing": "must be true or false",
        "string_type": f"must be text{'; put it in quotes' if isinstance(item['input'], (bool, int, float)) else ''}",
    }
    if kind == "string_pattern_mismatch" and item["ctx"]["pattern"] == NAME_PATTERN:
        return "use letters, digits, - and _ alone"
    message: str = words.get(kind, item["msg"].replace("Input should", "must"))
    return message


def _path_in(tree: Any, places: tuple[Any, ...]) -> tuple[Any, ...]:
    """The path of an error in the file: pydantic's path without the branches of unions that it names in between."""
    path: list[Any] = []
    for part in places:
        inside = range(len(tree)) if isinstance(tree, list) else tree if isinstance(tree, dict) else ()
        if part in inside:
            tree = tree[part]
        elif _is_union_branch(part):
            continue
        path.append(part)
    return tuple(path)


def _is_union_branch(part: Any) -> bool:
    """True for the name by which pydantic calls a branch of a union in an error's path; the file has no such key."""
    return isinstance(part, str) and (
        part in ("Objective", "str", "int", "float")
        or part.startswith(("function-", "tuple", "constrained-", "literal", "dict["))
    )


def _path_text(tree: dict[str, Any], path: tuple[Any, ...]) -> str:
    """The path as text, a stage by its name: `stages.pretrain.tokens`."""
    if len(path) > 1 and path[0] == "stages" and isinstance(path[1], int):
        try:
            path = ("stages", tree["stages"][path[1]]["name"], *path[2:])
        except (KeyError, TypeError, IndexError):
            path = ("stages", path[1], *path[2:])
    return ".".join(str(part) if len(str(part)) <= 60 else shown(part) for part in path)


def _suggest_key(path: tuple[Any, ...]) -> str:
    """The hint for an unknown key: the known key that was probably meant, or the known keys."""
    model: Any = Sweep
    for part in path[:-1]:
        if isinstance(part, int):
            continue
        fields = getattr(model, "model_fields", None)
        if fields is None or part not in fields:
            continue  # a key of a mapping, such as a source's name: its model was already entered
        model = _model_inside(fields[part].annotation) or model
    paths = {key: key for key in model.model_fields}
    if model is Stage:
        paths = {old_key: ".".join(path) for old_key, path in STAGE_SETTINGS.items()} | paths
        paths = {key: f"{group}.{key}" for group, key in STAGE_SETTINGS.values()} | paths
    nearest_key = nearest(path[-1], paths)
    return f"did you mean {paths[nearest_key]!r}?" if nearest_key else suggest(path[-1], model.model_fields)


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        model = _model_inside(argument)
        if model is not None:
            return model
    return None


def _hint(path: tuple[Any, ...]) -> str:
    if isinstance(path[-1], int):
        return "give a value more"
    return _HINTS.get(".".join(map(str, path[-2:]))) or _HINTS.get(str(path[-1]), f"add {path[-1]}")
