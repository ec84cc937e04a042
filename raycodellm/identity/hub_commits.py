"""The commits behind names on the Hugging Face hub: `owner/name` or `owner/name@revision`.

The hub says the commit; without a network, or with HF_HUB_OFFLINE, the local cache does. Workers load the pinned name
`owner/name@commit`, so that all of them read one state whatever is pushed meanwhile.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from raycodellm.config import Unreachable, UserError
from raycodellm.files import Folder

ANSWER_SECONDS = 10.0
"""Longest wait for the hub."""
CARDS = ("README.md", ".gitattributes")
"""Files that nearly every data set of the hub has."""
_NAME = re.compile(r"(?P<repo>\w[\w.-]*(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def folder_of(name: str) -> Folder | None:
    """The folder that a `pretrained` setting names; None where the setting names a repository of the hub."""
    if "://" in name:
        return Folder(name)
    return Folder(name) if Path(name).expanduser().is_dir() or not _NAME.fullmatch(name) else None


def parts_of(name: str) -> tuple[str, str | None]:
    """(owner/name, revision) of a name on the hub."""
    match = _NAME.fullmatch(name)
    return (match["repo"], match["revision"]) if match else (name, None)


def pinned(key: str, name: str, files: tuple[str, ...] = ("config.json",)) -> tuple[str, str]:
    """(owner/name, commit) of the repository that the sweep file's `key` names. Raises UserError where no commit is
    known."""
    try:
        return parts_of(name)[0], commit(name, files)
    except UserError as error:
        raise type(error)(f"{key}: {error}") from error


@lru_cache(maxsize=64)
def commit(name: str, files: tuple[str, ...], kind: str = "model") -> str:
    """The commit of `owner/name[@revision]`; one answer per process.

    `files`: a copy in the local cache counts when it has one of these. `kind`: model or dataset. Raises UserError where
    neither the hub nor the local cache knows a commit; Unreachable where the hub did not answer.
    """
    repo, revision = parts_of(name)
    if revision and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    try:
        sha = HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=ANSWER_SECONDS).sha
    except Exception as error:  # from the network, HTTP or the hub; whatever the error, the local cache may know
        sha = cached_commit(repo, revision, files, kind)
        if sha is None:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            kind_of_error = UserError if _is_answer(error) else Unreachable
            raise kind_of_error(
                f"{name!r} is no folder here, and no commit of it is known: {reason[:120]}; give a folder, or download "
                f"it where there is a network: hf download {repo}"
            ) from error
    return str(sha)


def _is_answer(error: Exception) -> bool:
    """True for an error that the hub itself gave: no such repository, no access."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is not None and status < 500


def cached_commit(repo: str, revision: str | None, files: tuple[str, ...], kind: str) -> str | None:
    """The commit that the local cache holds; None where the cache has none of `files`."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in files:
        try:
            path = try_to_load_from_cache(repo, file, revision=revision, repo_type=kind)
        except HFValidationError:
            return None
        if isinstance(path, str):  # …/snapshots/<commit>/<file>
            return Path(path).parents[len(Path(file).parts) - 1].name
    return None
