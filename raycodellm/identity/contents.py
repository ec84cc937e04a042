"""The contents behind names in a sweep file: of pretrained models and of evaluation tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycodellm.config import UserError
from raycodellm.identity import hub_commits, model_files


@dataclass(frozen=True)
class Contents:
    """The contents that enter identities. The driver looks them up once and sends them to all trials, which agree."""

    models: Mapping[str, Any] = field(default_factory=dict)
    """Value of `model.pretrained` -> the model's content."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Value of `model.pretrained` -> URI of the model's folder, or `owner/name@commit`; no part of any identity. A
    trial's process works in another folder than the driver, where a relative path is none."""
    tasks: Mapping[str, Any] = field(default_factory=dict)
    """Name of an evaluation task -> the task's content."""
    lm_eval: str = ""
    """lm-eval's version."""
    units: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Each task or group that the sweep names -> the tasks, with contents in `tasks`, that it stands for."""
    running_code: tuple[str, ...] = ()
    """Names of the tasks with contents in `tasks` that run code of the model, where several programs are drawn."""
    data_commits: Mapping[str, str] = field(default_factory=dict)
    """`owner/name[@revision]` of a data set of the hub -> its commit, at which all workers read it."""


def evaluated_content(name: str, key: str = "eval") -> list[Any]:
    """The identity of a model that is only evaluated: of a folder the content of all its files, tokenizer included; for
    an object store their sizes and change times; of a model of the hub its name and commit. `key`: what names the
    model, for messages. Raises UserError for a folder that cannot be read or holds no file."""
    folder = hub_commits.folder_of(name)
    if folder is None:
        return ["hub", *hub_commits.pinned(key, name)]
    try:
        files = model_files.folder_content(folder)
    except OSError as error:
        raise UserError(f"{key}: {name} cannot be read ({error}); give a model folder or a hub id") from error
    if "config.json" not in (file for file, *_ in files):
        raise UserError(f"{key}: {name} holds no config.json; give a model folder or a hub id")
    return ["folder", files]


def address_of(name: str, content: Sequence[Any]) -> str:
    """Address of a pretrained model with this content, from any process: a folder's URI, or `owner/name@commit`."""
    kind, *parts = content
    if kind == "hub":
        return "@".join(parts)
    folder = hub_commits.folder_of(name)
    return name if folder is None else folder.uri


def pretrained_content(name: str) -> list[Any]:
    """The identity of a pretrained model: for a folder the content of its weights and configuration, for a model of the
    hub its name and commit. Raises UserError for a folder without a model."""
    folder = hub_commits.folder_of(name)
    if folder is None:
        return ["hub", *hub_commits.pinned("model.pretrained", name)]
    try:
        files = model_files.model_content(folder)
    except OSError as error:
        raise UserError(f"model.pretrained: {name} cannot be read ({error}); give a folder or a hub id") from error
    if not files:
        raise UserError(f"model.pretrained: {name} holds no config.json and no weights; give a model folder or hub id")
    return ["folder", files]
