"""Azure's blob storage: opens the container of `abfss://container@account.dfs.core.windows.net/folder`, and writes and
deletes its files.

pyarrow, which does all other work, takes no key from the environment. It writes a file in three requests, of which the
first leaves an empty file: a reader would meet that, and so would everybody once a writer was killed. It deletes a file
under a lease, which it then gives up for seconds in vain. obstore does either by one request.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from raycodellm.config import UserError

if TYPE_CHECKING:
    from obstore.store import AzureStore, RetryConfig
    from pyarrow.fs import FileSystem

_ADDRESS = re.compile(r"abfss?://([^@:/?]+)@([^.@:/?]+)\.(?:dfs|blob)\.([^@:/?]+)(?:/[^?]*)?")
EXAMPLE = "abfss://container@account.dfs.core.windows.net/folder"
_RETRIES: RetryConfig = {"max_retries": 8}
"""Within a few seconds; `retrying` waits longer."""
_TIMEOUT = "60s"
_PROBE_NAME = ".raycodellm"
"""A name that is asked for when an account is opened: pyarrow needs no credentials before its first request."""
_KEYS = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY")
"""Names that Azure's programs and libraries have for the variable with the account's key."""


@dataclass(frozen=True)
class Container:
    """A container of an account."""

    name: str
    account: str
    domain: str
    """The part after `.dfs.` or `.blob.`: `core.windows.net`."""

    @property
    def _endpoint(self) -> str | None:
        """URL of a server that stands in for Azure, such as Azurite, from `AZURE_STORAGE_ENDPOINT`; None without."""
        url = urlsplit(os.environ.get("AZURE_STORAGE_ENDPOINT", ""))
        return f"{url.scheme}://{url.netloc}" if url.netloc else None

    def opened(self) -> FileSystem:
        """pyarrow's file system of the account, by the key in the environment, or else by what Azure's own library
        finds (a service principal, a workload's or a machine's identity).

        Raises `UserError` where that is nothing, and `OSError` when Azure does not answer."""
        import pyarrow as pa

        options: dict[str, Any] = {"account_key": key} if (key := _key()) else {}
        if self._endpoint is not None:
            scheme, _, host = self._endpoint.partition("://")
            for kind in ("blob", "dfs"):
                options |= {f"{kind}_storage_authority": host, f"{kind}_storage_scheme": scheme}
        else:
            options |= {f"{kind}_storage_authority": f".{kind}.{self.domain}" for kind in ("blob", "dfs")}
        system = _file_system_of()(self.account, **options)
        system.container = self
        try:
            system.get_file_info(f"{self.name}/{_PROBE_NAME}")
        except pa.ArrowException as error:  # no OSError, as which everything else is told
            words = str(error).rpartition("failed: ")[2].partition(": ")[2]
            raise UserError(
                f"abfss://{self.name}@{self.account}.dfs.{self.domain}: may not be asked ({words[:100]}); set "
                "AZURE_STORAGE_KEY, or give the machine an identity that may"
            ) from error
        return system

    def store(self, retries: RetryConfig = _RETRIES, timeout: str = _TIMEOUT) -> AzureStore:
        """obstore's client of the container, by the same key, or by what obstore finds (a service principal, a
        workload's or a machine's identity)."""
        from obstore.store import AzureStore

        secrets: dict[str, Any] = {"account_key": key} if (key := _key()) else {}
        endpoint = self._endpoint
        url = f"{endpoint}/{self.account}" if endpoint else f"https://{self.account}.blob.{self.domain}"
        client: Any = {"timeout": timeout, "allow_http": url.startswith("http://")}
        names: dict[str, Any] = {"account_name": self.account, "endpoint": url}
        return AzureStore(self.name, retry_config=retries, client_options=client, **names, **secrets)


def _key() -> str | None:
    """The account's key; None where the environment has none. A signature in its place (SAS) is not taken: pyarrow's
    messages show the address that it asked, which would hold the signature."""
    return next((os.environ[name] for name in _KEYS if os.environ.get(name)), None)


def container_of(uri: str) -> Container | None:
    """The container that an address names; None for an address of another storage, or with pyarrow's own options."""
    match = _ADDRESS.fullmatch(uri)
    return None if match is None else Container(*match.groups())


@functools.cache
def _file_system_of() -> Any:
    """pyarrow's file system in a form that is pickled as the container's name, without the account's key: the process
    that it is sent to has its own environment. A function, since only who opens one imports pyarrow."""
    from pyarrow.fs import AzureFileSystem

    class Account(AzureFileSystem):
        container: Container

        def __reduce__(self) -> tuple[Any, ...]:
            return Container.opened, (self.container,)

    return Account


@functools.lru_cache(maxsize=64)
def _store(container: Container, process: int) -> AzureStore:
    """`process`: its number, as in `file_systems`."""
    return container.store()


def write(container: Container, path: str, data: bytes | memoryview) -> None:
    """Writes the file `path` of the container whole or not at all. Raises `OSError`."""
    import obstore

    try:
        obstore.put(_store(container, os.getpid()), path, bytes(data))  # obstore takes a memoryview for a row of parts
    except obstore.exceptions.BaseError as error:
        raise _as_system_error(error) from error


def delete_file(container: Container, path: str) -> None:
    """Deletes the file `path` of the container; does nothing where it does not exist. Raises `OSError`."""
    import obstore

    try:
        obstore.delete(_store(container, os.getpid()), path)
    except FileNotFoundError:
        return
    except obstore.exceptions.BaseError as error:
        raise _as_system_error(error) from error


def _as_system_error(error: Exception) -> OSError:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    words = " ".join(str(error).partition("Debug source:")[0].split())[:200]
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return PermissionError(words)
    return ConnectionError(words)  # without a number, so that the words are kept
