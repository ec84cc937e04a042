"""Contents behind the names in a sweep file: pretrained models and evaluation tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raycodellm.config import UserError
from raycodellm.identity import hub_commits, model_files


@dataclass(frozen=True)
class Contents:
    """Looked up once by the driver, so that all trials of a run agree; it travels to them."""

    models: Mapping[str, Any] = field(default_factory=dict)
    """`model.pretrained` -> its content."""
    tasks: Mapping[str, Any] = field(default_factory=dict)
    """Name of an evaluation task -> its content."""
    lm_eval: str = ""
    """lm-eval's version."""


def pretrained_content(name: str) -> list[Any]:
    """A folder by the content of its weights and configuration; a model of the hub by its name and commit."""
    folder = hub_commits.folder_of(name)
    if folder is None:
        return ["hub", *hub_commits.pinned("model.pretrained", name)]
    try:
        found = model_files.model_content(folder)
    except OSError as error:
        raise UserError(f"model.pretrained: {name} cannot be read ({error}); give a folder or a hub id") from error
    if not found:
        raise UserError(f"model.pretrained: {name} holds no config.json and no weights; give a model folder or hub id")
    return ["folder", found]
