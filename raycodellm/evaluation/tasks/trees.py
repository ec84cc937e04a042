"""The YAML trees of a task's or a group's file, without the functions that they name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from raycodellm.config import UserError
from raycodellm.evaluation.tasks.yaml_text import load_task


def trees(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Paths and trees of the YAML file and of the files that it includes, each once. Raises UserError for a file that
    cannot be read as a task."""
    yield from _trees(path, set())


def _trees(path: Path, seen: set[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    if path in seen:
        return
    seen.add(path)
    try:
        tree = load_task(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"evaluation.tasks: {path}: cannot be read as a task: {reason[:160]}") from error
    if not isinstance(tree, dict):
        raise UserError(f"evaluation.tasks: {path}: holds {type(tree).__name__}, not a task's keys and values")
    yield path, tree
    included = tree.get("include") or []
    for name in included if isinstance(included, list) else [included]:
        yield from _trees((path.parent / str(name)).resolve(), seen)


def merged_tree(path: Path) -> dict[str, Any]:
    """The keys of a YAML file with those of the files that it includes; of two files the including one, then the later
    one counts, as in lm-eval. Raises UserError for a file that cannot be read as a task."""
    trees_by_file = dict(trees(path.resolve()))
    return _merged(path.resolve(), trees_by_file, frozenset())


def _merged(path: Path, trees_by_file: dict[Path, dict[str, Any]], including: frozenset[Path]) -> dict[str, Any]:
    own = trees_by_file[path]
    included = own.get("include") or []
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        included_path = (path.parent / str(name)).resolve()
        if included_path not in including:  # lm-eval refuses a circle when it loads the task
            merged |= _merged(included_path, trees_by_file, including | {path})
    return merged | own


def group_members(file: Path) -> Iterator[str]:
    """Names of the tasks and groups that a group's file, or a file that it includes, lists."""
    for _, tree in trees(file.resolve()):
        yield from members_of(tree)


def members_of(tree: dict[str, Any]) -> Iterator[str]:
    """Names of the tasks and groups that a group's tree lists, also inside groups that the tree spells out."""
    members = tree.get("task")
    for member in members if isinstance(members, list) else []:
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict):
            yield from (name for key in ("task", "group") if isinstance(name := member.get(key), str))
            yield from members_of(member)
