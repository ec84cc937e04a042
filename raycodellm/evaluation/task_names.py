"""The names of lm-eval's own tasks, groups and tags, read from the top-level keys of its YAML files.

lm-eval's `TaskManager` parses all of its 14,000 files, which takes 8 to 18 s. A regular expression finds the keys that
name a task in half a second. A file whose keys are written in an unusual way is parsed as YAML.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raycodellm.evaluation.task_yaml import TaskLoader


@dataclass(frozen=True)
class NamedTask:
    """The task, group or tag that a name of lm-eval stands for."""

    file: Path | None
    """The YAML file of a task or group; None for a tag."""
    tagged: tuple[str, ...] = ()
    """The tasks that carry a tag, sorted; empty for a task or group."""


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
    found: dict[str, NamedTask] = {}
    tags: dict[str, set[str]] = {}
    heads: dict[Path, dict[str, Any]] = {}
    for file in _yaml_files(root):
        try:
            head = _with_includes(file, heads, frozenset())
            is_group = "group" in head and "class" not in head
            name = head["group" if is_group else "task"]
        except (OSError, ValueError, KeyError, yaml.YAMLError):
            continue
        if not isinstance(name, str) or name in found:
            continue
        found[name] = NamedTask(file)
        for tag in [] if is_group else _as_list(head.get("tag")):
            tags.setdefault(tag, set()).add(name)
    return {**{tag: NamedTask(None, tuple(sorted(tasks))) for tag, tasks in tags.items()}, **found}


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
        heads[file] = _head(file.read_bytes())
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


def _head(data: bytes) -> dict[str, Any]:
    """The naming keys of a YAML file with their values. The list under `task`, a group's, may be cut short.

    Raises yaml.YAMLError or ValueError where the file is no YAML mapping.
    """
    head: dict[str, Any] = {}
    for match in _KEY.finditer(data):
        key, written = match[2].decode(), match[3]
        if plain := _PLAIN.fullmatch(written):
            head[key] = plain[2].decode()
        elif not written and (items := _ITEMS.match(data, match.end())):
            lines = (line.split(b"#")[0].strip(b"- \t\r") for line in items[0].split(b"\n"))
            head[key] = [line.decode() for line in lines if line]
        elif key == "task" and not written:
            head[key] = []
        else:
            tree = yaml.load(data, Loader=TaskLoader)
            if not isinstance(tree, dict):
                raise ValueError(f"holds {type(tree).__name__}, not a task's keys and values")
            return {key: tree[key] for key in ("task", "group", "tag", "class", "include") if key in tree}
    return head
