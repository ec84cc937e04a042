"""The shape of the package in figures: files, lines, floors, circles, the longest file and function.

    python benchmarks/house.py [CHECKOUT …]
    python benchmarks/house.py --code corpora tokens [--] [CHECKOUT …]

One column per checkout, so that a restructuring shows what it changed. `--code` counts the lines of code of folders,
file by file: without docstrings, comments and blank lines. Reads the source only; needs no dependency.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

PACKAGE = "raycodellm"
LONG_FILE = 400
"""Lines."""


def modules(checkout: Path) -> dict[str, Path]:
    """Dotted name of each module of the package to its file; a folder's own is its `__init__.py`."""
    paths = sorted((checkout / PACKAGE).rglob("*.py"))
    return {
        ".".join(path.relative_to(checkout).with_suffix("").parts).removesuffix(".__init__"): path for path in paths
    }


def import_graph(files: dict[str, Path]) -> dict[str, set[str]]:
    """Module to the modules of the package that it imports.

    `from folder import name` counts as an import of the file in the folder that defines the name.
    """
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files.items()}
    offered = {name: dict(_offered(tree)) for name, tree in trees.items() if files[name].name == "__init__.py"}
    graph: dict[str, set[str]] = {}
    for name, tree in trees.items():
        graph[name] = set()
        for module, imported in _imports(tree):
            target = f"{module}.{imported}" if imported else module
            if target not in files:
                target = offered.get(module, {}).get(imported or "", module)
            if target in files and target != name:
                graph[name].add(target)
    return graph


def _imports(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """(module, imported name) of each import in the file, also inside functions and for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


def _offered(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name that an `__init__.py` hands on to the module that defines it."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((alias.asname or alias.name, node.module) for alias in node.names)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other in a loop (strongly connected components; Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return groups


def floors(graph: dict[str, set[str]]) -> int:
    """Length of the longest chain of imports between the parts right under the package."""
    parts: dict[str, set[str]] = {}
    for name, targets in graph.items():
        own_part = _part(name)
        parts.setdefault(own_part, set()).update(_part(target) for target in targets if _part(target) != own_part)
    height: dict[str, int] = {}

    def rise(part: str, below: tuple[str, ...]) -> int:
        if part not in height:
            others = (rise(other, (*below, part)) for other in parts.get(part, ()) if other not in below)
            height[part] = 1 + max(others, default=0)
        return height[part]

    return max(rise(part, ()) for part in parts)


def _part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _short(module: str) -> str:
    return module.removeprefix(f"{PACKAGE}.")


def functions(files: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """(lines, place) of every function and method."""
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{_short(name)}:{node.name}"


def holds_logic(path: Path) -> bool:
    """True if an `__init__.py` defines a function or a class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) for node in tree.body)


def _num_lines(paths: Iterable[Path]) -> int:
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def figures(checkout: Path) -> dict[str, str]:
    files = modules(checkout)
    if not files:
        raise SystemExit(f"{checkout}: holds no package {PACKAGE}; give the root of a checkout")
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in files.items()}
    graph, sizes_and_places = import_graph(files), list(functions(files))
    longest = max(lines, key=lambda name: lines[name])
    loops = circles(graph)
    size, place = max(sizes_and_places)
    starts = [path for path in files.values() if path.name == "__init__.py"]
    return {
        "files": str(len(files)),
        "lines": f"{sum(lines.values()):,}",
        "floors": str(floors(graph)),
        "circles": f"{len(loops)} ({'; '.join(' '.join(map(_short, loop)) for loop in loops) or 'none'})",
        f"files over {LONG_FILE} lines": str(sum(count > LONG_FILE for count in lines.values())),
        "longest file": f"{_short(longest)} {lines[longest]}",
        "longest function": f"{place} {size}",
        "median function": f"{median(size for size, _ in sizes_and_places):g} lines",
        "`__init__.py` with logic": f"{sum(map(holds_logic, starts))} of {len(starts)}",
        "lines of tests": f"{_num_lines((checkout / 'tests').rglob('*.py')):,}",
    }


_NO_CODE = frozenset(
    (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
)


def num_code_lines(source: str) -> int:
    """Lines that hold more than a docstring or a comment."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def code_of_files(checkout: Path, folder: str) -> dict[str, int]:
    """Path inside the package to lines of code, for each file of a folder; then the folder itself with the sum."""
    package = checkout / PACKAGE
    counts = {
        str(path.relative_to(package)): num_code_lines(path.read_text(encoding="utf-8"))
        for path in sorted((package / folder).rglob("*.py"))
    }
    return {name: count for name, count in counts.items() if count} | {f"{folder}/": sum(counts.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", nargs="+", metavar="FOLDER", help="folders of the package whose code is counted")
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="CHECKOUT", default=[Path(__file__).parents[1]])
    options = parser.parse_args()
    columns: list[dict[str, str]] = []
    for checkout in options.checkouts:
        counts = [code_of_files(checkout, folder) for folder in options.code or ()]
        columns.append({name: f"{n:,}" for part in counts for name, n in part.items()} or figures(checkout))
    print(f"| | {' | '.join(map(str, options.checkouts))} |")
    print(f"|---|{'---|' * len(columns)}")
    for name in dict.fromkeys(name for column in columns for name in column):
        print(f"| {name} | {' | '.join(column.get(name, '–') for column in columns)} |")


if __name__ == "__main__":
    main()
