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
_CLUSTER_PACKAGES = frozenset({"ray"})
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
    parsed = [Requirement(line) for line in lines]
    return [need for need in parsed if need.marker is None or need.marker.evaluate({"extra": ""})]


def unmet(needed: Iterable[Requirement], installed: Mapping[str, str | None]) -> list[str]:
    """`name (version, needed …)` of each requirement that `installed` does not meet: package -> version or None."""
    return [
        f"{need.name} ({installed.get(need.name) or 'missing'}, needed {need.specifier})"
        for need in needed
        if not (version := installed.get(need.name)) or not need.specifier.contains(version, prereleases=True)
    ]


def pins(needed: Iterable[Requirement]) -> list[str]:
    """`name==version` of the requirements, and of all that they need, in the versions installed here; Ray left out.

    A version's local part is left out (torch 2.13.0+cpu), so that a node with a GPU gets the build for GPUs.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    versions: dict[str, str] = {}
    waiting = list(needed)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in versions or name in _CLUSTER_PACKAGES:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # a requirement of another platform
            continue
        versions[name] = distribution.version.partition("+")[0]
        dependencies = [Requirement(line) for line in distribution.requires or ()]
        extras = [{"extra": extra} for extra in ("", *requirement.extras)]
        waiting += [need for need in dependencies if need.marker is None or any(map(need.marker.evaluate, extras))]
    return [f"{name}=={version}" for name, version in sorted(versions.items())]
