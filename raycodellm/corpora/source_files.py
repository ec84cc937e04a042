"""Source files by their names: which language they are of, and which of them are no code to train on."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from raycodellm.config import Source, UserError
from raycodellm.config.errors import suggest
from raycodellm.corpora.documents import SkipError

_CODE = """.py .pyi .pyx .c .h .cc .cpp .cxx .hpp .hh .cu .cuh .java .kt .kts .scala .groovy .js .mjs .cjs .jsx .ts .tsx
.go .rs .rb .php .swift .m .mm .cs .fs .vb .pl .pm .lua .r .jl .hs .ml .mli .ex .exs .erl .clj .lisp .el .scm .dart .zig
.nim .f .f90 .f95 .adb .pas .asm .s .sh .bash .zsh .ps1 .bat .sql .v .sv .vhd .sol .proto .cmake .mk .awk .tcl"""
_MARKUP = ".html .htm .xhtml .xml .svg .css .scss .sass .less .md .markdown .rst .adoc .org .tex .bib"
_ADJACENT = ".ipynb .diff .patch .json .yaml .yml .toml .ini .cfg .conf .csv .md .rst .txt .dockerfile .tf .gradle"
SOURCE_EXTENSIONS = {
    "code": frozenset(_CODE.split()),
    "synthetic_code": frozenset(_CODE.split()),
    "markup": frozenset(_MARKUP.split()),
    "code_adjacent": frozenset(_ADJACENT.split()),
    "text": frozenset({".txt", ".md", ".rst"}),
    "math": frozenset({".tex", ".md", ".txt", ".lean", ".v", ".thy"}),
}
"""Extensions of the files that a source of each kind takes from a source tree if it names no `languages`."""
LANGUAGES = {
    "ada": ".adb .ads",
    "assembly": ".asm .s",
    "awk": ".awk",
    "batch": ".bat .cmd",
    "c": ".c .h",
    "c++": ".cc .cpp .cxx .c++ .h .hh .hpp .hxx .inl .ipp",
    "c#": ".cs .csx",
    "clojure": ".clj .cljs .cljc .edn",
    "cmake": ".cmake CMakeLists.txt",
    "commonlisp": ".lisp .lsp .asd",
    "css": ".css",
    "csv": ".csv .tsv",
    "cuda": ".cu .cuh",
    "d": ".d .di",
    "dart": ".dart",
    "dockerfile": ".dockerfile Dockerfile Containerfile",
    "elixir": ".ex .exs",
    "elm": ".elm",
    "emacslisp": ".el",
    "erlang": ".erl .hrl",
    "fortran": ".f .for .f77 .f90 .f95 .f03 .f08",
    "f#": ".fs .fsi .fsx",
    "glsl": ".glsl .vert .frag .geom",
    "go": ".go",
    "gradle": ".gradle",
    "graphql": ".graphql .gql",
    "groovy": ".groovy Jenkinsfile",
    "haskell": ".hs .lhs",
    "hcl": ".tf .tfvars .hcl",
    "html": ".html .htm .xhtml",
    "ini": ".ini .cfg .conf .properties .editorconfig",
    "java": ".java",
    "javascript": ".js .mjs .cjs .jsx",
    "json": ".json .json5 .jsonc",
    "julia": ".jl",
    "jupyter": ".ipynb",
    "kotlin": ".kt .kts",
    "latex": ".tex .bib .sty .cls",
    "lean": ".lean",
    "less": ".less",
    "lua": ".lua",
    "makefile": ".mk .mak Makefile makefile GNUmakefile",
    "markdown": ".md .markdown .mdx",
    "matlab": ".m",
    "nim": ".nim",
    "nix": ".nix",
    "objectivec": ".m .mm .h",
    "ocaml": ".ml .mli",
    "org": ".org",
    "pascal": ".pas .pp .lpr",
    "patch": ".diff .patch",
    "perl": ".pl .pm .t",
    "php": ".php",
    "powershell": ".ps1 .psm1 .psd1",
    "prolog": ".pro .prolog",
    "protobuf": ".proto",
    "python": ".py .pyi .pyw SConstruct SConscript",
    "cython": ".pyx .pxd .pxi",
    "r": ".r .rmd",
    "racket": ".rkt",
    "restructuredtext": ".rst",
    "ruby": ".rb .rake .gemspec Rakefile Gemfile",
    "rust": ".rs",
    "sass": ".sass .scss",
    "scala": ".scala .sc",
    "scheme": ".scm .ss .sld",
    "shell": ".sh .bash .zsh .ksh .bats",
    "solidity": ".sol",
    "sql": ".sql",
    "starlark": ".bzl .star BUILD BUILD.bazel WORKSPACE",
    "svg": ".svg",
    "swift": ".swift",
    "systemverilog": ".sv .svh",
    "tcl": ".tcl",
    "text": ".txt .text",
    "thrift": ".thrift",
    "toml": ".toml",
    "typescript": ".ts .tsx .mts .cts",
    "verilog": ".v .vh",
    "vhdl": ".vhd .vhdl",
    "vimscript": ".vim .vimrc",
    "visualbasic": ".vb .bas",
    "vue": ".vue",
    "xml": ".xml .xsd .xsl .xslt",
    "yaml": ".yaml .yml",
    "zig": ".zig",
}
"""Extensions and whole file names of each language. An extension may belong to several languages, as `.h` does."""
_ALIASES = {
    "bash": "shell", "bazel": "starlark", "cpp": "c++", "cs": "c#", "csharp": "c#", "docker": "dockerfile",
    "fsharp": "f#", "golang": "go", "ipynb": "jupyter", "js": "javascript", "jsx": "javascript", "make": "makefile",
    "md": "markdown", "notebook": "jupyter", "objective-c": "objectivec", "py": "python", "rb": "ruby",
    "rs": "rust", "rst": "restructuredtext", "scss": "sass", "sh": "shell", "terraform": "hcl", "tex": "latex",
    "ts": "typescript", "tsx": "typescript", "yml": "yaml",
}  # fmt: skip


def language_names(source: Source) -> tuple[str, ...]:
    """The languages that the source names, sorted, without aliases. Raises UserError for an unknown one."""
    names = []
    for name in source.languages or ():
        known = _ALIASES.get(name.lower(), name.lower())
        if known not in LANGUAGES:
            raise UserError(f"languages: {name!r} is not known; {suggest(name.lower(), [*LANGUAGES, *_ALIASES])}")
        names.append(known)
    return tuple(sorted(set(names)))


def identity(reader: int) -> Callable[[Source, object], dict[str, Any]]:
    """How formats that go by languages are known: by the version of their reader and their settings."""
    return lambda source, files: {
        "reader": reader,
        "outputs": source.notebook_outputs,
        "languages": language_names(source),
    }


def is_chosen(source: Source, name: str) -> bool:
    """True if the file is of one of the source's languages, or of its kind if the source names no language."""
    extensions, names = _chosen(language_names(source), source.kind)
    base = name.rsplit("/", 1)[-1]
    return os.path.splitext(base.lower())[1] in extensions or base in names or base.split(".")[0] in names


@lru_cache(maxsize=64)
def _chosen(languages: tuple[str, ...], kind: str) -> tuple[frozenset[str], frozenset[str]]:
    """(extensions, whole file names)"""
    if not languages:
        return SOURCE_EXTENSIONS.get(kind, frozenset()), frozenset()
    signs = [sign for language in languages for sign in LANGUAGES[language].split()]
    return frozenset(s for s in signs if s[0] == "."), frozenset(s for s in signs if s[0] != ".")


def known_names(source: Source) -> list[str]:
    """The extensions and whole file names that the source takes."""
    extensions, names = _chosen(language_names(source), source.kind)
    return [*sorted(extensions), *sorted(names)]


# ------------------------------------------------------------------------------------------ what is no code to train on

VENDORED = frozenset({"vendor", "third_party", "site-packages", "dist-packages", "venv", "bower_components", "build"})
_LOCKS = """package-lock.json npm-shrinkwrap.json yarn.lock pnpm-lock.yaml bun.lock poetry.lock pdm.lock uv.lock
pipfile.lock cargo.lock gemfile.lock composer.lock mix.lock podfile.lock package.resolved pubspec.lock flake.lock go.sum
.terraform.lock.hcl gradle.lockfile packages.lock.json paket.lock deno.lock conda-lock.yml"""
_LOCK_FILES = frozenset(_LOCKS.split())
_MINIFIABLE = (".js", ".mjs", ".cjs", ".css")
_GENERATED_NAME = re.compile(
    r"(_pb2(_grpc)?\.pyi?|\.pb(\.gw)?\.(go|cc|h)|_grpc\.pb\.(cc|h)|\.(g|freezed|designer|generated)\.[a-z]+"
    r"|_generated\.[a-z]+|zz_generated\..*|parsetab\.py|\.min\.css\.map|\.js\.map)$"
)
_GENERATED_NOTE = re.compile(
    rb"@generated\b|\bgenerated by\b.{0,200}?\bdo not (edit|modify)\b|\bdo not (edit|modify)\b.{0,200}?\bgenerated\b"
    rb"|\b(this file|this code|file|code) (is|was|has been) (auto(matically)?[- ]?)generated\b|<auto-generated",
    re.IGNORECASE | re.DOTALL,
)
_HEAD_LINES = 10
"""Lines at the top of a file in which a generator signs."""
LONGEST_CODE_LINE = 10_000
"""Bytes of a line; a longer line is data inside code."""


def is_vendored(name: str) -> bool:
    """True if the file is in a folder of other people's code."""
    return not VENDORED.isdisjoint(name.split("/")[:-1])


def check_name(name: str) -> None:
    """Raises SkipError for a file whose name says that it is no code to train on."""
    base = name.rsplit("/", 1)[-1].lower()
    stem, extension = os.path.splitext(base)
    if base in _LOCK_FILES:
        raise SkipError("lock file")
    if extension in _MINIFIABLE and stem.endswith((".min", "-min")):
        raise SkipError("minified")
    if _GENERATED_NAME.search(base):
        raise SkipError("generated")


def check_content(name: str, data: bytes) -> None:
    """Raises SkipError for a file whose content says so."""
    if b"\0" in data[:8192]:
        raise SkipError("binary")
    if name.lower().endswith(_MINIFIABLE) and len(data) > 500 * (data.count(b"\n") + 1):
        raise SkipError("minified")
    check_lines(data)
    head = b"\n".join(data[:4096].split(b"\n", _HEAD_LINES)[:_HEAD_LINES])
    if _GENERATED_NOTE.search(head):
        raise SkipError("generated")


def check_lines(data: bytes) -> None:
    """Raises SkipError if a line is too long."""
    if len(data) > LONGEST_CODE_LINE and max(map(len, data.split(b"\n"))) > LONGEST_CODE_LINE:
        raise SkipError(f"line over {LONGEST_CODE_LINE:,} characters")
