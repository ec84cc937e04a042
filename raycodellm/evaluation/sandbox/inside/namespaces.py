"""Moves this process into namespaces of its own: no network, no other process, and a file system made for it."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Sequence

from raycodellm.evaluation.sandbox.inside import kernel, syscalls

NOBODY = 65534
_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_ALL = _NEWNS | _NEWCGROUP | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 32, 4096
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_MNT_DETACH = 2
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000


def enter(readable: Sequence[str], root: str, temporary: str, temporary_bytes: int) -> None:
    """Goes into the namespaces; returns in a new process, and not in the caller's, which waits and ends like it.

    `readable`: folders and files that are there, read-only. `root`: an empty folder, on which the file system is
    mounted. `temporary`: path of the one folder that can be written. Raises OSError where the machine forbids it.
    """
    is_root = os.geteuid() == 0
    user, group = os.geteuid(), os.getegid()
    try:
        kernel.call("unshare", _ALL)
    except OSError:  # not allowed, even to root; allowed inside a user namespace
        is_root = False
        kernel.call("unshare", _ALL | _NEWUSER)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    child = os.fork()
    if child:
        _end_like(child)
    _make_file_system(readable, root, temporary, temporary_bytes)
    if is_root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_like(child: int) -> None:
    """Waits for the first process of the namespaces, and ends with its exit code; all other processes in the namespaces
    die with that one."""
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _make_file_system(readable: Sequence[str], root: str, temporary: str, temporary_bytes: int) -> None:
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,nr_inodes=1000,mode=0755")
    for path in readable:
        _show(path, root)
    inside = root + temporary
    os.makedirs(inside, exist_ok=True)
    _mount("tmpfs", inside, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={temporary_bytes},nr_inodes=4000,mode=1777")
    _mount("none", root, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    os.chdir(root)
    # Puts the old root over the new one, and takes it off: no folder has to be made for it.
    kernel.syscall("pivot_root", syscalls.PIVOT_ROOT[kernel.arch()], b".", b".")
    kernel.call("umount2", b".", _MNT_DETACH)
    os.chdir(temporary)


def _show(path: str, root: str) -> None:
    """Makes the folder, file or symbolic link `path` visible below `root`, read-only."""
    target = root + path
    if os.path.islink(path):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    elif os.path.exists(path):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    else:
        return
    _mount(path, target, None, _MS_BIND | _MS_REC)
    is_device = not os.path.isdir(path) and not os.path.isfile(path)
    flags = _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | (0 if is_device else _MOUNT_ATTR_NODEV)
    record = struct.pack("=4Q", flags, 0, 0, 0)
    kernel.syscall(
        "mount_setattr",
        syscalls.MOUNT_SETATTR,
        _AT_FDCWD,
        os.fsencode(target),
        _AT_RECURSIVE,
        ctypes.create_string_buffer(record, len(record)),
        len(record),
    )


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    kernel.call("mount", *encoded[:3], ctypes.c_ulong(flags), encoded[3])
