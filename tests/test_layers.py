"""The package reads in one direction: imports point backwards in ORDER, and each heavy library has one door."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import raycodellm

PACKAGE = Path(raycodellm.__file__).parent
MAP = Path(__file__).parents[1] / "docs" / "architecture.md"
ORDER = (
    ("version", "started", "offered"),
    ("config",),
    (
        "azure",
        "file_systems",
        "parquet",
        "files",
        "conditional_writes",
        "retrying",
        "throttle",
        "identity",
        "rungs",
        "records",
        "known_trials",
        "storage_files",
        "run_times",
        "finished",
        "device_peaks",
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
    ("tables",),
    ("budget", "pairs", "verdict", "win_rates", "regression"),
    ("observability",),
    ("sweep", "report", "cluster", "compare", "display"),
    ("preflight", "check", "runs", "ladder", "pruning"),
    ("commands", "notebook"),
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
    "sklearn": {"regression"},
    "ray.util.metrics": {"observability"},
    "obstore": {"azure", "conditional_writes"},
    "matplotlib": {"report"},
}
FUNCTION_LINES, FILE_LINES = 60, 400

FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py") or path.parent != PACKAGE
)


def module_of(path: Path) -> str:
    """Name of the module, or of the folder, right under the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(parsed(path)))


@cache
def imported(path: Path) -> list[tuple[str, int]]:
    """Dotted names that the file imports, also inside functions, and `ray.data` where it is used through `ray`."""
    return list(_imported(path))


def _imported(path: Path) -> Iterator[tuple[str, int]]:
    for node in nodes(path):
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


def all_imports() -> Iterator[tuple[Path, str, int]]:
    for path in FILES:
        for name, line in imported(path):
            yield path, name, line


def test_imports_point_one_way():
    for path, name, line in all_imports():
        mine = module_of(path)
        parts = name.split(".")
        if parts[0] != "raycodellm" or parts[1] == mine:
            continue
        assert place(parts[1]) < place(mine), f"{path.name}:{line}: {mine} must not import {parts[1]}"
        assert not (mine in PEERS and parts[1] in PEERS), f"{path.name}:{line}: {mine} and {parts[1]} are peers"


def test_each_heavy_library_has_one_door():
    for path, name, line in all_imports():
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


@cache
def module_name(path: Path) -> str:
    """`a.b` for the file a/b.py, and `a` for a/__init__.py."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = frozenset(map(module_name, FILES))


@cache
def imported_files(path: Path) -> set[str]:
    """Names of the package's modules that the file imports."""
    prefix = "raycodellm."
    names = {name.removeprefix(prefix) for name, _ in imported(path) if name.startswith(prefix)}
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES - {module_name(path)}


def test_no_files_import_each_other_in_a_circle_inside_folders_too():
    """Without imports of a file's own `__init__`, which `faults` names."""
    TopologicalSorter({module_name(path): imported_files(path) - own_folder(path) for path in FILES}).prepare()


def own_folder(path: Path) -> set[str]:
    return set() if path.name == "__init__.py" else {module_name(path.parent / "__init__.py")}


def is_logic(statement: ast.stmt) -> bool:
    """False for an import, a docstring and `__all__`."""
    if isinstance(statement, ast.Assign):
        return [ast.unparse(target) for target in statement.targets] != ["__all__"]
    docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return not (docstring or isinstance(statement, (ast.Import, ast.ImportFrom)))


def faults(path: Path) -> Iterator[str]:
    """Faults of the file's size, its parts, and its place in its folder."""
    name, source = path.relative_to(PACKAGE), path.read_text(encoding="utf-8")
    tree = parsed(path)
    if source.count("\n") > FILE_LINES:
        yield f"{name}: more than {FILE_LINES} lines"
    for node in nodes(path):
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if is_function and node.end_lineno - node.lineno >= FUNCTION_LINES:
            yield f"{name}: {node.name} has more than {FUNCTION_LINES} lines"
    if path.name == "__init__.py" and any(map(is_logic, tree.body)):
        yield f"{name}: holds logic; move it to a file of the folder that says what it is"
    if imported_files(path) & own_folder(path):
        yield f"{name}: imports its own folder's __init__, which imports it"


def test_files_and_functions_are_short_and_an_init_file_only_gives_names():
    assert [fault for path in (*FILES, PACKAGE / "__init__.py") for fault in faults(path)] == []


def private_names(path: Path) -> set[str]:
    """Names that a file imports from a library's modules, or under names, that begin with an underscore."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and not str(node.module).startswith(("raycodellm", "__future__")):
            is_private = any(part.startswith("_") for part in str(node.module).split("."))
            names |= {alias.name for alias in node.names if is_private or re.match("_[a-z]", alias.name)}
    return names


def test_every_private_import_is_listed_with_its_reason():
    listed = MAP.read_text(encoding="utf-8")
    found = {path: private_names(path) for path in PACKAGE.rglob("*.py")}
    assert set().union(*found.values()), "the package does import private names"
    for path, names in found.items():
        for name in names:
            assert name in listed, f"{path.relative_to(PACKAGE)} imports {name}: give it a row in {MAP.name}"
