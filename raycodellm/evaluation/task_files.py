"""A task by content: its YAML files, and the Python modules and data that they name.

Nothing of a task is run or imported here. lm-eval's own tasks and the built-in ones enter through their files as well,
so that an edited one is another task whatever version its package says.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from raycodellm.config import UserError
from raycodellm.evaluation.loading import check_tasks, is_path, known_task
from raycodellm.identity import file_hashes, hub_commits
from raycodellm.tasks import BUILTIN, FOLDER

_DATA_FORMATS = frozenset({"json", "csv", "parquet", "text", "arrow", "imagefolder", "xml", "webdataset"})
"""Names that `datasets` has for readers of files, in the place of a data set's name."""


class _Loader(yaml.SafeLoader):
    """Leaves functions and other tags as what is written."""


_Loader.add_multi_constructor("!", lambda loader, tag, node: _Tagged(tag, getattr(node, "value", None)))


class _Tagged(str):
    """`!function module.name`."""

    def __new__(cls, tag: str, value: Any) -> _Tagged:
        made = super().__new__(cls, f"!{tag} {value}")
        made.function = str(value) if tag == "function" else None
        return made


def lm_eval_version() -> str:
    return importlib.metadata.version("lm_eval")


def task_content(name: str) -> list[Any]:
    """JSON values of all that the task's results depend on beside the model. Raises UserError for an unknown task."""
    check_tasks([name])
    return [name, *_content(name, frozenset())]


def _content(name: str, seen: frozenset[str]) -> list[Any]:
    if name in seen:
        return ["seen"]
    seen |= {name}
    if name in BUILTIN:
        parts = [path for place in (FOLDER / name, FOLDER) for path in sorted(place.glob("*.py"))]
        return ["files", _hashed([FOLDER / name / f"{name}.yaml", *parts])]
    if is_path(name):
        return _yaml_content(Path(name).expanduser(), seen)
    file, members = known_task(name)
    found = _yaml_content(file, seen) if file is not None else []
    return [*found, *([member, *_content(member, seen)] for member in members)]


def _yaml_content(path: Path, seen: frozenset[str]) -> list[Any]:
    files: dict[Path, None] = {}
    trees = list(_trees(path.resolve(), files))
    data, members = [], []
    for file, tree in trees:
        for function in _functions(tree):
            files.update(dict.fromkeys(_module_files(function, file.parent)))
        data += _data(tree)
        members += _members(tree)
    hashed = _hashed(list(files))
    return ["files", hashed, *data, *([member, *_content(member, seen)] for member in members)]


def _trees(path: Path, files: dict[Path, None]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The YAML file and those that it includes."""
    if path in files:
        return
    files[path] = None
    try:
        tree = yaml.load(path.read_bytes(), Loader=_Loader)
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"evaluation.tasks: {path}: cannot be read as a task: {reason[:160]}") from error
    if not isinstance(tree, dict):
        raise UserError(f"evaluation.tasks: {path}: holds {type(tree).__name__}, not a task's keys and values")
    yield path, tree
    included = tree.get("include") or []
    for name in included if isinstance(included, list) else [included]:
        yield from _trees((path.parent / str(name)).resolve(), files)


def _functions(node: Any) -> Iterator[str]:
    if isinstance(node, _Tagged) and node.function:
        yield node.function
    elif isinstance(node, dict):
        for value in node.values():
            yield from _functions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _functions(value)


def _module_files(function: str, folder: Path) -> Iterator[Path]:
    """The file that `module.name` stands in, and those beside it that it imports; as lm-eval finds it: beside the YAML
    file first, then among what is installed."""
    module = function.rpartition(".")[0]
    waiting, found = [module], set()
    while waiting:
        name = waiting.pop()
        path = folder / f"{name.replace('.', '/')}.py"
        if name == module and not path.is_file():
            path = _installed(name)
        if path is None or not path.is_file() or path in found:
            continue
        found.add(path)
        yield path
        waiting += _imported(path)


def _installed(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None  # lm-eval says so when it loads the task
    return Path(spec.origin) if spec is not None and spec.origin else None


def _imported(path: Path) -> list[str]:
    """Names of the modules that a file imports, relative ones as beside it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module] if node.module else [alias.name for alias in node.names]
    return names


def _data(tree: dict[str, Any]) -> Iterator[list[Any]]:
    """The data that a task's `dataset_path` and `dataset_kwargs` name: local files by content, a data set of the hub by
    its commit, where one is known."""
    named = tree.get("dataset_path")
    given = tree.get("dataset_kwargs")
    given = given if isinstance(given, dict) else {}
    paths = [path for key in ("data_files", "data_dir") for path in _texts(given.get(key))]
    if isinstance(named, str) and not isinstance(named, _Tagged):
        if Path(named).expanduser().exists():
            paths.append(named)
        elif named not in _DATA_FORMATS and not any("://" in path for path in paths):
            yield ["hub", named, _commit(named)]
    for path in paths:
        yield ["data", path, _hashed(list(_local_files(path)))]


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, (list, dict)):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _texts(value)


def _local_files(path: str) -> Iterator[Path]:
    """A file, the files of a folder, or those of a glob; none where the path is no local one."""
    place = Path(path).expanduser()
    if place.is_file():
        yield place
    elif place.is_dir():
        yield from sorted(inner for inner in place.rglob("*") if inner.is_file())
    elif "://" not in path and any(sign in path for sign in "*?["):
        base = Path(place.anchor or ".")
        yield from sorted(inner for inner in base.glob(str(place.relative_to(place.anchor))) if inner.is_file())


@lru_cache(maxsize=256)
def _commit(name: str) -> str | None:
    try:
        return hub_commits.commit(name, ("README.md", ".gitattributes"), "dataset")
    except UserError:  # no network, and not in the hub's cache: lm-eval may have the data in a cache of its own
        return None


def _members(tree: dict[str, Any]) -> Iterator[str]:
    """Names of the tasks that a group's file lists."""
    listed = tree.get("task")
    for member in listed if isinstance(listed, list) else []:
        name = member.get("task") or member.get("group") if isinstance(member, dict) else member
        if isinstance(name, str):
            yield name


def _hashed(files: list[Path]) -> list[list[str]]:
    try:
        return [[file.name, found] for file, found in zip(files, file_hashes.content_hashes(files), strict=True)]
    except OSError as error:
        raise UserError(f"evaluation.tasks: {error.filename}: cannot be read ({error.strerror})") from error
