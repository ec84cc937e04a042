"""Data sets of the Hugging Face hub, read by ranges over HTTP: nothing is downloaded as a whole.

`hf://datasets/<owner>/<name>[@revision][/path]`; HF_ENDPOINT and HF_TOKEN say which hub and who asks. What is listed is
pinned to the commit that the revision then was, so that a run reads one state whatever is pushed meanwhile.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from raycodellm.config import UserError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEME = "hf://"
ANSWER_SECONDS = 10.0
"""The hub's first answer takes a tenth of a second; a hub that is not there is known after this, not after retries."""
_URI = re.compile(r"hf://datasets/(?P<repo>[^/@]+(?:/[^/@]+)?)(?:@(?P<revision>[^/]+))?(?P<path>/.*)?$")


def list_hub(root: str) -> tuple[str, list[tuple[str, str, int, str]]]:
    """(root pinned to a commit, (uri, name, bytes, content hash) of all files below it).

    Raises UserError, within seconds, where the hub cannot be reached or has no such data set.
    """
    repo, revision, inner = _parse(root)
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    try:
        commit = api.dataset_info(repo, revision=revision, timeout=ANSWER_SECONDS).sha
        tree = api.list_repo_tree(repo, repo_type="dataset", revision=commit, recursive=True, expand=False)
        files = [entry for entry in tree if isinstance(entry, RepoFile)]
    except Exception as error:
        raise _explained(root, error) from error
    base = f"hf://datasets/{repo}@{commit}"
    top = inner.rpartition("/")[0] if any(file.path == inner for file in files) else inner
    found = []
    for file in files:
        if inner and file.path != inner and not file.path.startswith(f"{inner}/"):
            continue
        digest = file.lfs.sha256 if file.lfs else file.blob_id
        found.append((f"{base}/{file.path}", file.path.removeprefix(top).lstrip("/"), file.size, digest))
    if not found:
        raise UserError(f"{root}: there is no such file or folder in the data set {repo}; it holds {_names(files)}")
    return f"{base}/{inner}".rstrip("/"), found


def _names(files: list[Any]) -> str:
    tops = dict.fromkeys(file.path.split("/")[0] for file in files)
    return ", ".join(list(tops)[:12]) or "no file"


def _parse(root: str) -> tuple[str, str | None, str]:
    """(owner/name, revision, path inside)"""
    found = _URI.match(root)
    if found is None:
        raise UserError(f"{root}: is no data set; write hf://datasets/<owner>/<name>[@revision][/path]")
    from urllib.parse import unquote

    revision = unquote(found["revision"]) if found["revision"] else None
    return found["repo"], revision, (found["path"] or "").strip("/")


def _explained(root: str, error: Exception) -> Exception:
    """A UserError that says what would work; the error itself where the fault is not the request's or the network's."""
    from huggingface_hub import errors

    endpoint = os.environ.get("HF_ENDPOINT", "the hub")
    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"{root}: asks for its terms to be accepted on its page, then set HF_TOKEN or run `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{root}: has no such revision; leave @… out or name a branch, tag or commit of it")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{root}: no such data set on {endpoint}, or it is private: then set HF_TOKEN or run `hf auth login`"
        )
    network = isinstance(error, (OSError, errors.HfHubHTTPError)) or type(error).__module__.split(".")[0] in _CLIENTS
    if not network:
        return error
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return UserError(
        f"{root}: {endpoint} cannot be reached ({reason}); set HF_ENDPOINT to a mirror, or where there is a network, "
        "`hf download --repo-type dataset --local-dir FOLDER NAME`, and give the folder"
    )


_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")


@lru_cache(maxsize=1)
def hub_filesystem() -> FileSystem:
    from huggingface_hub import HfFileSystem
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(HfFileSystem()))


def hub_path(uri: str) -> str:
    return uri.removeprefix(SCHEME)
