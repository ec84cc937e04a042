"""Stages that an older training recipe left in a storage."""

from __future__ import annotations

from raycodellm.files import Folder
from raycodellm.records import RECIPE_VERSION

RECIPE = ".recipe"
"""The recipe's version when a sweep last ran in the storage. Beside `stages/`, whose entries are all stages."""


def last_recipe(storage: Folder) -> str | None:
    """The recipe's version when a sweep last ran in the storage; None for none."""
    return storage.read_bytes(RECIPE).decode(errors="replace").strip() if storage.exists(RECIPE) else None


def report_older_stages(storage: Folder) -> str | None:
    """Says, once per storage, that its stages were trained by an older recipe and that none of them is used."""
    recipe = last_recipe(storage)
    if recipe == str(RECIPE_VERSION):
        return None
    folder = storage / "stages"
    stages = [name for name in folder.list() if not name.startswith(".")]
    storage.write_bytes(RECIPE, f"{RECIPE_VERSION}\n".encode())
    if not stages:
        return None
    return (
        f"{folder}: holds {len(stages)} stages of an older raycodellm (recipe {recipe or 'under 3'}, now "
        f"{RECIPE_VERSION}); none of them is taken, what is needed is trained anew"
    )
