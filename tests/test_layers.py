"""The package reads in one direction: imports point backwards in ORDER, and each heavy library has one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import raycodellm

PACKAGE = Path(raycodellm.__file__).parent
ORDER = (
    ("config",),
    (
        "files",
        "retrying",
        "identity",
        "records",
        "storage_files",
        "learning_rate",
        "schedule",
        "search",
        "statistics",
    ),
    ("corpora", "tokens", "tasks", "model", "memory_needs"),
    ("mixture", "engine"),
    ("ingest", "stage", "evaluation"),
    ("stage_store",),
    ("dispatch",),
    ("slots",),
    ("sweep", "report", "cluster", "compare", "display"),
    ("preflight", "check"),
    ("cli",),
)
"""Layers, the first at the bottom. Inside a layer a module may import those to its left, but in PEERS."""
PEERS = ("sweep", "report", "cluster", "compare", "display")
"""Modules of one layer that know nothing of each other."""
DOORS = {
    "ray.data": {"corpora", "tokens", "ingest"},
    "ray.train": {"slots"},
    "ray.tune": {"sweep"},
    "optuna": {"search"},
    "deepspeed": {"engine"},
    "lm_eval": {"evaluation"},
}
FUNCTION_LINES = 60
MODULE_LINES = 520

FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py") or path.parent != PACKAGE
)
by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


def module_of(path: Path) -> str:
    """Name of the module, or of the folder, right under the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Dotted names that the file imports, also inside functions, and `ray.data` where it is used through `ray`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write the full name"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ray":
            yield f"ray.{node.attr}", node.lineno


def place(module: str) -> tuple[int, int]:
    for layer, modules in enumerate(ORDER):
        if module in modules:
            return layer, modules.index(module)
    raise AssertionError(f"{module} has no place in ORDER; give it one, and keep design and test alike")


@by_file
def test_imports_point_one_way(path):
    mine = module_of(path)
    for name, line in imported(path):
        parts = name.split(".")
        if parts[0] != "raycodellm" or parts[1] in (mine, "__version__"):
            continue
        assert place(parts[1]) < place(mine), f"{path.name}:{line}: {mine} must not import {parts[1]}"
        assert not (mine in PEERS and parts[1] in PEERS), f"{path.name}:{line}: {mine} and {parts[1]} are peers"


@by_file
def test_each_heavy_library_has_one_door(path):
    for name, line in imported(path):
        for library, doors in DOORS.items():
            if name == library or name.startswith(f"{library}."):
                assert module_of(path) in doors, (
                    f"{path.name}:{line}: {library} belongs into {', '.join(sorted(doors))}"
                )


def test_tasks_import_nothing_of_the_package_but_themselves():
    for path in (path for path in FILES if module_of(path) == "tasks"):
        for name, line in imported(path):
            inside = name == "raycodellm" or name.startswith("raycodellm.")
            assert not inside or name.startswith("raycodellm.tasks"), f"{path.name}:{line}: imports {name}"


@by_file
def test_functions_and_modules_are_short(path):
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{path.name}:{node.lineno}: {node.name} has {lines} lines; split it"
    lines = source.count("\n")
    in_folder = path.parent != PACKAGE
    assert in_folder or lines <= MODULE_LINES, f"{path.name} has {lines} lines; make it a folder"
