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
import itertools
import os
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import EllipsisType

GENERATOR_VERSION = 1
"""To be raised whenever these functions give other documents for the same Python."""

EXCLUDED_FOLDERS = frozenset(
    {
        *("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib-dynload"),
        *("encodings", "lib2to3", "idlelib", "turtledemo", "distutils"),
    }
)
EXCLUDED_PREFIXES = ("_sysconfigdata", "config-", "__phello__", "pydoc_data")
"""Beginnings of the names of files and folders."""
SHORTEST_PROSE = 64
"""Characters of the shortest docstring that is prose; a shorter one says little more than a name."""
SHORTEST_CODE = 40
"""Characters of the shortest module that is code, without its docstrings."""
RESPONSE_CHARACTERS = range(60, 1601)
"""Lengths of a function without its docstring that becomes a response."""
DESCRIPTION_CHARACTERS = range(20, 601)
"""Lengths of the part of a docstring that becomes a request."""

Row = tuple[str, ...]
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Definition = _Function | ast.ClassDef


# ------------------------------------------------------------------------------------------------------- library


@dataclass(frozen=True)
class Library:
    """The documents of the standard library. Each id and each content occurs once."""

    prose: list[Row]
    """(id, text): docstrings of modules, classes and functions, then the language reference topic by topic."""
    code: list[Row]
    """(id, text): modules without their docstrings; comments and formatting stay."""
    instruct: list[Row]
    """(id, prompt, response): a request made of a function's signature and docstring, which ends with one newline, and
    the function's source without docstring."""


@lru_cache(maxsize=1)
def library() -> Library:
    prose: list[Row] = []
    code: list[Row] = []
    instruct: list[Row] = []
    for name, path in _library_files():
        with tokenize.open(path) as file:  # heeds the file's coding line, and makes every line end "\n"
            module = Module(name, file.read())
        prose += module.docstrings()
        code.append((name, module.without_docstrings()))
        instruct += module.instructions()
    prose += _language_reference()
    return Library(
        _unique_rows(row for row in prose if len(row[1]) >= SHORTEST_PROSE),
        _unique_rows(row for row in code if len(row[1].strip()) >= SHORTEST_CODE),
        _unique_rows(instruct),
    )


@lru_cache(maxsize=1)
def library_digest() -> str:
    """32 hex digits that change with the Python version and with any byte of the files used; about 50 ms."""
    digest = hashlib.blake2b(f"{GENERATOR_VERSION} {sys.version_info[:2]}".encode(), digest_size=16)
    for name, path in (*_library_files(), ("topics", _root() / "pydoc_data" / "topics.py")):
        data = path.read_bytes() if path.is_file() else b""
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _library_files() -> list[tuple[str, Path]]:
    """(dotted module name, path) of every file that is read, sorted by name."""
    root = _root()
    modules = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in EXCLUDED_FOLDERS and not name.startswith(EXCLUDED_PREFIXES)]
        for name in files:
            if name.endswith(".py") and not name.startswith(EXCLUDED_PREFIXES):
                path = Path(folder, name)
                module = ".".join(path.relative_to(root).with_suffix("").parts)
                modules.append((module.removesuffix(".__init__"), path))
    return sorted(modules)


def _language_reference() -> list[Row]:
    """The chapters that `help()` shows; none if the installation lacks them, as in small containers."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return []
    return [(f"pydoc_data.topics:{name}", inspect.cleandoc(text).strip()) for name, text in sorted(topics.items())]


def _unique_rows(rows: Iterable[Row]) -> list[Row]:
    """Drops rows whose last item occurred before, and numbers repeated ids: `#2`."""
    seen_content: set[str] = set()
    ids: dict[str, int] = {}
    unique = []
    for name, *content in rows:
        if content[-1] in seen_content:
            continue
        seen_content.add(content[-1])
        ids[name] = ids.get(name, 0) + 1
        unique.append((name if ids[name] == 1 else f"{name}#{ids[name]}", *content))
    return unique


# -------------------------------------------------------------------------------------------------------- modules


class Module:
    """One source file, parsed. Raises SyntaxError."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._tree = ast.parse(text)
        self._definitions = list(_definitions(self._tree.body, ""))
        self._lines: list[str | None] = list(text.split("\n"))
        """The lines of the text; None for a line of a docstring."""
        for node in (self._tree, *(node for _, node in self._definitions)):
            _remove_docstring(self._lines, node)

    def docstrings(self) -> list[Row]:
        """(id, cleaned docstring) of the module and of each definition that has one."""
        nodes = [(self.name, self._tree), *((f"{self.name}:{name}", node) for name, node in self._definitions)]
        return [(name, text) for name, node in nodes if (text := _docstring(node))]

    def without_docstrings(self) -> str:
        return "\n".join(line for line in self._lines if line is not None)

    def instructions(self) -> list[Row]:
        """(id, request, source) of each function that does something and has a docstring."""
        rows: list[Row] = []
        for name, node in self._definitions:
            if isinstance(node, ast.ClassDef) or _does_nothing(node):
                continue
            description = _docstring(node).split("\n\n")[0]
            if len(description) in DESCRIPTION_CHARACTERS:
                response = self._source(node)
                if len(response) in RESPONSE_CHARACTERS:
                    rows.append((f"{self.name}:{name}", _request(name, node, description), response))
        return rows

    def _source(self, node: _Function) -> str:
        first_line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        lines = [line for line in self._lines[first_line - 1 : node.end_lineno] if line is not None]
        indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
        return "\n".join(line.removeprefix(indent) for line in lines).rstrip()


def _request(name: str, node: _Function, description: str) -> str:
    kind = "coroutine" if isinstance(node, ast.AsyncFunctionDef) else "function"
    kind = "method" if "." in name and "<locals>" not in name else kind
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    short_name = name.rsplit("<locals>.", 1)[-1]
    return f"Write the Python {kind} `{short_name}({ast.unparse(node.args)}){returns}`.\n{description.strip()}\n"


def _definitions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, _Definition]]:
    """(qualified name, node) of all classes and functions, in the order of the text."""
    # Statements only: ast.walk visits every expression too and takes five times as long.
    for node in body:
        if isinstance(node, _Definition):
            yield prefix + node.name, node
            inner = "." if isinstance(node, ast.ClassDef) else ".<locals>."
            yield from _definitions(node.body, prefix + node.name + inner)
        else:
            for nested in ("body", "orelse", "handlers", "finalbody", "cases"):
                if nested in node._fields:
                    yield from _definitions(getattr(node, nested), prefix)


def _docstring(node: ast.Module | _Definition) -> str:
    return (ast.get_docstring(node) or "").strip()


def _constant(statement: ast.stmt) -> object:
    """The value of a statement that is nothing but a constant, such as a docstring or `...`; None for any other."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) else None


def _does_nothing(node: _Function) -> bool:
    """True if only `pass`, `...` or `raise` follows the docstring, for which nobody would ask."""
    return all(
        isinstance(statement, ast.Pass | ast.Raise) or isinstance(_constant(statement), str | EllipsisType)
        for statement in node.body
    )


def _remove_docstring(lines: list[str | None], node: ast.Module | _Definition) -> None:
    """Takes all strings at the beginning of the node's body out of `lines`, and writes `pass` if nothing else is left.

    The second string goes too, since it would become the docstring. A line on which nothing is left becomes None, and
    the blank lines after it. Positions in the tree count bytes of UTF-8.
    """
    strings = list(itertools.takewhile(lambda statement: isinstance(_constant(statement), str), node.body))
    if not strings:
        return
    first, last = strings[0].lineno - 1, (strings[-1].end_lineno or strings[-1].lineno) - 1
    head = (lines[first] or "").encode()[: strings[0].col_offset].decode()
    tail = (lines[last] or "").encode()[strings[-1].end_col_offset :].decode()
    if len(strings) == len(node.body) and not isinstance(node, ast.Module):
        tail = f"pass{tail}"
    else:
        tail = tail.lstrip().removeprefix(";").lstrip()
    remainder = head + tail
    lines[first : last + 1] = [remainder if remainder.strip() else None, *[None] * (last - first)]
    if not remainder.strip():
        while last + 1 < len(lines) and not (lines[last + 1] or "").strip():
            last += 1
            lines[last] = None
