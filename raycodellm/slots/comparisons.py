"""Keeps the comparisons of early stopping in the folders of the trials that were compared.

The dispatcher's process imports this file, so it imports nothing of training.
"""

from __future__ import annotations

from functools import partial

from raycodellm import retrying, storage_files
from raycodellm.dispatch import Decision, EarlyStopping
from raycodellm.files import Folder
from raycodellm.records import as_json


def keep(early: EarlyStopping, decision: Decision) -> None:
    """Writes the comparisons of a decision into the folders of the trials that were compared."""
    for trial, rungs in decision.comparisons.items():
        write = partial(Folder(early.folder_of(trial)).write_json, storage_files.RUNGS, {"rungs": as_json(rungs)})
        retrying.patiently(write, storage_files.RUNGS)
