"""Readers of data sets' official release files, for tasks whose YAML names one as `metadata: {reader: …}`.

A reader maps the name of each split that a file holds, as the task's YAML names it, to the split's records.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

Splits = dict[str, list[dict[str, Any]]]
_SPLITS = {"train": "train", "dev": "validation", "val": "validation", "valid": "validation", "test": "test"}
"""Maps a word of a file's name to the name of the split."""


def split_of(path: Path) -> str:
    """The split that a file's name says: `validation` for `cosqa-dev.json`. Raises ValueError where it says none."""
    words = re.split(r"[^a-z]+", path.name.lower())
    for word in words:
        if word in (*_SPLITS, "validation"):
            return _SPLITS.get(word, word)
    raise ValueError(f"{path}: its name says no split; it needs one of {', '.join(_SPLITS)} in it")


def read_records(path: Path) -> Splits:
    """The records of a JSON array, or of a file with a JSON object on each line."""
    text = path.read_text("utf-8-sig")
    if text.lstrip().startswith("["):
        return {split_of(path): json.loads(text)}
    return {split_of(path): [json.loads(line) for line in text.splitlines() if line.strip()]}
