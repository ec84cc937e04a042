"""The data sets that tasks read, as their YAML files say. No task is loaded and no code is run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from raycodellm.evaluation.data.lookup import WantedData
from raycodellm.evaluation.data.releases import release_files
from raycodellm.evaluation.tasks.classes import class_tree
from raycodellm.evaluation.tasks.index import with_members
from raycodellm.evaluation.tasks.names import TaskNames, is_path
from raycodellm.evaluation.tasks.trees import merged_tree
from raycodellm.evaluation.tasks.yaml_text import Tagged

FILE_READERS = frozenset({"json", "csv", "parquet", "text", "arrow", "imagefolder", "xml", "webdataset"})
"""Values of `dataset_path` that name a reader of files in `datasets`, not a data set."""


def wanted_data(names: Iterable[str], known: TaskNames) -> list[WantedData]:
    """The data sets of the hub that the named tasks, and the members of named groups, read. A task whose data a
    function makes, or whose files are on this machine, wants none."""
    found = (wanted for name in names for task, tree in task_trees(name, known) if (wanted := _wanted(task, tree)))
    return list(dict.fromkeys(found))


def task_trees(name: str, known: TaskNames) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, merged YAML tree) of the task, or of each task that a group or tag stands for."""
    if is_path(name):
        tree = _tree(Path(name).expanduser())
        yield from _leaves(str(tree.get("task", name)), tree, known, frozenset())
        return
    for member, named in with_members([name], known.find).items():
        if named.file is not None:
            yield from _leaves(member, _tree(named.file), known, frozenset({name}))


def _tree(file: Path) -> dict[str, Any]:
    tree = merged_tree(file)
    return {**tree, **class_tree(tree, file.parent)}


def _leaves(
    name: str, tree: dict[str, Any], known: TaskNames, seen: frozenset[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The task itself; of a group the tasks that its file spells out, and those whose settings it changes."""
    members = tree.get("task")
    if not isinstance(members, list):
        yield name, tree
        return
    for member in members:
        if not isinstance(member, dict):
            continue
        inner = member.get("task")
        if isinstance(inner, str) and inner not in seen:
            named = known.find(inner)
            base = _tree(named.file) if named is not None and named.file is not None else {}
            yield from _leaves(inner, {**base, **member}, known, seen | {inner})
        elif isinstance(inner, list):
            yield from _leaves(str(member.get("group", name)), member, known, seen)


def _wanted(task: str, tree: Mapping[str, Any]) -> WantedData | None:
    path, config = tree.get("dataset_path"), tree.get("dataset_name")
    if not isinstance(path, str) or isinstance(path, Tagged) or tree.get("custom_dataset") is not None:
        return None
    files = data_files(tree)
    if Path(path).expanduser().exists() or any(Path(file).expanduser().exists() for file in files):
        return None
    if path in FILE_READERS and not any("://" in file for file in files):
        return None
    metadata = tree.get("metadata")
    listed = metadata.get("files") if isinstance(metadata, dict) else None
    fewshot = tree.get("fewshot_config")
    named = [tree.get(f"{key}_split") for key in ("test", "validation", "training", "fewshot")]
    named.append(fewshot.get("split") if isinstance(fewshot, dict) else None)
    splits = [split for split in named if isinstance(split, str)]
    config = str(config) if config is not None else None
    return WantedData(
        path=path,
        config=config,
        revision=_revision(tree.get("dataset_kwargs")),
        task=task,
        evaluated=splits[0] if splits else "test",
        joined=_joined(tree.get("dataset_kwargs"), splits[0] if splits else "test"),
        others=tuple(dict.fromkeys(splits[1:])),
        files=tuple(dict.fromkeys([*(listed or ()), *release_files(path, config), *map(_base, files)])),
        data_files=tuple(files),
        file_splits=tuple(_file_splits(tree)),
        reader=metadata.get("reader") if isinstance(metadata, dict) else None,
    )


def _file_splits(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    given = tree.get("dataset_kwargs")
    files = given.get("data_files") if isinstance(given, dict) else None
    for split, some in files.items() if isinstance(files, dict) else ():
        yield from ((_base(file), str(split)) for file in _texts(some))


def _revision(given: Any) -> str | None:
    found = given.get("revision") if isinstance(given, dict) else None
    return str(found) if found is not None else None


def _joined(given: Any, evaluated: str) -> tuple[str, ...]:
    """The splits in `dataset_kwargs: {split: {test: train+test}}`."""
    split = given.get("split") if isinstance(given, dict) else None
    text = split.get(evaluated) if isinstance(split, dict) else None
    return tuple(text.split("+")) if isinstance(text, str) else ()


def _base(file: str) -> str:
    return PurePosixPath(file.partition("?")[0]).name


def data_files(tree: Mapping[str, Any]) -> list[str]:
    """The paths and addresses in a task's `dataset_kwargs`."""
    given = tree.get("dataset_kwargs")
    given = given if isinstance(given, dict) else {}
    return [path for key in ("data_files", "data_dir") for path in _texts(given.get(key))]


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, (list, dict)):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _texts(value)
