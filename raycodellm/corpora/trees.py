"""Source trees: which files are of which language, and which are left out, each for a reason that is counted.

Left out: version-control, cache and other hidden folders (a folder counts once, it is not entered); vendored code;
lock files; generated, minified and binary files; files over 1 MiB or with a line over 10,000 characters (data in code's
clothes); files of other languages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache

from raycodellm.config import Source, UserError
from raycodellm.config.errors import suggest

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
"""What a folder of source code gives to a source of each kind where no `languages` are named."""
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
"""Extensions and whole file names of each language; an extension may belong to several, as `.h` does."""
_ALIASES = {
    "bash": "shell", "bazel": "starlark", "cpp": "c++", "cs": "c#", "csharp": "c#", "docker": "dockerfile",
    "fsharp": "f#", "golang": "go", "ipynb": "jupyter", "js": "javascript", "jsx": "javascript", "make": "makefile",
    "md": "markdown", "notebook": "jupyter", "objective-c": "objectivec", "py": "python", "rb": "ruby",
    "rs": "rust", "rst": "restructuredtext", "scss": "sass", "sh": "shell", "terraform": "hcl", "tex": "latex",
    "ts": "typescript", "tsx": "typescript", "yml": "yaml",
}  # fmt: skip
NEVER_ENTERED = frozenset({"node_modules", "__pycache__"})
VENDORED = frozenset({"vendor", "third_party", "site-packages", "dist-packages", "venv", "bower_components", "build"})
_LOCKS = """package-lock.json npm-shrinkwrap.json yarn.lock pnpm-lock.yaml bun.lock poetry.lock pdm.lock uv.lock
pipfile.lock cargo.lock gemfile.lock composer.lock mix.lock podfile.lock package.resolved pubspec.lock flake.lock go.sum
.terraform.lock.hcl gradle.lockfile packages.lock.json paket.lock deno.lock conda-lock.yml"""
_LOCK_FILES = frozenset(_LOCKS.split())
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
"""Where a generator says so."""
LARGEST_FILE = 1 << 20
LARGEST_NOTEBOOK = 64 << 20
"""Most of a notebook is images and other outputs, which are left out."""
LONGEST_LINE = 10_000
"""Characters (bytes) of a line; longer ones are data that was put into code."""


def language_names(source: Source) -> tuple[str, ...]:
    """The languages that the source names, by their chief names. Raises UserError for one that is not known."""
    names = []
    for name in source.languages or ():
        chief = _ALIASES.get(name.lower(), name.lower())
        if chief not in LANGUAGES:
            raise UserError(f"languages: {name!r} is not known; {suggest(name.lower(), [*LANGUAGES, *_ALIASES])}")
        names.append(chief)
    return tuple(sorted(set(names)))


def is_chosen(source: Source, name: str) -> bool:
    """Is the file `name` of one of the source's languages, or of its kind where none are named?"""
    extensions, names = _chosen(language_names(source), source.kind)
    base = name.rsplit("/", 1)[-1]
    return os.path.splitext(base.lower())[1] in extensions or base in names or base.split(".")[0] in names


@lru_cache(maxsize=64)
def _chosen(languages: tuple[str, ...], kind: str) -> tuple[frozenset[str], frozenset[str]]:
    """(extensions, whole names)"""
    if not languages:
        return SOURCE_EXTENSIONS.get(kind, frozenset()), frozenset()
    signs = [sign for language in languages for sign in LANGUAGES[language].split()]
    return frozenset(s for s in signs if s[0] == "."), frozenset(s for s in signs if s[0] != ".")


def known_extensions(source: Source) -> list[str]:
    extensions, names = _chosen(language_names(source), source.kind)
    return [*sorted(extensions), *sorted(names)]


def is_vendored(name: str) -> bool:
    return not VENDORED.isdisjoint(name.split("/")[:-1])


def excluded_by_name(name: str) -> str | None:
    """Why a file is left out, as far as its name tells; None where it does not."""
    base = name.rsplit("/", 1)[-1].lower()
    stem, extension = os.path.splitext(base)
    if base in _LOCK_FILES:
        return "lock file"
    if extension in (".js", ".mjs", ".cjs", ".css") and stem.endswith((".min", "-min")):
        return "minified"
    return "generated" if _GENERATED_NAME.search(base) else None


def excluded_by_content(name: str, data: bytes) -> str | None:
    """Why a file is left out, by what is in it."""
    if b"\0" in data[:8192]:
        return "binary"
    extension = os.path.splitext(name.lower())[1]
    if extension in (".js", ".mjs", ".cjs", ".css") and len(data) > 500 * (data.count(b"\n") + 1):
        return "minified"
    if max(_line_lengths(data), default=0) > LONGEST_LINE:
        return f"line over {LONGEST_LINE:,} characters"
    head = b"\n".join(data[:4096].split(b"\n", _HEAD_LINES)[:_HEAD_LINES])
    return "generated" if _GENERATED_NOTE.search(head) else None


def _line_lengths(data: bytes) -> Iterator[int]:
    """Of each line, but only where some line can be too long."""
    if len(data) > LONGEST_LINE:
        yield from map(len, data.split(b"\n"))
