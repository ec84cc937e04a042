"""Restricts the files that this process can open, for good, by the kernel's Landlock."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

from raycodellm.evaluation.sandbox.inside import kernel, syscalls

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_IOCTL_DEV = 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | _IOCTL_DEV
"""Rights that a rule about a file, and not a folder, may have."""
_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights on files that a version of Landlock knows, from that version on."""
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1


def version() -> int:
    """The kernel's version of Landlock. Raises OSError where there is none."""
    return kernel.syscall("landlock_create_ruleset", syscalls.LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)


def apply(readable: Sequence[str], writable: Sequence[str]) -> None:
    """From here on only what lies in these folders, or is one of these files, can be opened.

    Needs `PR_SET_NO_NEW_PRIVS`. Paths that do not exist are left out. Connections are refused too where the kernel can
    (version 4), as are signals to processes outside and abstract sockets (version 6).
    """
    abi_version = version()
    rights = max(bits for first_version, bits in _RIGHTS_BY_VERSION.items() if first_version <= abi_version)
    attributes = [rights, *([0b11] if abi_version >= 4 else []), *([0b11] if abi_version >= 6 else [])]
    record = struct.pack(f"={len(attributes)}Q", *attributes)
    ruleset = kernel.syscall(
        "landlock_create_ruleset",
        syscalls.LANDLOCK_CREATE_RULESET,
        ctypes.create_string_buffer(record, len(record)),
        len(record),
        0,
    )
    try:
        for paths, allowed in ((readable, _READ), (writable, rights & ~_EXECUTE & ~_IOCTL_DEV)):
            for path in paths:
                _allow(ruleset, path, allowed & rights)
        kernel.syscall("landlock_restrict_self", syscalls.LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, allowed: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        allowed = allowed if os.path.isdir(path) else allowed & _ON_FILES
        record = struct.pack("=Qi", allowed, descriptor)
        kernel.syscall(
            "landlock_add_rule",
            syscalls.LANDLOCK_ADD_RULE,
            ruleset,
            _RULE_PATH_BENEATH,
            ctypes.create_string_buffer(record, len(record)),
            0,
        )
    finally:
        os.close(descriptor)
