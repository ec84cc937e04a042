"""The content that identifies a task: its YAML files, and the Python modules and data that they name.

No task is run or imported here. lm-eval's own tasks and the built-in ones are identified by their files as well, so
that an edited task is another task whatever version its package has.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from raycodellm.config import UserError
from raycodellm.evaluation.data.lookup import DataCopy, DataFolder
from raycodellm.evaluation.data.names import file_format
from raycodellm.evaluation.data.reading import SEPARATED_VERSION
from raycodellm.evaluation.data.sources import open_folder, sources_of
from raycodellm.evaluation.tasks.data_of_tasks import wanted_data
from raycodellm.evaluation.tasks.index import with_members
from raycodellm.evaluation.tasks.loading import check_tasks
from raycodellm.evaluation.tasks.names import NOWHERE, NamedTask, Places, TaskNames, is_path
from raycodellm.evaluation.tasks.near_files import files_at, functions_of, module_files, named_data, reader_of
from raycodellm.evaluation.tasks.trees import members_of, trees
from raycodellm.evaluation.texts.held_out import text_content
from raycodellm.evaluation.win_rate.open_instructions import asked_content
from raycodellm.files import cause
from raycodellm.identity import file_hashes
from raycodellm.tasks import BUILTIN, FOLDER


@functools.cache
def lm_eval_version() -> str:
    return importlib.metadata.version("lm_eval")


def task_content(name: str, places: Places = NOWHERE) -> list[Any]:
    """JSON values of everything, besides the model, that the task's results depend on. Raises UserError for an unknown
    task, and for one whose data lies nowhere."""
    return task_contents([name], places)[name]


def task_contents(names: Iterable[str], places: Places = NOWHERE, *, elsewhere: bool = False) -> dict[str, list[Any]]:
    """The content of each task; see `task_content`. `elsewhere` as in `find_data`."""
    names = list(names)
    check_tasks(names, places)
    task_names, folder = TaskNames(places.include), open_folder(places)
    sources_of(names, task_names, folder, elsewhere=elsewhere)  # names all tasks without data in one error
    return {
        name: [
            name,
            *_content(name, task_names, frozenset()),
            *_far_data(name, task_names, folder, elsewhere),
            *text_content(name, places.texts),
            *asked_content(name, places.asking),
        ]
        for name in names
    }


def _far_data(name: str, task_names: TaskNames, folder: DataFolder | None, elsewhere: bool) -> Iterator[list[Any]]:
    """The data sets of the hub that the task reads: copies by content, others by commit, or by None where the commit is
    not known."""
    for source in sources_of([name], task_names, folder, elsewhere=elsewhere):
        data_set, copy = source.data_set, source.copy
        if copy is None:
            yield ["hub", data_set.label, source.commit]
            continue
        hash_of_file = dict(zip(copy.files, _stored_hashes(copy), strict=True))
        is_separated = any(file_format(file) in ("csv", "tsv") for file in copy.files)
        version = [SEPARATED_VERSION] if is_separated else []
        splits = [[split, [hash_of_file[file] for file in files]] for split, files in copy.splits]
        yield ["data", data_set.label, splits, *version]


def _stored_hashes(copy: DataCopy) -> list[str]:
    try:
        return file_hashes.stored_hashes(copy.folder, copy.files)
    except OSError as error:
        raise UserError(f"evaluation.data: {copy.folder}: cannot be read ({cause(error)})") from error


def data_files_of(names: Iterable[str], places: Places) -> list[Path]:
    """The local files in the folder of `evaluation.data` that the tasks read, and the cards of their data sets."""
    data_folder = open_folder(places)
    if data_folder is None or data_folder.folder.local is None:
        return []
    data_sets = wanted_data(names, TaskNames(places.include))
    copies = [copy for data_set in data_sets if (copy := data_folder.find(data_set)) is not None]
    files = dict.fromkeys(file for copy in copies for file in copy.files)
    folders = {str(folder) for file in files for folder in PurePosixPath(file).parents}
    readmes = (file for file in data_folder.files if file.endswith("/README.md"))
    cards = (file for file in readmes if str(PurePosixPath(file).parent) in folders)
    return [data_folder.folder.local / file for file in [*files, *cards]]


def included_files(names: Iterable[str], places: Places) -> list[Path]:
    """The files in the folder of `evaluation.include` that the tasks need; all YAML files of the folder where they need
    none, so that the folder exists where they are sent."""
    task_names = TaskNames(places.include)
    included = task_names.included
    task_files = [included[name].file for name in with_members(names, task_names.find) if name in included]
    files = dict.fromkeys(path for file in task_files if file is not None for path in local_files(str(file)))
    all_files = (task.file for task in included.values() if task.file is not None)
    return [*files] or [*dict.fromkeys(all_files)]


def local_files(path: str) -> list[Path]:
    """The files that a task's YAML file at `path` needs: itself, the YAML files that it includes, the modules beside
    them, and local data that they name by relative paths. Raises UserError for a file that is no task."""
    files: dict[Path, None] = {}
    data: dict[Path, None] = {}
    for file, tree in trees(Path(os.path.abspath(path))):
        files[file] = None
        for function in functions_of(tree):
            modules = module_files(function, file.parent)
            files.update(dict.fromkeys(module for module in modules if module.is_relative_to(file.parent)))
        for data_path in named_data(tree):
            if not data_path.startswith(("/", "~")):
                data.update(dict.fromkeys(Path(os.path.abspath(data_file)) for data_file in files_at(data_path)))
    return [*files, *data]


def _content(name: str, task_names: TaskNames, seen: frozenset[str]) -> list[Any]:
    if name in seen:
        return ["seen"]
    seen |= {name}
    if name in BUILTIN:
        modules = [path for folder in (FOLDER / name, FOLDER) for path in sorted(folder.glob("*.py"))]
        return ["files", _names_and_hashes([FOLDER / name / f"{name}.yaml", *modules])]
    if is_path(name):
        return _yaml_content(Path(name).expanduser(), task_names, seen)
    # A task that its group's file spells out has no name of its own.
    named_task = task_names.find(name) or NamedTask(None)
    file_content = _yaml_content(named_task.file, task_names, seen) if named_task.file is not None else []
    return [*file_content, *([member, *_content(member, task_names, seen)] for member in named_task.tagged)]


def _yaml_content(path: Path, task_names: TaskNames, seen: frozenset[str]) -> list[Any]:
    trees_by_file = dict(trees(path.resolve()))
    files = dict.fromkeys(trees_by_file)
    data: list[Any] = []
    members: list[str] = []
    for file, tree in trees_by_file.items():
        for function in [*functions_of(tree), *reader_of(tree)]:
            files.update(dict.fromkeys(module_files(function, file.parent)))
        data += _near_data(tree)
        members += members_of(tree)
    hashed_files = _names_and_hashes(list(files))
    return ["files", hashed_files, *data, *([member, *_content(member, task_names, seen)] for member in members)]


def _near_data(tree: dict[str, Any]) -> Iterator[list[Any]]:
    """The data on this machine that `dataset_path` and `dataset_kwargs` name, by content."""
    for path in named_data(tree):
        yield ["data", path, _names_and_hashes(list(files_at(path)))]


def _names_and_hashes(files: list[Path]) -> list[list[str]]:
    try:
        return [[file.name, digest] for file, digest in zip(files, file_hashes.content_hashes(files), strict=True)]
    except OSError as error:
        raise UserError(f"evaluation.tasks: {error.filename}: cannot be read ({error.strerror})") from error
