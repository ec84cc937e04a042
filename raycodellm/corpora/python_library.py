"""Corpora made from the running Python's standard library: prose, code and instructions.

Each file of the library is read and parsed once for all three. Left out are:

* `site-packages`, which differs from machine to machine;
* test packages, which repeat the code under test and hold files that are broken on purpose;
* `encodings`, `_sysconfigdata*`, `pydoc_data`, which are generated tables (the language reference inside
  `pydoc_data.topics` is prose);
* `lib2to3`, `idlelib`, `turtledemo`, `__phello__`, `config-*`, which are grammar tables, a desktop application,
  demonstrations and left-overs of a build;
* `distutils`, which Python 3.12 dropped.

The same Python gives the same documents in the same order, each with an id of module path and qualified name.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

GENERATOR_VERSION = 1
"""To be raised whenever these functions give other documents for the same Python."""

EXCLUDED_FOLDERS = frozenset(
    {
        *("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib-dynload"),
        *("encodings", "pydoc_data", "lib2to3", "idlelib", "turtledemo", "distutils", "__phello__"),
    }
)
EXCLUDED_PREFIXES = ("_sysconfigdata", "config-", "__phello__", "pydoc_data")
SHORTEST_PROSE = 64
"""Characters of the shortest docstring that is prose; a shorter one says little more than a name."""
SHORTEST_CODE = 40
"""Characters of the shortest module that is code, without its docstrings."""
RESPONSE_CHARACTERS = (60, 1600)
"""Fewest and most characters of a function without its docstring that becomes a response."""
DESCRIPTION_CHARACTERS = (20, 600)
"""Fewest and most characters of the part of a docstring that becomes a request."""

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def python_prose() -> Iterator[tuple[str, str]]:
    """(id, text): docstrings of modules, classes and functions, then the language reference topic by topic."""
    yield from _library().prose


def python_code() -> Iterator[tuple[str, str]]:
    """(id, text): modules without their docstrings; comments and formatting stay."""
    yield from _library().code


def python_instruct() -> Iterator[tuple[str, str, str]]:
    """(id, prompt, response): a request made of a function's signature and docstring, and its source without docstring.

    The prompt ends with one newline.
    """
    yield from _library().instruct


@lru_cache(maxsize=1)
def library_digest() -> str:
    """32 hex digits that change with the Python version and with any byte of the files used; about 50 ms."""
    digest = hashlib.blake2b(f"{GENERATOR_VERSION} {sys.version_info[:2]}".encode(), digest_size=16)
    for name, path in (*_files(), ("topics", _topics_path())):
        data = path.read_bytes() if path.is_file() else b""
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def content_digest(rows: Iterable[Sequence[str]]) -> str:
    """16 hex digits that change with the id, the text or the place of any document."""
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        for text in row:
            data = text.encode(errors="surrogatepass")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        digest.update(b"\xff" * 8)  # ends a row: no text is that long
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------- library


@dataclass
class _Library:
    prose: list[tuple[str, str]] = field(default_factory=list)
    code: list[tuple[str, str]] = field(default_factory=list)
    instruct: list[tuple[str, str, str]] = field(default_factory=list)


@lru_cache(maxsize=1)
def _library() -> _Library:
    found = _Library()
    for name, path in _files():
        module = parse_module(name, _read_source(path))
        found.prose += module.docstrings()
        found.code.append((name, module.without_docstrings()))
        found.instruct += module.instructions()
    found.prose += _language_reference()
    found.prose = _first_of_each(row for row in found.prose if len(row[1]) >= SHORTEST_PROSE)
    found.code = _first_of_each(row for row in found.code if len(row[1].strip()) >= SHORTEST_CODE)
    found.instruct = _first_of_each(found.instruct)
    return found


def _root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _files() -> list[tuple[str, Path]]:
    """(dotted module name, path) of every file that is read, sorted by name."""
    root = _root()
    found = []
    for folder in _folders(root):
        for path in folder.glob("*.py"):
            if not path.name.startswith(EXCLUDED_PREFIXES):
                parts = path.relative_to(root).with_suffix("").parts
                found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return sorted(found)


def _folders(root: Path) -> Iterator[Path]:
    yield root
    for path in sorted(root.iterdir()):
        excluded = path.name in EXCLUDED_FOLDERS or path.name.startswith(EXCLUDED_PREFIXES)
        if not excluded and path.is_dir() and not path.is_symlink():
            yield from _folders(path)


def _topics_path() -> Path:
    return _root() / "pydoc_data" / "topics.py"


def _language_reference() -> list[tuple[str, str]]:
    """The chapters that `help()` shows; none if the installation lacks them, as in small containers."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return []
    return [(f"pydoc_data.topics:{name}", inspect.cleandoc(text).strip()) for name, text in sorted(topics.items())]


def _read_source(path: Path) -> str:
    with tokenize.open(path) as file:  # heeds the file's coding line, and makes every line end "\n"
        return file.read()


def _first_of_each(rows: Iterable[Any]) -> list[Any]:
    """Drops rows whose last item occurred before, and numbers repeated ids: `#2`."""
    seen_content: set[str] = set()
    ids: dict[str, int] = {}
    kept = []
    for name, *content in rows:
        if content[-1] in seen_content:
            continue
        seen_content.add(content[-1])
        ids[name] = ids.get(name, 0) + 1
        kept.append((name if ids[name] == 1 else f"{name}#{ids[name]}", *content))
    return kept


# -------------------------------------------------------------------------------------------------------- modules


@dataclass
class ParsedModule:
    """One source file with the places of its docstrings."""

    name: str
    tree: ast.Module
    lines: list[str | None]
    """The lines of the text; None for a line of a docstring."""
    definitions: list[tuple[str, _Definition]]
    """(qualified name, node) of all classes and functions, in the order of the text."""

    def docstrings(self) -> list[tuple[str, str]]:
        """(id, cleaned docstring) of the module and of each definition that has one."""
        nodes = [(self.name, self.tree), *((f"{self.name}:{name}", node) for name, node in self.definitions)]
        return [(name, text) for name, node in nodes if (text := _docstring(node))]

    def without_docstrings(self) -> str:
        return "\n".join(line for line in self.lines if line is not None)

    def instructions(self) -> list[tuple[str, str, str]]:
        found = []
        for name, node in self.definitions:
            if isinstance(node, ast.ClassDef):
                continue
            description = _docstring(node).split("\n\n")[0]
            if not DESCRIPTION_CHARACTERS[0] <= len(description) <= DESCRIPTION_CHARACTERS[1] or _does_nothing(node):
                continue
            response = self._source(node)
            if RESPONSE_CHARACTERS[0] <= len(response) <= RESPONSE_CHARACTERS[1]:
                found.append((f"{self.name}:{name}", self._request(name, node, description), response))
        return found

    def _request(self, name: str, node: ast.FunctionDef | ast.AsyncFunctionDef, description: str) -> str:
        what = "coroutine" if isinstance(node, ast.AsyncFunctionDef) else "function"
        what = "method" if "." in name and "<locals>" not in name else what
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        shown = name.rsplit("<locals>.", 1)[-1]
        return f"Write the Python {what} `{shown}({ast.unparse(node.args)}){returns}`.\n{description.strip()}\n"

    def _source(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        lines = [line for line in self.lines[first - 1 : node.end_lineno] if line is not None]
        indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
        return "\n".join(line.removeprefix(indent) for line in lines).rstrip()


def parse_module(name: str, text: str) -> ParsedModule:
    """Parses `text` (lines ended by "\\n") and takes its docstrings out. Raises SyntaxError."""
    tree = ast.parse(text)
    definitions = list(_definitions(tree.body, ""))
    lines: list[str | None] = list(text.split("\n"))
    for node in (tree, *(node for _, node in definitions)):
        _remove_docstring(lines, node)
    return ParsedModule(name, tree, lines, definitions)


def _definitions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, _Definition]]:
    # Statements only: ast.walk visits every expression too and takes five times as long.
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name, node
            inner = "." if isinstance(node, ast.ClassDef) else ".<locals>."
            yield from _definitions(node.body, prefix + node.name + inner)
        else:
            for nested in ("body", "orelse", "handlers", "finalbody", "cases"):
                if nested in node._fields:
                    yield from _definitions(getattr(node, nested), prefix)


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _docstring(node: ast.Module | _Definition) -> str:
    return (ast.get_docstring(node) or "").strip()


def _does_nothing(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """True if only `pass`, `...` or `raise` follows the docstring, for which nobody would ask."""
    rest = [statement for statement in node.body if not _is_string(statement)]
    return all(isinstance(s, ast.Pass | ast.Raise) or (isinstance(s, ast.Expr) and _is_ellipsis(s)) for s in rest)


def _is_ellipsis(statement: ast.Expr) -> bool:
    return isinstance(statement.value, ast.Constant) and statement.value.value is ...


def _remove_docstring(lines: list[str | None], node: ast.Module | _Definition) -> None:
    """Takes all strings at the beginning of the node's body out of `lines`, and writes `pass` if nothing else is left.

    The second string goes too, since it would become the docstring.
    """
    count = next((i for i, statement in enumerate(node.body) if not _is_string(statement)), len(node.body))
    if count == 0:
        return
    needs_body = count == len(node.body) and not isinstance(node, ast.Module)
    for place in reversed(range(count)):  # from the end, so that a cut moves no later cut on its line
        _cut(lines, node.body[place], "pass" if needs_body and place == 0 else "")
    if count < len(node.body) and lines[node.body[count - 1].lineno - 1] is None:
        line = _last_line(node.body[count - 1]) + 1  # also drops the blank lines after the docstring
        while line < len(lines) and (text := lines[line]) is not None and not text.strip():
            lines[line] = None
            line += 1


def _last_line(statement: ast.stmt) -> int:
    """Place of the statement's last line."""
    return (statement.end_lineno or statement.lineno) - 1


def _cut(lines: list[str | None], statement: ast.stmt, replacement: str) -> None:
    """Replaces the statement's text. Its first line is dropped if nothing is left on it, the other lines always.

    Positions in the tree count bytes of UTF-8.
    """
    first, last = statement.lineno - 1, _last_line(statement)
    head = (lines[first] or "").encode()[: statement.col_offset].decode()
    tail = (lines[last] or "").encode()[statement.end_col_offset :].decode()
    if not replacement:
        tail = tail.lstrip().removeprefix(";").lstrip()
    left = head + replacement + tail
    lines[first] = left if left.strip() else None
    for line in range(first + 1, last + 1):
        lines[line] = None
