"""Keys and passwords in addresses: refused in settings, and masked in messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from raycodellm.config.errors import UserError

# The part of an address before the @, if that part has a colon. A secret may hold slashes, so the part ends at the last
# @ of the word. A colon that begins a port (`host:8265/`) begins no secret.
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@:'\"]*:(?!\d{1,5}(?:/|$))[^\s'\"]*@")
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_STORAGE_KEY",
    "abfss": "AZURE_STORAGE_KEY",
    "hf": "HF_TOKEN",
}


def without_credentials(text: str) -> str:
    """The text with `***` in the place of each `KEY:SECRET` in an address."""
    return _CREDENTIALS.sub("***@", text)


def refuse_credentials(value: Any, prefix: str = "") -> None:
    """Raises `UserError` when `value`, or any text inside its lists and mappings, is an address with a key in it.

    Addresses are written to the records of a run, to Ray's records and to the terminal; a secret must be in none of
    them. `prefix`: text before the key under which the address was found, such as the name of the file.
    """
    for path, text in _texts(value, (), set()):
        if _CREDENTIALS.search(text):
            scheme = re.search(r"(\w+)://[^/\s@:'\"]*:", text)
            names = _VARIABLES.get(scheme[1].lower() if scheme else "", "the environment variables of that service")
            key = without_credentials(".".join(map(str, path)))
            raise UserError(
                f"{prefix}{key}{': ' if key else ''}found {without_credentials(text)[:100]!r}, an address with a key "
                f"in it, which would stand in records and logs; leave the key out and set {names} (on every node)"
            )


def _texts(value: Any, path: tuple[Any, ...], seen: set[int]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Every text of a tree with its path. Enters a part that stands in the tree many times (a YAML alias) once."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
        seen.add(id(value))
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in pairs:
            yield from _texts(key, path, seen)
            yield from _texts(child, (*path, key), seen)
