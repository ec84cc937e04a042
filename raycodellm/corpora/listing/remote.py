"""Lists objects of an object store, and explains its refusals."""

from __future__ import annotations

import re

from raycodellm.config import UserError
from raycodellm.corpora.listing.globs import Glob, fixed_part, is_glob
from raycodellm.corpora.listing.local import NEVER_ENTERED, ListedFile
from raycodellm.corpora.parts import open_bucket


def list_remote(root: str) -> list[ListedFile]:
    """The objects at `root`, which is an object, a folder or a glob. Raises UserError if the store has none."""
    from pyarrow.fs import FileSelector, FileType

    base = fixed_part(root) if is_glob(root) else root
    filesystem, path = open_bucket(base)
    info = filesystem.get_file_info(path)
    if info.type == FileType.NotFound:
        raise UserError(f"{root}: there is no such object or folder, or no such bucket")
    infos = [info] if info.is_file else filesystem.get_file_info(FileSelector(path, recursive=True))
    top = path.rpartition("/")[0] if info.is_file else path
    matching = Glob(root.removeprefix(base).lstrip("/")) if is_glob(root) else re.compile("")
    found = []
    for file in infos:
        name = file.path.removeprefix(top).lstrip("/")
        is_hidden = any(part.startswith(".") or part in NEVER_ENTERED for part in name.split("/"))
        if file.is_file and not is_hidden and matching.match(name):
            uri = base if info.is_file else f"{base}/{name}"
            found.append(ListedFile(uri, name, file.size, str(file.mtime_ns)))
    return found


def storage_hint(root: str, error: Exception) -> str:
    """Advice to add to the message of an object store's refusal; empty for local paths."""
    said = str(error)
    scheme, bucket = root.split("://")[0], "/".join(root.split("/")[:3])
    if scheme not in ("s3", "gs") or "://" not in root:
        return ""
    if re.search(r"ACCESS_?DENIED|Forbidden|HTTP status 403|INVALID_?ACCESS_?KEY|SIGNATURE|access token", said, re.I):
        aws = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,"
        key = aws if scheme == "s3" else "GOOGLE_APPLICATION_CREDENTIALS"
        return f"; set {key} for {bucket}, or write {scheme}://anonymous@… for a public one"
    if re.search(r"NO_SUCH_BUCKET|NoSuchBucket|HTTP status 404|ucket .* not found", said):
        return f"; there is no bucket {bucket}: check its name, and AWS_ENDPOINT_URL where it is not on AWS"
    return f"; check the network, and AWS_ENDPOINT_URL and AWS_REGION where {bucket} is not on AWS"
