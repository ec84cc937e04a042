"""The relative paths that a sweep file names, and the folder that they start from.

Relative paths start from the sweep file's folder, so that a sweep means the same wherever it is run, and as a submitted
job too. Where the files lie in the working directory instead, that is the folder, and the user is told.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from raycodellm import config
from raycodellm.config import Sweep, SweepFile, UserError
from raycodellm.config.text_domains import HELD_OUT

_SECTIONS = ("model", "tokenizer", "sources", "evaluation")
"""Sections of the sweep file that name files."""


class NamedPath(NamedTuple):
    key: str
    """Where the sweep file names the path: `sources.prose.path`."""
    path: str


def relative_paths(file: SweepFile) -> tuple[NamedPath, ...]:
    """Every relative path in the sweep file, in any option of its searches.

    `owner/name` of a pretrained model may be a folder or a name on the hub; both are among the paths.
    """
    is_searched = any(parameter.name.split(".")[0] in _SECTIONS for parameter in file.parameters)
    points = file.probe_points() if is_searched else iter([{}])
    named_paths = (path for point in points for path in _paths_of(config.resolve(file, point)))
    return tuple(dict.fromkeys(named_path for named_path in named_paths if is_relative(named_path.path)))


def _paths_of(sweep: Sweep) -> Iterable[NamedPath]:
    tokenizer = sweep.tokenizer.pretrained if sweep.tokenizer is not None else None
    for key, origin in (("model", sweep.model.pretrained), ("tokenizer", tokenizer)):
        if origin is not None:
            yield NamedPath(f"{key}.pretrained", origin)
    for name, source in sweep.sources.items():
        yield from (NamedPath(f"sources.{name}.path", path) for path in source.paths)
    tasks = (task for task in sweep.evaluation.tasks if task.endswith((".yaml", ".yml")))
    yield from (NamedPath("evaluation.tasks", task) for task in tasks)
    for domain, text in sweep.evaluation.texts.given().items():
        paths = [text] if isinstance(text, str) else text
        yield from (NamedPath(f"evaluation.texts.{domain}", path) for path in paths if path != HELD_OUT)
    judge = sweep.evaluation.judge
    if judge is not None and judge.prompts is not None:
        yield NamedPath("evaluation.judge.prompts", judge.prompts)
    for key, folder in (("include", sweep.evaluation.include), ("data", sweep.evaluation.data)):
        if folder is not None:
            yield NamedPath(f"evaluation.{key}", folder)


def is_relative(path: str) -> bool:
    """True for a path that starts from a folder; False for a whole path, `~`, an address, or a `builtin:` source."""
    return "://" not in path and not path.startswith(("/", "~", "builtin:"))


def exists_in(folder: Path, path: str) -> bool:
    """True if `folder` has the file or folder, or a match of the glob."""
    full_path = folder / path
    return full_path.exists() or (
        any(sign in path for sign in "*?[") and bool(glob.glob(str(full_path), recursive=True))
    )


def starting_folder(paths: Iterable[NamedPath], sweep_folder: Path, working: Path) -> tuple[Path, str | None]:
    """The folder that the relative paths start from, and a warning for the user.

    That is `sweep_folder`, or `working`, the working directory, where only that has them. Raises UserError where each
    has paths that the other lacks.
    """
    paths = tuple(paths)
    if not paths:
        return working, None
    if os.path.realpath(sweep_folder) == os.path.realpath(working):
        return sweep_folder, None
    in_sweep_folder = {path for path in paths if exists_in(sweep_folder, path.path)}
    in_working = {path for path in paths if exists_in(working, path.path)}
    only_in_working = [path for path in paths if path in in_working - in_sweep_folder]
    only_in_sweep_folder = [path for path in paths if path in in_sweep_folder - in_working]
    if only_in_working and only_in_sweep_folder:
        a, b = only_in_sweep_folder[0], only_in_working[0]
        raise UserError(
            f"{a.key}: {a.path} lies in the sweep file's folder {sweep_folder}, but {b.key}: {b.path} only in the "
            "working directory; relative paths start from one folder, the sweep file's: put both there"
        )
    if only_in_working:
        path = only_in_working[0]
        return working, (
            f"{path.key}: {path.path} is not in the sweep file's folder {sweep_folder}, so the relative paths of this "
            f"sweep start from the working directory {working}"
        )
    for path in paths:
        if path in in_working and not _is_same(sweep_folder / path.path, working / path.path):
            return sweep_folder, (
                f"{path.key}: {path.path} is taken from the sweep file's folder {sweep_folder}, not from the working "
                "directory, which has another"
            )
    return sweep_folder, None


def _is_same(path: Path, other: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)
