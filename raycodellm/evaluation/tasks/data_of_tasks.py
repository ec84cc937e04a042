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


def wanted_data(names: Iterable[str], task_names: TaskNames) -> list[WantedData]:
    """The data sets of the hub that the named tasks, and the members of named groups, read. A task whose data a
    function makes, or whose files are on this machine, wants none."""
    data_sets = (_data_of_task(task, tree) for name in names for task, tree in task_trees(name, task_names))
    return list(dict.fromkeys(data_set for data_set in data_sets if data_set is not None))


def task_trees(name: str, task_names: TaskNames) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, merged YAML tree) of the task, or of each task that a group or tag stands for."""
    if is_path(name):
        tree = _task_tree(Path(name).expanduser())
        yield from _leaf_trees(str(tree.get("task", name)), tree, task_names, frozenset())
        return
    for member, named_task in with_members([name], task_names.find).items():
        if named_task.file is not None:
            yield from _leaf_trees(member, _task_tree(named_task.file), task_names, frozenset({name}))


def _task_tree(file: Path) -> dict[str, Any]:
    tree = merged_tree(file)
    return {**tree, **class_tree(tree, file.parent)}


def _leaf_trees(
    name: str, tree: dict[str, Any], task_names: TaskNames, seen: frozenset[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, tree) of the task itself; for a group, of each task that its file spells out or whose settings it
    changes."""
    members = tree.get("task")
    if not isinstance(members, list):
        yield name, tree
        return
    for member in members:
        if not isinstance(member, dict):
            continue
        inner_task = member.get("task")
        if isinstance(inner_task, str) and inner_task not in seen:
            named_task = task_names.find(inner_task)
            base = _task_tree(named_task.file) if named_task is not None and named_task.file is not None else {}
            yield from _leaf_trees(inner_task, {**base, **member}, task_names, seen | {inner_task})
        elif isinstance(inner_task, list):
            yield from _leaf_trees(str(member.get("group", name)), member, task_names, seen)


def _data_of_task(task: str, tree: Mapping[str, Any]) -> WantedData | None:
    path, config = tree.get("dataset_path"), tree.get("dataset_name")
    if not isinstance(path, str) or isinstance(path, Tagged) or tree.get("custom_dataset") is not None:
        return None
    files = data_files(tree)
    if Path(path).expanduser().exists() or any(Path(file).expanduser().exists() for file in files):
        return None
    if path in FILE_READERS and not any("://" in file for file in files):
        return None
    metadata = tree.get("metadata")
    release_names = metadata.get("files") if isinstance(metadata, dict) else None
    fewshot = tree.get("fewshot_config")
    named_splits = [tree.get(f"{key}_split") for key in ("test", "validation", "training", "fewshot")]
    named_splits.append(fewshot.get("split") if isinstance(fewshot, dict) else None)
    splits = [split for split in named_splits if isinstance(split, str)]
    config = str(config) if config is not None else None
    return WantedData(
        path=path,
        config=config,
        revision=_revision(tree.get("dataset_kwargs")),
        task=task,
        evaluated=splits[0] if splits else "test",
        joined=_joined_splits(tree.get("dataset_kwargs"), splits[0] if splits else "test"),
        others=tuple(dict.fromkeys(splits[1:])),
        files=tuple(dict.fromkeys([*(release_names or ()), *release_files(path, config), *map(_file_name, files)])),
        data_files=tuple(files),
        file_splits=tuple(_file_splits(tree)),
        reader=metadata.get("reader") if isinstance(metadata, dict) else None,
    )


def _file_splits(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    dataset_kwargs = tree.get("dataset_kwargs")
    files = dataset_kwargs.get("data_files") if isinstance(dataset_kwargs, dict) else None
    for split, split_files in files.items() if isinstance(files, dict) else ():
        yield from ((_file_name(file), str(split)) for file in _strings_in(split_files))


def _revision(dataset_kwargs: Any) -> str | None:
    revision = dataset_kwargs.get("revision") if isinstance(dataset_kwargs, dict) else None
    return str(revision) if revision is not None else None


def _joined_splits(dataset_kwargs: Any, evaluated: str) -> tuple[str, ...]:
    """The splits in `dataset_kwargs: {split: {test: train+test}}`."""
    split = dataset_kwargs.get("split") if isinstance(dataset_kwargs, dict) else None
    text = split.get(evaluated) if isinstance(split, dict) else None
    return tuple(text.split("+")) if isinstance(text, str) else ()


def _file_name(file: str) -> str:
    return PurePosixPath(file.partition("?")[0]).name


def data_files(tree: Mapping[str, Any]) -> list[str]:
    """The paths and addresses in a task's `dataset_kwargs`."""
    dataset_kwargs = tree.get("dataset_kwargs")
    dataset_kwargs = dataset_kwargs if isinstance(dataset_kwargs, dict) else {}
    return [path for key in ("data_files", "data_dir") for path in _strings_in(dataset_kwargs.get(key))]


def _strings_in(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, (list, dict)):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _strings_in(value)
