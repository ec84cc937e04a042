"""Lists data sets of the Hugging Face hub, which are read by ranges over HTTP: no file is downloaded as a whole.

A source is written `hf://datasets/<owner>/<name>[@revision][/path]`; HF_ENDPOINT and HF_TOKEN say which hub and who
asks. What is listed is pinned to the commit that the revision names at that time, so that a run reads one state.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from raycodellm.config import Unreachable, UserError
from raycodellm.corpora.inputs import InputFile
from raycodellm.corpora.listing.globs import is_glob, split_glob

ANSWER_SECONDS = 10.0
"""Seconds to wait for the hub's first answer, which takes 0.1 s. Retries would hide a missing hub for minutes."""
_URI = re.compile(r"hf://datasets/(?P<repo>[^/@]+(?:/[^/@]+)?)(?:@(?P<revision>[^/]+))?(?P<path>/.*)?$")
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")
"""Libraries whose errors are errors of the network."""


def list_hub(root: str) -> tuple[str, list[InputFile]]:
    """(root pinned to a commit, the files at `root`, which is a data set, a folder or file in it, or a glob).

    Raises UserError if the hub has no such data set, and Unreachable, within seconds, if it cannot be reached.
    """
    folder, pattern = split_glob(root)
    pinned, files = _list_folder(folder)
    return (f"{pinned}/*" if is_glob(root) else pinned), [file for file in files if pattern.match(file.name)]


def _list_folder(root: str) -> tuple[str, list[InputFile]]:
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
    inputs = []
    for file in files:
        if inner and file.path != inner and not file.path.startswith(f"{inner}/"):
            continue
        digest = file.lfs.sha256 if file.lfs else file.blob_id
        name = file.path.removeprefix(top).lstrip("/")
        inputs.append(InputFile(f"{base}/{file.path}", file.size, digest, name))
    if not inputs:
        tops = ", ".join(list(dict.fromkeys(file.path.split("/")[0] for file in files))[:12]) or "no file"
        raise UserError(f"{root}: there is no such file or folder in the data set {repo}; it holds {tops}")
    return f"{base}/{inner}".rstrip("/"), inputs


def _parse(root: str) -> tuple[str, str | None, str]:
    """(owner/name, revision, path inside)"""
    match = _URI.match(root)
    if match is None:
        raise UserError(f"{root}: is no data set; write hf://datasets/<owner>/<name>[@revision][/path]")
    revision = unquote(match["revision"]) if match["revision"] else None
    return match["repo"], revision, (match["path"] or "").strip("/")


def _explained(root: str, error: Exception) -> Exception:
    """A UserError that says what would work; the error itself if neither the request nor the network is at fault."""
    from huggingface_hub import errors

    endpoint = os.environ.get("HF_ENDPOINT", "the hub")
    login = "then set HF_TOKEN or run `hf auth login`"
    for kind, message in {
        errors.GatedRepoError: f"asks for its terms to be accepted on its page, {login}",
        errors.RevisionNotFoundError: "has no such revision; leave @… out or name a branch, tag or commit of it",
        errors.RepositoryNotFoundError: f"no such data set on {endpoint}, or it is private: {login}",
    }.items():
        if isinstance(error, kind):
            return UserError(f"{root}: {message}")
    is_network_error = (
        isinstance(error, (OSError, errors.HfHubHTTPError)) or type(error).__module__.split(".")[0] in _CLIENTS
    )
    if not is_network_error:
        return error
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return Unreachable(
        f"{root}: {endpoint} cannot be reached ({reason}); set HF_ENDPOINT to a mirror, or on a machine with a network "
        "`hf download --repo-type dataset --local-dir FOLDER NAME`, and give the folder"
    )
