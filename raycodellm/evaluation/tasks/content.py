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
from raycodellm.evaluation.data.lookup import DataFolder, FoundData
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
    known, folder = TaskNames(places.include), open_folder(places)
    sources_of(names, known, folder, elsewhere=elsewhere)  # tells of all tasks without data at once
    return {
        name: [
            name,
            *_content(name, known, frozenset()),
            *_far_data(name, known, folder, elsewhere),
            *text_content(name, places.texts),
            *asked_content(name, places.asking),
        ]
        for name in names
    }


def _far_data(name: str, known: TaskNames, folder: DataFolder | None, elsewhere: bool) -> Iterator[list[Any]]:
    """The data sets of the hub that the task reads: copies by content, others by commit, or by None where the commit is
    not known."""
    for source in sources_of([name], known, folder, elsewhere=elsewhere):
        wanted, found = source.wanted, source.found
        if found is None:
            yield ["hub", wanted.label, source.commit]
            continue
        hashes = dict(zip(found.files, _stored(found), strict=True))
        is_separated = any(file_format(file) in ("csv", "tsv") for file in found.files)
        version = [SEPARATED_VERSION] if is_separated else []
        splits = [[split, [hashes[file] for file in files]] for split, files in found.splits]
        yield ["data", wanted.label, splits, *version]


def _stored(found: FoundData) -> list[str]:
    try:
        return file_hashes.stored_hashes(found.folder, found.files)
    except OSError as error:
        raise UserError(f"evaluation.data: {found.folder}: cannot be read ({cause(error)})") from error


def data_files_of(names: Iterable[str], places: Places) -> list[Path]:
    """The local files in the folder of `evaluation.data` that the tasks read, and the cards of their data sets."""
    folder = open_folder(places)
    if folder is None or folder.folder.local is None:
        return []
    wanted = wanted_data(names, TaskNames(places.include))
    files = {file: None for one in wanted if (found := folder.find(one)) is not None for file in found.files}
    tops = {str(top) for file in files for top in PurePosixPath(file).parents}
    cards = (file for file in folder.files if file.endswith("/README.md") and str(PurePosixPath(file).parent) in tops)
    return [folder.folder.local / file for file in [*files, *cards]]


def included_files(names: Iterable[str], places: Places) -> list[Path]:
    """The files in the folder of `evaluation.include` that the tasks need; all YAML files of the folder where they need
    none, so that the folder exists where they are sent."""
    known = TaskNames(places.include)
    chosen = [known.included[name].file for name in with_members(names, known.find) if name in known.included]
    files = dict.fromkeys(path for file in chosen if file is not None for path in local_files(str(file)))
    every = (one.file for one in known.included.values() if one.file is not None)
    return [*files] or [*dict.fromkeys(every)]


def local_files(path: str) -> list[Path]:
    """The files that a task's YAML file at `path` needs: itself, the YAML files that it includes, the modules beside
    them, and local data that they name by relative paths. Raises UserError for a file that is no task."""
    files: dict[Path, None] = {}
    data: dict[Path, None] = {}
    for file, tree in trees(Path(os.path.abspath(path))):
        files[file] = None
        for function in functions_of(tree):
            beside = (one for one in module_files(function, file.parent) if one.is_relative_to(file.parent))
            files.update(dict.fromkeys(beside))
        for named in named_data(tree):
            if not named.startswith(("/", "~")):
                data.update(dict.fromkeys(Path(os.path.abspath(one)) for one in files_at(named)))
    return [*files, *data]


def _content(name: str, known: TaskNames, seen: frozenset[str]) -> list[Any]:
    if name in seen:
        return ["seen"]
    seen |= {name}
    if name in BUILTIN:
        parts = [path for place in (FOLDER / name, FOLDER) for path in sorted(place.glob("*.py"))]
        return ["files", _hashed([FOLDER / name / f"{name}.yaml", *parts])]
    if is_path(name):
        return _yaml_content(Path(name).expanduser(), known, seen)
    named = known.find(name) or NamedTask(None)  # a task that its group's file spells out has no name of its own
    found = _yaml_content(named.file, known, seen) if named.file is not None else []
    return [*found, *([member, *_content(member, known, seen)] for member in named.tagged)]


def _yaml_content(path: Path, known: TaskNames, seen: frozenset[str]) -> list[Any]:
    found = list(trees(path.resolve()))
    files = dict.fromkeys(file for file, _ in found)
    data: list[Any] = []
    members: list[str] = []
    for file, tree in found:
        for function in [*functions_of(tree), *reader_of(tree)]:
            files.update(dict.fromkeys(module_files(function, file.parent)))
        data += _near_data(tree)
        members += members_of(tree)
    hashed = _hashed(list(files))
    return ["files", hashed, *data, *([member, *_content(member, known, seen)] for member in members)]


def _near_data(tree: dict[str, Any]) -> Iterator[list[Any]]:
    """The data on this machine that `dataset_path` and `dataset_kwargs` name, by content."""
    for path in named_data(tree):
        yield ["data", path, _hashed(list(files_at(path)))]


def _hashed(files: list[Path]) -> list[list[str]]:
    try:
        return [[file.name, found] for file, found in zip(files, file_hashes.content_hashes(files), strict=True)]
    except OSError as error:
        raise UserError(f"evaluation.tasks: {error.filename}: cannot be read ({error.strerror})") from error
