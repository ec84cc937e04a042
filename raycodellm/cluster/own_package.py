"""This installation of raycodellm as a job can bring it along: the package's files, and the packages that it needs."""

from __future__ import annotations

import importlib.metadata
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from raycodellm.cluster import probe

if TYPE_CHECKING:
    from packaging.requirements import Requirement

NAME = "raycodellm"
_OF_THE_CLUSTER = frozenset({"ray"})
"""Packages that the cluster itself runs on, and that no job replaces."""


def folder() -> Path:
    return Path(__file__).parents[1]


def digest() -> str:
    """Hash of the package's files here; equal files, equal hashes."""
    return probe.package_digest(str(folder()))


def copy_to(target: Path) -> Path:
    """A copy of the package below the folder `target`, without what Python and editors leave beside the files."""
    return Path(shutil.copytree(folder(), target / NAME, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*")))


def requirements() -> list[Requirement]:
    """Requirements of this version of the package, Ray included, from its metadata or a checkout's pyproject.toml."""
    from packaging.requirements import Requirement

    project = folder().parent / "pyproject.toml"
    if project.is_file():
        lines = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        lines = importlib.metadata.requires(NAME) or []
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def unmet(needed: Iterable[Requirement], installed: Mapping[str, str | None]) -> list[str]:
    """`name (version, needed …)` of each requirement that `installed` does not meet: package -> version or None."""
    return [
        f"{one.name} ({installed.get(one.name) or 'missing'}, needed {one.specifier})"
        for one in needed
        if not (version := installed.get(one.name)) or not one.specifier.contains(version, prereleases=True)
    ]


def pins(needed: Iterable[Requirement]) -> list[str]:
    """`name==version` of the requirements, and of all that they need, in the versions installed here; Ray left out.

    A version's local part is left out (torch 2.13.0+cpu), so that a node with a GPU gets the build for GPUs.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    waiting = list(needed)
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in found or name in _OF_THE_CLUSTER:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # of another platform
            continue
        found[name] = distribution.version.partition("+")[0]
        inner = [Requirement(line) for line in distribution.requires or ()]
        extras = [{"extra": extra} for extra in ("", *one.extras)]
        waiting += [n for n in inner if n.marker is None or any(n.marker.evaluate(extra) for extra in extras)]
    return [f"{name}=={version}" for name, version in sorted(found.items())]
