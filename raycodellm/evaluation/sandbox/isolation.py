"""Ways to isolate a process on this machine, the strongest first, and the search for one that works."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INSIDE = Path(__file__).with_name("inside")
KINDS = ("bubblewrap", "namespaces", "landlock")
"""bubblewrap: the program `bwrap`. namespaces: the same by our own calls. landlock: no view of its own, but no file can
be opened beside the listed ones; each comes with a filter of system calls."""
TEMPORARY = "/tmp"
"""The writable folder where the process has a file system of its own."""

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_BOOTSTRAP = """
import sys, types
folder = sys.argv.pop()
for name in ("raycodellm", "raycodellm.evaluation", "raycodellm.evaluation.sandbox"):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = [folder] if name.endswith("sandbox") else []
sys.path += [path for path in sys.argv[1:]]
from raycodellm.evaluation.sandbox.inside.main import main
main()
"""
"""Starts `inside.main` without the rest of the package, and without the `.pth` files of site-packages, which run code.
The arguments are the folders of installed packages, then the folder that holds `inside`."""


class SandboxUnavailable(Exception):
    """No way to isolate a process works on this machine."""


@dataclass(frozen=True)
class Isolation:
    """How the processes are isolated."""

    kind: str
    as_nobody: bool = False
    """True if the process gives up root by itself: by `landlock` alone, where Python can be reached by others."""

    @property
    def has_own_files(self) -> bool:
        """True if the process sees a file system of its own, whose size is limited."""
        return self.kind != "landlock"

    def command(self, temporary_bytes: int) -> list[str]:
        """The command line that starts a process, which then reads its orders. `temporary_bytes`: size of its writable
        folder, where the folder is its own."""
        python = [
            os.path.realpath(sys.executable),
            "-I",
            "-S",
            "-B",
            "-c",
            _BOOTSTRAP,
            *_packages(),
            str(INSIDE.parent),
        ]
        return [*_bubblewrap(temporary_bytes), *python] if self.kind == "bubblewrap" else python

    def orders(self, folder: str) -> dict[str, object]:
        """The facts that `inside.main` needs. `folder`: an empty folder of this machine, for this process alone."""
        return {
            "kind": self.kind,
            "readable": [*_readable(), *_DEVICES],
            "root": folder,
            "temporary": TEMPORARY if self.has_own_files else folder,
            "as_nobody": self.as_nobody,
        }


def isolation(kind: str) -> Isolation:
    """The way to isolate of this name. Raises `SandboxUnavailable` where it can be told at once that it cannot work."""
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(f"needs Linux, and this is {sys.platform}")
    if kind == "bubblewrap" and shutil.which("bwrap") is None:
        raise SandboxUnavailable("the program bwrap is not installed")
    is_root = os.geteuid() == 0
    return Isolation(kind, as_nobody=kind == "landlock" and is_root and all(map(_others_reach, _readable())))


def _bubblewrap(temporary_bytes: int) -> list[str]:
    arguments = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    arguments += ["--as-pid-1", "--uid", "65534", "--gid", "65534", "--dev", "/dev"]
    arguments += ["--size", str(temporary_bytes), "--tmpfs", TEMPORARY, "--chdir", TEMPORARY]
    for path in _readable():
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        else:
            arguments += ["--ro-bind-try", path, path]
    return [*arguments, "--remount-ro", "/"]


def _readable() -> list[str]:
    """Folders and files of this machine that the process may read: the system's, Python's, and `inside`."""
    prefixes = {os.path.realpath(path) for path in (sys.base_prefix, sys.base_exec_prefix)}
    return list(_outermost([*_SYSTEM, *sorted(prefixes), *_packages(), str(INSIDE)]))


def _packages() -> list[str]:
    """Folders of installed packages."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return sorted(path for path in folders if os.path.isdir(path))


def _outermost(paths: Sequence[str]) -> list[str]:
    """The paths that lie in none of the other paths, in their order."""
    outermost: list[str] = []
    for path in paths:
        is_inside_another = any(Path(other) in Path(path).parents for other in paths)
        if os.path.lexists(path) and not is_inside_another and path not in outermost:
            outermost.append(path)
    return outermost


def _others_reach(path: str) -> bool:
    """True if a user without rights can read what lies at the path, and go through the folders above."""
    try:
        mode = os.stat(path).st_mode
        modes_above = [folder.stat().st_mode for folder in Path(path).parents]
    except OSError:
        return False
    readable = mode & stat.S_IROTH and (not stat.S_ISDIR(mode) or mode & stat.S_IXOTH)
    return bool(readable) and all(folder_mode & stat.S_IXOTH for folder_mode in modes_above)
