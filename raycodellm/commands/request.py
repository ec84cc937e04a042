"""The arguments of a command that takes a sweep file, and the exit codes of all commands."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from raycodellm import config, corpora, evaluation, search
from raycodellm.commands.sweep_paths import relative_paths, starting_folder
from raycodellm.config import SweepFile, UserError
from raycodellm.config.two_ways import refuse_both_ways
from raycodellm.files import Folder, cache_folder, fingerprint

DEFAULT_STORAGE = "~/raycodellm"
SUBMITTED_AS = "RAYCODELLM_SUBMITTED_AS"
"""Variable of a submitted job: the command line that submitted it, and that continues its run."""
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
    """The sweep file's content, where there is no file; messages then call it `path`."""
    retry_failed: bool = False
    """True to run the trials again that failed."""
    size: str | None = None
    """Preset of the only size of a ladder to run; None for all of them."""
    given_in: Path = field(default_factory=Path.cwd)
    """The working directory when the command was given."""

    def __post_init__(self) -> None:
        _ = self.storage  # now, since a relative one starts from `given_in`

    @cached_property
    def storage(self) -> Folder:
        return Folder(self.storage_uri)

    @contextlib.contextmanager
    def opened(self, warn: Callable[[str], None]) -> Iterator[SweepFile]:
        """Yields the checked sweep file, inside the folder that its relative paths start from.

        `warn` hears when that is not the sweep file's folder. Raises `UserError` for any fault that can be found before
        something is started.
        """
        file = self._parsed()
        sweep_folder = (self.given_in / self.path).parent if self.tree is None else self.given_in
        folder, warning = starting_folder(relative_paths(file), sweep_folder, self.given_in)
        if warning:
            warn(warning)
        os.chdir(folder)
        try:
            self._check(file)
            yield file
        finally:
            os.chdir(self.given_in)

    def _check(self, file: SweepFile) -> None:
        if file.example().ladder is not None:
            from raycodellm.ladder.sizes import sizes_of  # only of a ladder: this imports much

            sizes_of(file)
        refuse_both_ways(file.tree, self.path)
        search.most_trials(file)
        evaluation.check_evaluation(file)
        for name, source in file.example().sources.items():
            try:
                corpora.check_settings(source)
            except UserError as error:
                raise UserError(f"{self.path}: sources.{name}: {error}") from error

    @property
    def is_submitted(self) -> bool:
        """True in the job of a submitted sweep."""
        return SUBMITTED_AS in os.environ

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
        """The line that continues this run: `raycodellm submit …` in a submitted job, else `raycodellm run …`."""
        if self.tree is not None:
            return "the same call of raycodellm.run"
        return os.environ.get(SUBMITTED_AS) or self.command_line("run")

    def command_line(self, command: str) -> str:
        """The line that gives this request to `command`. A key in the dashboard's address is masked."""
        words = ["raycodellm", command, self.path]
        words += [word for value in self.overrides for word in ("--set", value)]
        words += ["--size", self.size] if self.size is not None else []
        words += ["--storage", self.storage_uri] if self.storage_uri != DEFAULT_STORAGE else []
        address = ["--address", config.without_credentials(self.address)] if self.address else []
        return shlex.join(words + address)


def log_path(folder: Folder) -> Path:
    """Path of a run's log: in the run folder `folder` if that is local, else in this machine's cache."""
    if folder.local is not None:
        return folder.local / "run.log"
    return cache_folder() / fingerprint(folder.uri) / "run.log"
