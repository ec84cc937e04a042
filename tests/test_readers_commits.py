"""Git histories become documents: the same however they are cut and configured, and what is left out is counted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from reading import read

from raycodellm.config import Source, UserError
from raycodellm.corpora import Document, Skip, read_in_process, source_fingerprint
from raycodellm.corpora.formats import commits


def git(folder: Path, *arguments: str, **environment: str) -> str:
    fixed = {
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "author@example.org",
        "GIT_COMMITTER_NAME": "C",
        "GIT_COMMITTER_EMAIL": "committer@example.org",
        "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z",
        "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **fixed, **environment}
    ).stdout.strip()


def commit(folder: Path, message: str, **files: str | bytes) -> str:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    git(folder, "add", "-A")
    git(folder, "commit", "--allow-empty", "--allow-empty-message", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    return folder


def source(path: Path | str, **fields) -> Source:
    return Source(kind="code_adjacent", path=str(path), format="commits", **fields)


def test_a_commit_is_its_message_and_below_it_what_it_changed(repository):
    commit(repository, "Begin", a_dot_py="x = 1\n")
    message = "Count from zero\n\nAs everyone does.\n\nSigned-off-by: A <author@example.org>"
    second = commit(repository, message, a_dot_py="x = 0\n")
    documents, skips = read(source(repository))
    assert not skips
    assert documents[0] == Document(
        f"project:{second}",
        "Count from zero\n\nAs everyone does.\n\nSigned-off-by: A\n\n"
        "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 1\n+x = 0\n",
    )
    assert documents[1].text.startswith(
        "Begin\n\ndiff --git a/a.py b/a.py\nnew file mode 100644\n--- /dev/null\n+++ b/a"
    )
    assert not any("example.org" in document.text for document in documents)


def test_what_is_no_text_to_learn_from_is_left_out_and_counted(repository):
    commit(repository, "Binary and text", a_dot_py="x\n", logo_dot_png=b"\x89PNG\0\0\1")
    commit(repository, "Only binary", logo_dot_png=b"\x89PNG\0\0\2")
    commit(repository, "Latin", a_dot_py="y\n", b_dot_txt="caf\xe9\n".encode("latin-1"))
    commit(repository, "Lock", **{"package-lock_dot_json": "{}\n", "a_dot_py": "z\n", "vendor__v_dot_py": "v\n"})
    commit(repository, "Large", **{"big_dot_txt": "a line of text\n" * 40_000})
    commit(repository, "Nothing")
    commit(repository, "", a_dot_py="w\n")
    git(repository, "checkout", "-q", "-b", "side", "HEAD~1")
    commit(repository, "Side", side_dot_py="s\n")
    git(repository, "checkout", "-q", "main")
    git(repository, "merge", "-q", "--no-edit", "side")
    documents, skips = read(source(repository))
    assert sorted(document.text.split("\n")[0] for document in documents) == [
        "Binary and text",
        "Latin",
        "Lock",
        "Side",
    ]
    assert "PNG" not in "".join(document.text for document in documents)
    assert skips == {
        "merge commit": 1,
        "file of a commit: binary": 2,
        "file of a commit: undecodable bytes": 1,
        "file of a commit: lock file": 1,
        "file of a commit: vendored": 1,
        "diff over 256 KiB": 1,
        "commit without a change of text": 2,
        "commit without a message": 1,
    }
    assert Counter(row.reason for row in read_in_process(source(repository), source_fingerprint(source(repository)))
                   if isinstance(row, Skip))["merge commit"] == 1  # fmt: skip


def data_of(text: str) -> str:
    """A part of what `git fast-import` reads."""
    return f"data {len(text)}\n{text}"


@pytest.fixture(scope="module")
def sixty_commits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sixty")
    git(folder, "init", "-q", "-b", "main")
    stream = []
    for number in range(60):
        text = "".join(f"line {i} of {number % 7}\n" for i in range(number % 11 * 30)) or "x\n"
        stream.append("commit refs/heads/main\ncommitter C <committer@example.org> 1577836800 +0000")
        stream.append(data_of(f"Change {number}"))
        stream += [f"M 644 inline f{number % 5}.py", data_of(text), "M 644 inline n.md", data_of(f"{number}\n")]
    loose = ("-c", "fastimport.unpackLimit=1000")  # each object a file, as `git commit` leaves it
    command = ["git", "-C", str(folder), *loose, "fast-import", "--quiet"]
    subprocess.run(command, check=True, input="\n".join(stream), text=True)
    git(folder, "reset", "-q", "--hard")
    return folder


@pytest.fixture
def history(sixty_commits, tmp_path) -> Path:
    """A copy of the repository of sixty commits, for one test to change."""
    return shutil.copytree(sixty_commits, tmp_path / "project")


@pytest.mark.slow
def test_a_history_is_the_same_for_every_cut_and_whatever_the_user_configured(history, monkeypatch, tmp_path):
    whole = read(source(history))
    assert len(whole[0]) == 60
    for part_bytes in (1, 20_000):
        assert read(source(history), part_bytes) == whole
    config = tmp_path / "config"
    config.write_text("[diff]\nnoprefix = true\ncontext = 9\nalgorithm = patience\nexternal = false\n"
                      "[color]\nui = always\n[log]\nshowSignature = true\n")  # fmt: skip
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    (history / ".gitattributes").write_text("*.py -diff\n")
    assert read(source(history)) == whole


def test_a_bare_clone_is_the_same_source_and_only_the_listed_head_is_read(history, tmp_path):
    bare = tmp_path / "elsewhere" / "project.git"
    git(tmp_path, "clone", "-q", "--bare", str(history), str(bare))
    one, two = source_fingerprint(source(history)), source_fingerprint(source(bare))
    assert one.fingerprint == two.fingerprint
    assert read(source(bare)) == read(source(history))
    before = [row.id for row in read_in_process(source(history), one)]
    head = commit(history, "Later", a_dot_py="1\n")
    assert [row.id for row in read_in_process(source(history), one)] == before
    later = source_fingerprint(source(history))
    assert later.fingerprint != one.fingerprint and later.files[0].digest == head


def test_languages_choose_the_files_of_a_history(history):
    documents, skips = read(source(history, languages=("markdown",)))
    assert len(documents) == 60 and all("f0.py" not in document.text for document in documents)
    assert skips["file of a commit: of another language"] > 50


def test_the_edge_of_a_shallow_clone_is_no_commit(history, tmp_path):
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "3", history.as_uri(), str(shallow))
    documents, skips = read(source(shallow))
    assert len(documents) == 2 and skips == {"first commit of a shallow clone": 1}


def test_a_folder_of_repositories_is_one_source(history, tmp_path):
    git(tmp_path, "clone", "-q", str(history), str(tmp_path / "all" / "one"))
    git(tmp_path, "clone", "-q", "--bare", str(history), str(tmp_path / "all" / "deep" / "two.git"))
    inputs = source_fingerprint(source(tmp_path / "all"))
    assert [file.name for file in inputs.files] == ["all/deep/two", "all/one"]
    assert len(read(source(tmp_path / "all"))[0]) == 120


def test_no_repository_no_commit_and_no_git_are_said(tmp_path, repository, monkeypatch):
    with pytest.raises(UserError, match="is no git repository"):
        source_fingerprint(source(tmp_path / "nothing"))
    with pytest.raises(UserError, match="give a repository with a commit"):
        source_fingerprint(source(repository))
    with pytest.raises(UserError, match="local repositories"):
        source_fingerprint(source("s3://bucket/project"))
    monkeypatch.setenv("PATH", str(tmp_path))
    commits._git_folder.cache_clear()
    with pytest.raises(UserError, match="git, which is not on the PATH"):
        source_fingerprint(source(repository))


def test_an_object_that_is_gone_stops_the_reading(history):
    wanted = source(history)
    inputs = source_fingerprint(wanted)
    blob = git(history, "rev-parse", "HEAD:n.md")
    (history / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(UserError, match="git cannot read a commit"):
        list(read_in_process(wanted, inputs))


def test_memory_is_bounded_by_the_largest_diff():
    sign = b"s" * 32
    stream = [sign + b"a" * 40 + b"\nmessage\0\n" + b"+text\n" * 100_000, sign + b"b" * 40 + b"\nnext\0\ndiff\n"]

    class Pipe:
        data = b"".join(stream)

        def read(self, count: int) -> bytes:
            chunk, self.data = self.data[:1000], self.data[1000:]
            return chunk

    assert list(commits._split(Pipe(), sign)) == [("a" * 40, None), ("b" * 40, b"next\0\ndiff\n")]
