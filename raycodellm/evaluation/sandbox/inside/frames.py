"""Messages over pipes: a length of eight bytes, then JSON."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

LONGEST = 64 << 20
"""Bytes of one message."""
_LENGTH = struct.Struct(">Q")


class Closed(Exception):
    """The other end of the pipe has ended, or sent bytes that are no message."""


def send(descriptor: int, message: Any) -> None:
    """Writes the message whole. Raises `Closed` when nobody reads it, or it is too long."""
    data = json.dumps(message).encode()
    if len(data) > LONGEST:
        raise Closed(f"a message of {len(data):,} bytes; at most {LONGEST:,} are sent")
    view = memoryview(_LENGTH.pack(len(data)) + data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise Closed(str(error)) from error


def receive(descriptor: int) -> Any:
    """Reads the next message. Raises `Closed` at the pipe's end and for bytes that are no message."""
    (length,) = _LENGTH.unpack(_read(descriptor, _LENGTH.size))
    if length > LONGEST:
        raise Closed(f"a message of {length:,} bytes; at most {LONGEST:,} are read")
    try:
        return json.loads(_read(descriptor, length))
    except (ValueError, RecursionError) as error:
        raise Closed(f"not a message: {error}") from error


def _read(descriptor: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        try:
            part = os.read(descriptor, min(size, 1 << 20))
        except OSError as error:
            raise Closed(str(error)) from error
        if not part:
            raise Closed("the pipe has ended")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
