"""The commits behind names on the Hugging Face hub: `owner/name` or `owner/name@revision`.

The hub says the commit; without a network, or with HF_HUB_OFFLINE, the local cache does. Workers load the pinned name
`owner/name@commit`, so that all of them read one state whatever is pushed meanwhile.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from pathlib import Path

from raycodellm.config import Unreachable, UserError
from raycodellm.files import Folder

ANSWER_SECONDS = 10.0
"""Longest wait for the hub."""
SILENT_SECONDS = 60.0
"""A hub that could not be reached is not asked again for so long: a sweep may name many models."""
CARDS = ("README.md", ".gitattributes")
"""Files that nearly every data set of the hub has."""
_NAME = re.compile(r"(?P<repo>\w[\w.-]*(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


_silent_until = 0.0
"""On the monotonic clock."""


def folder_of(name: str) -> Folder | None:
    """The folder that a `pretrained` setting names; None where the setting names a repository of the hub."""
    if "://" in name:
        return Folder(name)
    return Folder(name) if Path(name).expanduser().is_dir() or not _NAME.fullmatch(name) else None


def parts_of(name: str) -> tuple[str, str | None]:
    """(owner/name, revision) of a name on the hub."""
    match = _NAME.fullmatch(name)
    return (match["repo"], match["revision"]) if match else (name, None)


def loadable(name: str) -> tuple[str, dict[str, str]]:
    """Arguments of transformers' `from_pretrained` for a local folder, or for a name on the hub with its commit.

    Raises as `commit` does, within seconds: transformers tries a hub that does not answer for half a minute.
    """
    if Path(name).is_dir():
        return name, {}
    return parts_of(name)[0], {"revision": commit(name, ("config.json",))}


def pinned(key: str, name: str, files: tuple[str, ...] = ("config.json",)) -> tuple[str, str]:
    """(owner/name, commit) of the repository that the sweep file's `key` names. Raises as `commit` does."""
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
    try:
        return _commit_by_hub(repo, revision, kind)
    except Exception as error:  # from the network, HTTP or the hub; whatever the error, the local cache may know
        sha = cached_commit(repo, revision, files, kind)
        if sha is not None:
            return sha
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise (UserError if _is_answer(error) else Unreachable)(
            f"{name!r} is no folder here, and no commit of it is known: {reason[:120]}; give a folder, or download "
            f"it where there is a network: hf download {repo}"
        ) from error


def _commit_by_hub(repo: str, revision: str | None, kind: str) -> str:
    """The commit that the hub says. Raises an error of the network, of HTTP or of the hub."""
    global _silent_until
    from huggingface_hub import HfApi

    if time.monotonic() < _silent_until:
        raise ConnectionError("the hub could not be reached")
    try:
        return str(HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=ANSWER_SECONDS).sha)
    except Exception as error:
        if not _is_answer(error):
            _silent_until = time.monotonic() + SILENT_SECONDS
        raise


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
