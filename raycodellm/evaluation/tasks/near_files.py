"""The files on this machine that a task's YAML file names: YAML files, Python modules and data. Nothing is imported but
the packages around a module."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raycodellm.evaluation.tasks.data_of_tasks import data_files
from raycodellm.evaluation.tasks.trees import trees
from raycodellm.evaluation.tasks.yaml_text import Tagged


def near_files(path: Path) -> list[Path]:
    """The YAML file at `path`, and all files that it names. Raises UserError for a file that is no task."""
    files: dict[Path, None] = {}
    for file, tree in trees(path.resolve()):
        files[file] = None
        for function in [*functions_of(tree), *reader_of(tree)]:
            files |= dict.fromkeys(module_files(function, file.parent))
        for data_path in named_data(tree):
            files |= dict.fromkeys(files_at(data_path))
    return [*files]


def functions_of(node: Any) -> Iterator[str]:
    if isinstance(node, Tagged) and node.function:
        yield node.function
    elif isinstance(node, dict):
        for value in node.values():
            yield from functions_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from functions_of(value)


def reader_of(tree: dict[str, Any]) -> Iterator[str]:
    metadata = tree.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("reader"), str):
        yield metadata["reader"]


def module_files(function: str, folder: Path) -> Iterator[Path]:
    """The file of the module of `module.name`, and what it imports of the files beside it and of this package's tasks.
    As in lm-eval, a module beside the YAML file comes before an installed one."""
    module = function.rpartition(".")[0]
    waiting, module_paths = [module], set()
    while waiting:
        name = waiting.pop()
        path: Path | None = folder / f"{name.replace('.', '/')}.py"
        if path is not None and not path.is_file() and (name == module or name.startswith("raycodellm.tasks.")):
            path = _installed(name)
        if path is None or not path.is_file() or path in module_paths:
            continue
        module_paths.add(path)
        yield path
        waiting += _imported(path)


def _installed(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None  # lm-eval reports the missing module when it loads the task
    return Path(spec.origin) if spec is not None and spec.origin else None


def _imported(path: Path) -> list[str]:
    """Names of the modules that a file imports; a relative import is named as a module beside the file."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module] if node.module else []
            # What is imported from a package may be a module of it.
            names += [f"{node.module}.{alias.name}" if node.module else alias.name for alias in node.names]
    return names


def named_data(tree: dict[str, Any]) -> list[str]:
    """The paths in `dataset_kwargs`, and `dataset_path` where that is a path on this machine."""
    name, paths = tree.get("dataset_path"), data_files(tree)
    if isinstance(name, str) and not isinstance(name, Tagged) and Path(name).expanduser().exists():
        paths.append(name)
    return paths


def files_at(path: str) -> Iterator[Path]:
    """A file, the files of a folder, or the files of a glob; nothing where the path is not local."""
    local_path = Path(path).expanduser()
    if local_path.is_file():
        yield local_path
    elif local_path.is_dir():
        yield from sorted(file for file in local_path.rglob("*") if file.is_file())
    elif "://" not in path and any(sign in path for sign in "*?["):
        root = Path(local_path.anchor or ".")
        yield from sorted(file for file in root.glob(str(local_path.relative_to(local_path.anchor))) if file.is_file())
