"""The history of local git repositories: a document is a commit, its message and below it what it changed.

    Fix the off-by-one in the pager

    The last page was never shown.

    diff --git a/pager.py b/pager.py
    --- a/pager.py
    +++ b/pager.py
    @@ -10,7 +10,7 @@ def pages(rows, size):
    …

Authors, dates and the e-mail addresses in messages are not part of a document. Left out and counted are merges, commits
without a message or a change, and commits that change over 256 KiB of text; within a commit binary, undecodable,
generated, minified, vendored and lock files, and files of other languages than the source's. Only the history of the
commit that HEAD named when the source was listed is read, whatever HEAD names later.
"""

from __future__ import annotations

import glob
import os
import re
import secrets
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO

from raycodellm.config import Source, UserError
from raycodellm.corpora import source_files
from raycodellm.corpora.documents import Record, SkipError, decode
from raycodellm.corpora.inputs import InputFile, Part
from raycodellm.corpora.listing.files import name_of
from raycodellm.corpora.listing.globs import is_glob
from raycodellm.corpora.registry import Format
from raycodellm.files import Folder

COMMIT_BYTES = 4096
"""A history is cut into parts as if it were a file in which commit k, counted from the newest, begins at byte 4096·k:
about the bytes that a commit's message and diff take."""
LARGEST_DIFF = 256 << 10
# Each alternative begins where a run of its signs begins, and takes the run whole: else it takes quadratic time.
_EMAIL = re.compile(r"(?<!\s)\s*+<[^<>\s@]++@[^<>\s]++>|(?<![\w.+-])[\w.+-]++@[\w-]++\.[\w.-]+\w")
_NAME = re.compile(rb'^(?:\+\+\+ "?b/|--- "?a/|rename to "?|copy to "?)(.*?)"?\t?$', re.MULTILINE)
_OLD_NAME = re.compile(rb'^diff --git "?a/(.*?)"? "?b/', re.MULTILINE)
_NOISE = re.compile(rb"^(index [0-9a-f]+\.\.[0-9a-f]+.*|similarity index .*|dissimilarity index .*)\n", re.MULTILINE)


def list_histories(path: str, excluded: Counter[str]) -> Iterator[InputFile]:
    """Each repository at or below the path, as a file of `COMMIT_BYTES` per commit; `uri` is `<path>#<HEAD's commit>`.

    Raises UserError if the path has no repository, and for a history that git cannot read.
    """
    root = Folder(path).uri
    if "://" in root:
        raise UserError(f"{path}: commits are read from local repositories; clone it and give the folder")
    roots = sorted(glob.glob(root)) if is_glob(root) and not os.path.exists(root) else [root]
    repositories = [(repository, top) for top in roots for repository in _find_repositories(top, excluded)]
    if not repositories:
        raise UserError(f"{path}: is no git repository and holds none; give a work tree, a bare one or their folder")
    for repository, top in repositories:
        head, count, left_out = _list_history(repository)
        excluded.update(left_out)
        name = os.path.basename(repository) if repository == top else name_of(repository, os.path.dirname(top))
        yield InputFile(f"{repository}#{head}", count * COMMIT_BYTES, head, name.removesuffix(".git"))


def _find_repositories(root: str, excluded: Counter[str]) -> list[str]:
    """Work trees and bare repositories at `root` or below, sorted. Hidden folders and links are not entered."""
    if _is_repository(root):
        return [root]
    repositories = []
    for folder, names, _ in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        links = {name for name in names if os.path.islink(os.path.join(folder, name))}
        excluded.update(["link to a folder"] * len(links))
        names[:] = [name for name in names if name not in links]
        inside = [name for name in names if _is_repository(os.path.join(folder, name))]
        repositories += [os.path.join(folder, name) for name in inside]
        names[:] = [name for name in names if name not in inside]
    return sorted(repositories)


def _is_repository(path: str) -> bool:
    bare = all(os.path.exists(os.path.join(path, name)) for name in ("HEAD", "objects", "refs"))
    return bare or os.path.exists(os.path.join(path, ".git"))


def _list_history(path: str) -> tuple[str, int, dict[str, int]]:
    """(id of HEAD's commit, commits to read, commits left out by reason). Raises UserError if git cannot read it."""
    try:
        head = _git(path, "rev-parse", "--verify", "HEAD^{commit}").strip()
        commits = int(_git(path, "rev-list", "--count", "--no-merges", head))
        merges = int(_git(path, "rev-list", "--count", "--merges", head))
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().split("\n")[0]
        raise UserError(f"{path}: git cannot read its history: {reason}; give a repository with a commit") from error
    return head, commits, {"merge commit": merges} if merges else {}


def read_commits(part: Part, source: Source) -> Iterator[Record]:
    """The commits of the part; `part.uri` is `<path>#<commit id of HEAD>`."""
    path, _, head = part.uri.rpartition("#")
    num_newer = -(-part.start // COMMIT_BYTES)
    count = -(-part.stop // COMMIT_BYTES) - num_newer
    if count <= 0:
        return
    shallow = _shallow_edge(path)
    for commit, data in _patches(path, head, num_newer, count):
        if commit in shallow:
            records: Iterable[str | SkipError] = [SkipError("first commit of a shallow clone")]
        elif data is None:
            records = [SkipError(f"diff over {LARGEST_DIFF >> 10} KiB")]
        else:
            records = _commit_records(data, source)
        yield from ((f":{commit}", record) for record in records)


def _commit_records(data: bytes, source: Source) -> Iterator[str | SkipError]:
    """The document of a commit, and a SkipError for each of its files that is not in the document."""
    message, _, diff = data.partition(b"\0")
    text = _EMAIL.sub("", message.decode(errors="replace")).strip()
    if not text:
        yield SkipError("commit without a message")
        return
    diffs = []
    for file in filter(None, re.split(rb"^(?=diff --git )", diff.strip(b"\n"), flags=re.MULTILINE)):
        try:
            diffs.append(_file_diff(file, source))
        except SkipError as skip:
            yield SkipError(f"file of a commit: {skip}")
    yield "\n\n".join([text, "\n".join(diffs)]) + "\n" if diffs else SkipError("commit without a change of text")


def _file_diff(file: bytes, source: Source) -> str:
    """The diff of a file as text. Raises SkipError for a file that is left out."""
    header, hunks, body = file.partition(b"\n@@ ")
    paths = _NAME.findall(header) or _OLD_NAME.findall(header)
    name = next((path for path in reversed(paths) if path != b"/dev/null"), b"").decode(errors="replace")
    if b"\nGIT binary patch" in header or re.search(rb"^Binary files .* differ$", header, re.MULTILINE):
        raise SkipError("binary")
    if source_files.is_vendored(name):
        raise SkipError("vendored")
    if source.languages and not source_files.is_chosen(source, name):
        raise SkipError("of another language")
    source_files.check_name(name)
    source_files.check_lines(body)
    if b"\0" in body:
        raise SkipError("binary")
    return decode(_NOISE.sub(b"", header + b"\n").rstrip(b"\n") + hunks + body).strip("\n")


def _patches(path: str, head: str, num_newer: int, count: int) -> Iterator[tuple[str, bytes | None]]:
    """(commit id, message NUL diff; None if both are over `LARGEST_DIFF`), in memory bounded by `LARGEST_DIFF`.

    A random word, drawn anew each time, separates commits: no commit can hold it. The git commands are plumbing, so
    that the user's configuration of `git log` and `git diff` changes no document.
    """
    sign = secrets.token_hex(16)
    ids = _git(path, "rev-list", "--no-merges", f"--skip={num_newer}", f"--max-count={count}", head)
    with tempfile.TemporaryFile() as commits, tempfile.TemporaryFile() as errors:
        commits.write(ids.encode())
        commits.seek(0)
        command = _command(path, *_DIFF, f"--pretty=tformat:{sign}%H%n%B%x00")
        with subprocess.Popen(command, stdin=commits, stdout=subprocess.PIPE, stderr=errors, env=_environment()) as git:
            assert git.stdout
            try:
                yield from _split(git.stdout, sign.encode())
            except GeneratorExit:
                git.terminate()
                raise
        if git.returncode:
            errors.seek(0)
            reason = errors.read().decode(errors="replace").strip()
            raise UserError(
                f"{path}: git cannot read a commit: {reason or git.returncode}; `git fsck` names what is damaged, and "
                "a new clone mends it"
            )


_DIFF = (
    *("diff-tree", "--stdin", "--always", "--root", "-r", "-p", "-U3", "-M", "-l400", "--diff-algorithm=myers"),
    *("--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", "--inter-hunk-context=0"),
)


def _split(stream: IO[bytes], sign: bytes) -> Iterator[tuple[str, bytes | None]]:
    """(commit id, the rest) of the records between signs; None instead of a rest over `LARGEST_DIFF`."""
    buffer, too_large = b"", False
    while True:
        chunk = stream.read(1 << 16)
        *records, buffer = (buffer + chunk).split(sign)
        if not chunk:
            records.append(buffer)
        for record in records:
            commit, _, data = record.partition(b"\n")
            if commit:
                yield commit.decode(), None if too_large or len(data) > LARGEST_DIFF else data
            too_large = False
        if not chunk:
            return
        if len(buffer) > LARGEST_DIFF + 100:
            # Keeps the id, and bytes that may be the beginning of the next sign.
            buffer, too_large = buffer.partition(b"\n")[0] + b"\n" + buffer[-len(sign) :], True


def _shallow_edge(path: str) -> frozenset[str]:
    """Commits whose parents were not fetched: their diffs would hold the whole tree."""
    file = Path(_git_folder(path), _git(path, "rev-parse", "--git-path", "shallow").strip())
    return frozenset(file.read_text().split()) if file.exists() else frozenset()


def _git(path: str, *arguments: str) -> str:
    run = subprocess.run(_command(path, *arguments), capture_output=True, check=True, env=_environment())
    return run.stdout.decode()


def _command(path: str, *arguments: str) -> list[str]:
    """Runs in the folder of the repository's data, so that work trees, their attributes and indexes change nothing."""
    settings = ("-c", "core.quotePath=false", "-c", "diff.suppressBlankEmpty=false", "-c", "core.attributesFile=")
    return ["git", "-C", _git_folder(path), *settings, *arguments]


@lru_cache(maxsize=256)
def _git_folder(path: str) -> str:
    try:
        command = ["git", "-C", path, "rev-parse", "--absolute-git-dir"]
        run = subprocess.run(command, capture_output=True, check=True, env=_environment())
    except FileNotFoundError as error:
        raise UserError(f"{path}: commits are read by git, which is not on the PATH; install it") from error
    return run.stdout.decode().rstrip("\n")


def _environment() -> dict[str, str]:
    git_variables = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_NO_REPLACE_OBJECTS": "1"}
    git_variables["GIT_INDEX_FILE"] = "no-such-index"
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | git_variables


FORMAT = Format(
    name="commits",
    settings=frozenset({"languages"}),
    list_inputs=list_histories,
    read=read_commits,
    identity=source_files.identity(reader=2),
)
