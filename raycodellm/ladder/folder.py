"""The ladder's own folder, `<storage>/<sweep name>`: `ladder.json`, which names the sizes, and the joint report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from raycodellm import config
from raycodellm.config import SweepFile, UserError
from raycodellm.files import Folder
from raycodellm.ladder.sizes import Size
from raycodellm.records import as_json, from_json
from raycodellm.storage_files import LADDER

FORMAT = 2
"""Raised when a key of `ladder.json` changes its meaning or goes: 2 since `rungs` are `sizes`."""


@dataclass(frozen=True)
class SizeFacts:
    """One size, as `ladder.json` names it."""

    preset: str
    sweep: str
    """Name of the size's sweep, and of its run folder in the same storage."""
    parameters: int
    tokens: int
    """Tokens that an arm trains in all its stages."""
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """The content of `ladder.json`."""

    format: int
    sweep: str
    """Name of the ladder."""
    sizes: tuple[SizeFacts, ...]
    """From the smallest model to the largest."""
    settings: dict[str, Any]
    """The ladder's sweep file as resolved."""
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LadderFolder:
    """The folder of a ladder, and what its `ladder.json` holds."""

    folder: Folder
    facts: Facts

    @property
    def name(self) -> str:
        return self.facts.sweep

    @property
    def storage(self) -> Folder:
        return self.folder.parent

    def run_folder(self, size: SizeFacts) -> Folder:
        """The run folder of the size's sweep, which may not exist yet."""
        return self.storage / size.sweep

    def has_begun(self, size: SizeFacts) -> bool:
        """True if the size has a run folder."""
        return self.run_folder(size).exists("sweep.yaml")


def is_ladder(folder: str | os.PathLike[str]) -> bool:
    """True for the folder of a ladder."""
    return Folder(os.fspath(folder)).exists(LADDER)


def open_ladder(folder: str | os.PathLike[str]) -> LadderFolder:
    """Opens a ladder's folder. Raises `DamagedFile` where `ladder.json` is damaged."""
    ladder_folder = Folder(os.fspath(folder))
    content = ladder_folder.read_json(LADDER)
    if isinstance(content, dict) and "rungs" in content:  # of format 1
        content["sizes"] = content.pop("rungs")
    facts = from_json(Facts, content, f"{ladder_folder}/{LADDER}")
    return LadderFolder(ladder_folder, facts)


def write_ladder(file: SweepFile, sizes: Sequence[Size], storage: Folder) -> LadderFolder:
    """Writes `ladder.json` anew, from the sweep file as it is now. Each size's own run folder says what it began with.

    Raises `UserError` where the folder is a run of a sweep without a ladder.
    """
    sweep = file.example()
    folder = storage / sweep.name
    if folder.exists("sweep.yaml"):
        raise UserError(f"name: {folder.uri} is the run of a sweep without a ladder; give the ladder another name")
    size_facts = tuple(SizeFacts(size.preset, size.name, size.parameters, size.tokens) for size in sizes)
    facts = Facts(FORMAT, sweep.name, size_facts, config.resolved_tree(file))
    folder.write_json(LADDER, as_json(facts))
    return LadderFolder(folder, facts)
