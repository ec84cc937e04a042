"""Writes a file of an object store only if nobody has written it since it was read: the ground of a lease.

pyarrow, which does all other work with files, has no such write. obstore has one for S3 and Azure (`If-None-Match`,
`If-Match`) and for Google's storage (generations). A condition that does not hold is answered by 412, or by 409 where
two writers meet at S3, or Azure's file exists. A store that answers but knows no conditions writes in any case, so a
writer whose file decides anything reads it back.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from raycodellm import azure
from raycodellm.file_systems import google_emulator
from raycodellm.files import Folder

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

logger = logging.getLogger(__name__)

_RETRIES: RetryConfig = {"max_retries": 2}
"""Few: whoever writes a lease must not hang, and tries again by itself."""
_TIMEOUT = "20s"
_BUSY_SECONDS = 1.2
"""Google's storage takes one writing of a file per second, and answers 429 to more; obstore repeats within less."""


_CREDENTIAL_HOSTS = ("//169.254.169.254/", "//metadata.google.internal/")
"""Parts of the addresses at which the machines of clouds tell programs their credentials."""


class Changed(Exception):
    """The file is not as the writer saw it: somebody else has written or removed it."""


class Unavailable(Exception):
    """The storage has no conditional writes, or obstore may not use it."""


@dataclass(frozen=True)
class Seen:
    """A file as it was read."""

    content: bytes
    version: dict[str, str]
    """ETag or generation, which tells this content from any other that the file has had."""


class ConditionalFile:
    """One file of an object store."""

    def __init__(self, store: ObjectStore, path: str, uri: str, version: str = "e_tag") -> None:
        """`version`: what the store's conditions compare, `e_tag`, or `version` (the generation) on Google's."""
        self._store, self._path, self._uri, self._version_key = store, path, uri, version
        self._has_answered = False

    def read(self) -> Seen | None:
        """The file; None when it does not exist. Raises `OSError` when the storage does not answer, and `Unavailable`
        when it answers that obstore may not read."""
        import obstore

        try:
            response = obstore.get(self._store, self._path)
            content = bytes(response.bytes())
        except FileNotFoundError:
            self._has_answered = True
            return None
        except obstore.exceptions.BaseError as error:
            raise self._translated(error) from error
        self._has_answered = True
        return Seen(content, _version(response.meta))

    def write(self, content: bytes, replaced: Seen | None) -> Seen:
        """Writes the file over what was `Seen`, None where it did not exist; returns what is written.

        Raises `Changed` when the file is another by now, also when this write was repeated and had succeeded before.
        `OSError` and `Unavailable` as in `read`.
        """
        import obstore

        if replaced is not None and self._version_key not in replaced.version:
            raise Unavailable(
                f"{self._uri}: the storage tells no {self._version_key} of the file, which it would compare"
            )
        mode: Any = "create" if replaced is None else replaced.version
        try:
            try:
                put_result = obstore.put(self._store, self._path, content, mode=mode)
            except obstore.exceptions.GenericError as error:
                if " 429 " not in str(error):
                    raise
                time.sleep(_BUSY_SECONDS)
                put_result = obstore.put(self._store, self._path, content, mode=mode)
        except (
            obstore.exceptions.AlreadyExistsError,
            obstore.exceptions.PreconditionError,
            FileNotFoundError,
        ) as error:
            raise Changed(str(error)[:200]) from error
        except obstore.exceptions.BaseError as error:
            raise self._translated(error) from error
        return Seen(content, _version(put_result))

    def _translated(self, error: Exception) -> Exception:
        from obstore.exceptions import NotSupportedError, PermissionDeniedError, UnauthenticatedError

        words = " ".join(str(error).split())[:200]
        refusals = (NotSupportedError, PermissionDeniedError, UnauthenticatedError)
        # Without credentials obstore asks the machine for some. Once it had some, the machine's answer is only late.
        lacks_credentials = not self._has_answered and any(host in words for host in _CREDENTIAL_HOSTS)
        if isinstance(error, refusals) or "501 Not Implemented" in str(error) or lacks_credentials:
            return Unavailable(f"{self._uri}: {words}")
        return ConnectionError(errno.ECONNABORTED, words, self._uri)


def _version(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {key: metadata[key] for key in ("e_tag", "version") if metadata.get(key)}


def conditional_file(folder: Folder, name: str) -> ConditionalFile | None:
    """The file `name` of a folder on S3, on Google's storage or on Azure's; None on any other storage."""
    scheme, _, rest = folder.uri.partition("://")
    address, _, query = rest.partition("?")
    bucket, _, path = address.partition("/")
    options = {key: values[-1] for key, values in parse_qs(query).items()}
    try:
        store = _store(scheme, bucket, folder, options)
    except Exception as error:  # options that obstore does not know: the storage is used without conditions
        logger.warning("%s: written without conditions (%s)", folder, error)
        return None
    if store is None:
        return None
    version = "version" if scheme in ("gs", "gcs") else "e_tag"
    return ConditionalFile(store, f"{unquote(path).rstrip('/')}/{name}", f"{folder}/{name}", version)


def _store(scheme: str, bucket: str, folder: Folder, options: dict[str, str]) -> ObjectStore | None:
    if scheme in ("gs", "gcs"):
        return _google(bucket, options)
    if (container := azure.container_of(folder.uri)) is not None:
        return container.store(_RETRIES, _TIMEOUT)
    return _s3(bucket, folder, options) if scheme == "s3" else None


def _google(bucket: str, options: dict[str, str]) -> ObjectStore:
    """`bucket`: perhaps with `anonymous@` before it."""
    from obstore.store import GCSStore

    user, _, bucket = bucket.rpartition("@")
    settings: dict[str, Any] = {}
    endpoint = options.get("endpoint_override")
    scheme = options.get("scheme", "https")
    if not endpoint and (emulator := google_emulator()):
        user, (scheme, endpoint) = "anonymous", emulator
    if user == "anonymous":  # `skip_signature` (0.12) asks for a token all the same when it writes
        empty_key = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        settings["service_account_key"] = json.dumps(empty_key)
    if endpoint:
        settings["base_url"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
    client: Any = {"timeout": _TIMEOUT, "allow_http": str(settings.get("base_url", "")).startswith("http://")}
    return GCSStore(bucket, retry_config=_RETRIES, client_options=client, **settings)


def _s3(bucket: str, folder: Folder, options: dict[str, str]) -> ObjectStore:
    from obstore.store import S3Store

    endpoint = options.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL_S3")
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL")
    settings: dict[str, Any] = {"region": options.get("region") or getattr(folder.filesystem, "region", None)}
    if endpoint:
        settings["endpoint"] = endpoint if "://" in endpoint else f"{options.get('scheme', 'https')}://{endpoint}"
    if options.get("force_virtual_addressing") == "true":
        settings["virtual_hosted_style_request"] = True
    if "AWS_ACCESS_KEY_ID" not in os.environ and importlib.util.find_spec("boto3") is not None:
        from obstore.auth.boto3 import (
            Boto3CredentialProvider,
        )  # knows profiles and single sign-on, which obstore does not

        settings["credential_provider"] = Boto3CredentialProvider()
    client: Any = {"timeout": _TIMEOUT, "allow_http": str(settings.get("endpoint", "")).startswith("http://")}
    return S3Store(bucket, retry_config=_RETRIES, client_options=client, **settings)
