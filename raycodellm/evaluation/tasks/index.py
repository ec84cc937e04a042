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
    """lm-eval's index of the package's tasks, of the tasks in the folder `include`, and of lm-eval's own tasks, groups
    and tags `names` with all their members."""
    from lm_eval.tasks import TaskManager

    tasks_by_name = with_members(names, TaskNames(include).find)
    own_folders = [FOLDER] if include is None else [FOLDER, Path(os.path.abspath(Path(include).expanduser()))]
    task_folders = [_folder(named_task, tasks_by_name) for named_task in tasks_by_name.values()]
    folders = outermost(
        folder for folder in task_folders if not any(folder.is_relative_to(own_folder) for own_folder in own_folders)
    )
    # Of two tasks with one name lm-eval takes that of the later folder.
    manager = TaskManager(include_path=[*folders, *own_folders], include_defaults=False)
    index = manager.task_index
    indexed = {
        name: NamedTask(entry.yaml_path, _tagged(entry))
        for name in tasks_by_name
        if (entry := index.get(name)) is not None
    }
    return manager if indexed == tasks_by_name else _whole_index(tuple(own_folders))


@functools.cache
def _whole_index(own_folders: tuple[Path, ...]) -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[str(folder) for folder in own_folders])


def _folder(named_task: NamedTask, tasks_by_name: Mapping[str, NamedTask]) -> Path:
    """The folder of a name's file; for a tag the folder above all its tasks, since lm-eval does not join a tag's tasks
    of several folders."""
    if named_task.file is not None:
        return named_task.file.parent
    files = [tasks_by_name[task].file for task in named_task.tagged]
    return Path(os.path.commonpath([file.parent for file in files if file is not None]))


def _tagged(entry: Any) -> tuple[str, ...]:
    return () if entry.yaml_path is not None else tuple(sorted(entry.tags))


def with_members(names: Iterable[str], find: Callable[[str], NamedTask | None]) -> dict[str, NamedTask]:
    """The named tasks, groups and tags, and all that they stand for, however deep. A task that its group's file spells
    out is in no index."""
    tasks_by_name: dict[str, NamedTask] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        named_task = None if name in tasks_by_name else find(name)
        if named_task is None:
            continue
        tasks_by_name[name] = named_task
        waiting += named_task.tagged
        if named_task.file is not None:
            waiting += (member for _, tree in trees(named_task.file.resolve()) for member in members_of(tree))
    return tasks_by_name


def outermost(folders: Iterable[Path]) -> list[Path]:
    """The folders that lie in none of the other folders, sorted."""
    distinct = sorted(set(folders))
    return [folder for folder in distinct if not any(other in folder.parents for other in distinct)]
