"""The names of tasks, groups and tags: the package's, lm-eval's, and those of a user's folder. They are read from the
top-level keys of YAML files.

lm-eval's `TaskManager` parses all of its 14,000 files, which takes 8 to 18 s. A regular expression finds the keys that
name a task in half a second. A file whose keys are written in an unusual way is parsed as YAML.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from raycodellm.config import Evaluation, UserError
from raycodellm.config.errors import nearest_place
from raycodellm.evaluation.tasks.yaml_text import load_task
from raycodellm.evaluation.texts.held_out import Texts, texts_of
from raycodellm.evaluation.win_rate.open_instructions import Asking
from raycodellm.records import HeldOutSource
from raycodellm.tasks import FOLDER


class Places(NamedTuple):
    """The places beside the package and lm-eval where tasks and their data are looked for."""

    include: str | None = None
    """A folder with lm-eval YAML files."""
    data: str | None = None
    """A folder with copies of the data sets."""
    texts: Texts = ()
    """Where the text of each domain is read whose bits per byte are measured."""
    commits: tuple[tuple[str, str], ...] = ()
    """The commits at which data sets of the hub are read, by their names; of others the newest."""
    asking: Asking = Asking()
    """The open instructions that a judge compares answers to."""

    @classmethod
    def of(
        cls, settings: Evaluation, held_out: Sequence[HeldOutSource] = (), commits: Mapping[str, str] | None = None
    ) -> Places:
        """`held_out`: the held-out documents of the sweep's sources. `commits`: see `data_commits`."""
        return cls(
            settings.include,
            settings.data,
            texts_of(settings, held_out),
            tuple(sorted((commits or {}).items())),
            Asking.of(settings),
        )


NOWHERE = Places()


@dataclass(frozen=True)
class NamedTask:
    """The task, group or tag that a name of lm-eval stands for."""

    file: Path | None
    """The YAML file of a task or group; None for a tag."""
    tagged: tuple[str, ...] = ()
    """The tasks that carry a tag, sorted; empty for a task or group."""


def is_path(name: str) -> bool:
    """True for a task that is named by the path of its YAML file."""
    return name.endswith((".yaml", ".yml"))


class TaskNames:
    """All names of tasks, groups and tags. A name of the user's folder comes before the same name of lm-eval, as with
    lm-eval's `--include_path`; so does a name of this package."""

    def __init__(self, include: str | None = None) -> None:
        self._include = include

    @cached_property
    def included(self) -> Mapping[str, NamedTask]:
        """The names of the user's folder. Raises UserError where that is no folder with tasks, and where it has a name
        that this package has."""
        if self._include is None:
            return {}
        folder = Path(self._include).expanduser()
        if not folder.is_dir():
            near = nearest_place(self._include)
            raise UserError(f"evaluation.include: there is no folder {self._include!r} with lm-eval YAML files; {near}")
        tasks = tasks_below(Path(os.path.abspath(folder)))
        if not tasks:
            raise UserError(f"evaluation.include: {self._include} has no YAML file of an lm-eval task or group")
        if shared_names := sorted(tasks.keys() & own_tasks().keys()):
            name, file = shared_names[0], tasks[shared_names[0]].file
            raise UserError(f"evaluation.include: raycodellm has a task {name!r} of its own; rename that of {file}")
        return tasks

    def find(self, name: str) -> NamedTask | None:
        """The task, group or tag of a name. lm-eval's names are read only if no other place has the name."""
        return self.included.get(name) or own_tasks().get(name) or lm_eval_tasks().get(name)

    def is_of_lm_eval(self, name: str) -> bool:
        """True if the name stands for a task, group or tag of lm-eval itself."""
        return name not in self.included and name not in own_tasks() and name in lm_eval_tasks()

    def all(self) -> list[str]:
        return [*dict.fromkeys([*self.included, *own_tasks(), *lm_eval_tasks()])]


@functools.cache
def own_tasks() -> dict[str, NamedTask]:
    """Maps each name that the YAML files of this package give to its file or, for a tag, to its tasks."""
    return tasks_below(FOLDER)


@functools.cache
def lm_eval_tasks() -> dict[str, NamedTask]:
    """Maps each name that the installed lm-eval knows to its file or, for a tag, to its tasks. Imports no lm-eval."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        return {}
    return tasks_below(Path(spec.origin).parent / "tasks")


def tasks_below(root: Path) -> dict[str, NamedTask]:
    """Maps each task, group and tag of the YAML files below `root` to its file or tasks, as `TaskIndex.build` does:
    of two files with the same name the first in alphabetical order counts, and files that cannot be read are left out.
    """
    tasks_by_name: dict[str, NamedTask] = {}
    tags: dict[str, set[str]] = {}
    heads: dict[Path, dict[str, Any]] = {}
    for file in _yaml_files(root):
        try:
            head = _with_includes(file, heads, frozenset())
            is_group = "group" in head and "class" not in head
            name = head["group" if is_group else "task"]
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):  # TypeError: of an include that is no name
            continue
        if not isinstance(name, str) or name in tasks_by_name:
            continue
        tasks_by_name[name] = NamedTask(file)
        for tag in [] if is_group else _as_list(head.get("tag")):
            if isinstance(tag, str):
                tags.setdefault(tag, set()).add(name)
    return {**{tag: NamedTask(None, tuple(sorted(tasks))) for tag, tasks in tags.items()}, **tasks_by_name}


def _yaml_files(root: Path) -> list[Path]:
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in ("__pycache__", ".ipynb_checkpoints")]
        files += [os.path.join(folder, name) for name in names if name.endswith(".yaml")]
    return [Path(file) for file in sorted(files)]


def _with_includes(file: Path, heads: dict[Path, dict[str, Any]], including: frozenset[Path]) -> dict[str, Any]:
    """The naming keys of a file and of the files that it includes; its own keys win. Raises ValueError for a cycle."""
    if file in including:
        raise ValueError(f"{file} includes itself")
    if file not in heads:
        heads[file] = _naming_keys(file.read_bytes())
    own = heads[file]
    merged: dict[str, Any] = {}
    for name in _as_list(own.get("include")):
        merged |= _with_includes(file.parent / name, heads, including | {file})
    return merged | own


def _as_list(value: Any) -> list[str]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


_KEY = re.compile(rb"^([\"']?)(task|group|tag|class|include)\1[ \t]*:[ \t]*(.*?)[ \t]*(?:[ \t]#.*)?\r?$", re.M)
_PLAIN = re.compile(rb"(?!(?:null|true|false|yes|no|on|off)$)([\"']?)([A-Za-z_][\w./+-]*)\1", re.I)
_ITEMS = re.compile(rb"(?:\s*\n[ \t]*-[ \t]+[\w./+-]+(?=[ \t]*(?:[ \t]#.*)?\r?$))+", re.M)


def _naming_keys(data: bytes) -> dict[str, Any]:
    """The naming keys of a YAML file with their values. The list under `task`, a group's, may be cut short.

    Raises yaml.YAMLError or ValueError where the file is no YAML mapping.
    """
    head: dict[str, Any] = {}
    for match in _KEY.finditer(data):
        key, value_text = match[2].decode(), match[3]
        if scalar := _PLAIN.fullmatch(value_text):
            head[key] = scalar[2].decode()
        elif not value_text and (items := _ITEMS.match(data, match.end())):
            lines = (line.split(b"#")[0].strip(b"- \t\r") for line in items[0].split(b"\n"))
            head[key] = [line.decode() for line in lines if line]
        elif key == "task" and not value_text:
            head[key] = []
        else:
            tree = load_task(data)
            if not isinstance(tree, dict):
                raise ValueError(f"holds {type(tree).__name__}, not a task's keys and values")
            return {key: tree[key] for key in ("task", "group", "tag", "class", "include") if key in tree}
    return head
