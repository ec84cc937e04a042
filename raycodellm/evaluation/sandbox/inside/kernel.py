"""Calls of the C library and of the kernel, by ctypes. Each raises `OSError` with the call's name."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION_3 = 0x20080522


def arch() -> int:
    """The column of this processor in the tables of `syscalls`: 0 for x86-64, 1 for 64-bit ARM. Raises OSError else."""
    machine = platform.machine()
    columns = {"x86_64": 0, "AMD64": 0, "aarch64": 1, "arm64": 1}
    if machine not in columns:
        raise OSError(f"no table of system calls for {machine}")
    return columns[machine]


def call(name: str, *arguments: Any) -> int:
    """Calls a function of the C library."""
    return _checked(name, getattr(_libc, name)(*arguments))


def syscall(name: str, number: int, *arguments: Any) -> int:
    converted = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return _checked(name, _libc.syscall(ctypes.c_long(number), *converted))


def prctl(option: int, *arguments: Any) -> int:
    padded = [*arguments, *[0] * (4 - len(arguments))]
    return call(
        "prctl", option, *(ctypes.c_ulong(argument) if isinstance(argument, int) else argument for argument in padded)
    )


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def drop_capabilities() -> None:
    """Gives up every capability, for good."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # a number beyond the kernel's last capability, or a process that may not change its bound
            break
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())
