"""Refuses system calls to this process for good, by a filter of the kernel (seccomp)."""

from __future__ import annotations

import ctypes
import errno
import struct

from raycodellm.evaluation.sandbox.inside import kernel, syscalls

_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in the kernel's record of a call; an argument's lower half comes first on both processors."""
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000
_FILTER_MODE = 2


def apply() -> None:
    """From here on refused calls end in `PermissionError`. Needs `PR_SET_NO_NEW_PRIVS`."""
    code = program(kernel.arch())
    instructions = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    filter_program = Program(len(code) // 8, ctypes.addressof(instructions))
    kernel.prctl(kernel.PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(filter_program))


def program(arch: int) -> bytes:
    """The filter, eight bytes per instruction. `arch`: as `kernel.arch` gives it."""
    refuse, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    code = [
        _instruction(_LOAD, _ARCH),
        _instruction(_JUMP_IF_EQUAL, syscalls.AUDIT_ARCH[arch], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    if arch == 0:  # the x32 calls of x86-64 have other numbers for the same work
        code += [_instruction(_JUMP_IF_SET, _X32, 0, 1), _instruction(_RETURN, _KILL)]
    for _, *numbers in syscalls.REFUSED:
        if numbers[arch] is not None:
            code += [_instruction(_JUMP_IF_EQUAL, numbers[arch], 0, 1), _instruction(_RETURN, refuse)]
    # The C library takes `clone` where the kernel lacks `clone3`, whose flags a filter cannot see.
    code += [_instruction(_JUMP_IF_EQUAL, syscalls.CLONE3[arch], 0, 1), _instruction(_RETURN, absent)]
    code += [
        _instruction(_JUMP_IF_EQUAL, syscalls.CLONE[arch], 0, 4),
        _instruction(_LOAD, _FIRST_ARGUMENT),
        _instruction(_JUMP_IF_SET, _CLONE_THREAD, 0, 1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, refuse),
    ]
    # The call is allowed for this process (0), and refused for any other.
    code += [
        _instruction(_JUMP_IF_EQUAL, syscalls.PRLIMIT64[arch], 0, 3),
        _instruction(_LOAD, _FIRST_ARGUMENT),
        _instruction(_JUMP_IF_EQUAL, 0, 1, 0),
        _instruction(_RETURN, refuse),
        _instruction(_RETURN, _ALLOW),
    ]
    return b"".join(code)


def _instruction(code: int, value: int | None, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
