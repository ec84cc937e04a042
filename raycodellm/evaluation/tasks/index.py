"""lm-eval's index of the tasks that a sweep names, and of no others.

lm-eval indexes its tasks by parsing 14,000 YAML files, which takes 8 to 18 s in each process that evaluates. The
folders that hold the named tasks, and what they stand for, have a few files, which give the same entries.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm.evaluation.tasks.names import NamedTask, TaskNames
from raycodellm.evaluation.tasks.trees import members_of, trees
from raycodellm.tasks import FOLDER

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


@functools.lru_cache(maxsize=16)
def task_manager(names: tuple[str, ...], include: str | None = None) -> TaskManager:
    """lm-eval's index of the package's tasks, those of the folder `include`, and of lm-eval's own tasks, groups and
    tags `names` with all their members."""
    from lm_eval.tasks import TaskManager

    wanted = with_members(names, TaskNames(include).find)
    own = [FOLDER] if include is None else [FOLDER, Path(os.path.abspath(Path(include).expanduser()))]
    needed = (folder for named in wanted.values() if (folder := _folder(named, wanted)) is not None)
    folders = outermost(folder for folder in needed if not any(folder.is_relative_to(one) for one in own))
    # Of two tasks with one name lm-eval takes that of the later folder.
    manager = TaskManager(include_path=[*folders, *own], include_defaults=False)
    index = manager.task_index
    found = {name: NamedTask(one.yaml_path, _tagged(one)) for name in wanted if (one := index.get(name)) is not None}
    return manager if found == wanted else _whole(tuple(own))


@functools.cache
def _whole(own: tuple[Path, ...]) -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[str(folder) for folder in own])


def _folder(named: NamedTask, wanted: Mapping[str, NamedTask]) -> Path | None:
    """The folder that a name needs. A tag needs all its tasks in one, since lm-eval does not join those of several."""
    if named.file is not None:
        return named.file.parent
    files = [wanted[task].file for task in named.tagged]
    return Path(os.path.commonpath([file.parent for file in files if file is not None]))


def _tagged(entry: Any) -> tuple[str, ...]:
    return () if entry.yaml_path is not None else tuple(sorted(entry.tags))


def with_members(names: Iterable[str], find: Callable[[str], NamedTask | None]) -> dict[str, NamedTask]:
    """The named tasks, groups and tags, and all that they stand for, however deep. A task that its group's file spells
    out is in no index."""
    found: dict[str, NamedTask] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        named = None if name in found else find(name)
        if named is None:
            continue
        found[name] = named
        waiting += named.tagged
        if named.file is not None:
            waiting += (member for _, tree in trees(named.file.resolve()) for member in members_of(tree))
    return found


def outermost(folders: Iterable[Path]) -> list[Path]:
    """The folders without those inside another of them, sorted."""
    found = sorted(set(folders))
    return [folder for folder in found if not any(other in folder.parents for other in found)]
