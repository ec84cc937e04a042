"""The arguments of a command that takes a sweep file, and the exit codes of all commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raycodellm import config, corpora, evaluation, search
from raycodellm.config import SweepFile, UserError
from raycodellm.files import Folder, cache_folder, fingerprint

DEFAULT_STORAGE = "~/raycodellm"
DONE, FAILED, WRONG, STOPPED = 0, 1, 2, 130
"""Exit codes: all done; something failed while running; the request was wrong; stopped by the user."""


@dataclass(frozen=True)
class SweepRequest:
    """A sweep file with the options of the command line."""

    path: str
    overrides: tuple[str, ...] = ()
    """`key=value` of each `--set`."""
    storage_uri: str = DEFAULT_STORAGE
    address: str | None = None
    """Address of a Ray cluster; None for that in RAY_ADDRESS, else a local one."""
    tree: Mapping[str, Any] | None = None
    """What the sweep file holds, where there is no file; `path` then is what messages call it."""

    @property
    def storage(self) -> Folder:
        return Folder(self.storage_uri)

    def load(self) -> SweepFile:
        """The sweep file. Raises `UserError` for any fault that can be found before something is started."""
        file = self._parsed()
        search.num_trials(file)
        evaluation.check_evaluation(file)
        for name, source in file.example().sources.items():
            try:
                corpora.check_settings(source)
            except UserError as error:
                raise UserError(f"{self.path}: sources.{name}: {error}") from error
        return file

    def _parsed(self) -> SweepFile:
        if self.tree is None:
            return config.load(self.path, self.overrides)
        try:
            text = config.write_yaml(dict(self.tree))
        except yaml.YAMLError as error:
            reason = f"holds a value that a sweep file cannot hold ({error})"
            raise UserError(f"{self.path}: {reason}; use numbers, texts, lists and dicts") from error
        return config.parse(text, origin=self.path, overrides=self.overrides)

    def again(self) -> str:
        """The line that continues this run."""
        return self.command_line("run") if self.tree is None else "the same call of raycodellm.run"

    def command_line(self, command: str) -> str:
        """The line that gives this request to `command`."""
        words = ["raycodellm", command, self.path]
        words += [word for value in self.overrides for word in ("--set", value)]
        words += ["--storage", self.storage_uri] if self.storage_uri != DEFAULT_STORAGE else []
        return shlex.join(words + (["--address", self.address] if self.address else []))


def log_path(folder: Folder) -> Path:
    """Path of a run's log: in the run folder `folder` if that is local, else in this machine's cache."""
    if folder.local is not None:
        return folder.local / "run.log"
    return cache_folder() / fingerprint(folder.uri) / "run.log"
