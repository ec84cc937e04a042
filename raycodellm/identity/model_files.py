"""The files of a model folder: their content, and whether any file was damaged since it was written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from raycodellm.files import Folder
from raycodellm.identity import file_hashes

CHECKSUMS = "checksums.json"
"""File in each model folder that raycodellm writes: file name -> [bytes, hash]."""
_WEIGHTS = re.compile(r"(generation_)?config\.json|adapter_config\.json|.*\.(safetensors|bin|pt|index\.json)")
"""Files of a model folder that decide the model's outputs. A tokenizer has an identity of its own."""


def model_content(folder: Folder) -> list[list]:
    """[file name, hash] of each file that decides the model's outputs; for a folder on an object store
    [file name, bytes, change time in nanoseconds]."""
    return folder_content(folder, lambda name: _WEIGHTS.fullmatch(name) is not None)


def folder_content(folder: Folder, is_wanted: Callable[[str], bool] = lambda name: True) -> list[list]:
    """As `model_content`, of each file right inside a folder for whose name `is_wanted` is true."""
    if folder.local is not None:
        names = sorted(path.name for path in folder.local.iterdir() if path.is_file() and is_wanted(path.name))
        return [list(pair) for pair in zip(names, file_hashes.stored_hashes(folder, names), strict=True)]
    from pyarrow.fs import FileSelector

    infos = folder.filesystem.get_file_info(FileSelector(folder.path))
    return sorted(
        [info.base_name, info.size, info.mtime_ns] for info in infos if info.is_file and is_wanted(info.base_name)
    )


def write_checksums(folder: Path) -> None:
    """Writes CHECKSUMS of all files of a model folder into the folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    checksums = {path.name: [path.stat().st_size, file_hashes.content_hash(path)] for path in files}
    (folder / CHECKSUMS).write_text(json.dumps(checksums, indent=1) + "\n", encoding="utf-8")


def find_damage(folder: Path) -> str | None:
    """The first file of a model folder that is not as raycodellm wrote it, and how it differs; None for a whole folder,
    or one without CHECKSUMS."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        expected = {str(name): (int(size), str(checksum)) for name, (size, checksum) in checksums.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return f"{folder / CHECKSUMS}: cannot be read ({error})"
    for name, (size, _) in expected.items():
        if not (folder / name).is_file():
            return f"{folder / name}: is missing"
        if (folder / name).stat().st_size != size:
            return f"{folder / name}: has {(folder / name).stat().st_size} bytes, written were {size}"
    hashes = file_hashes.content_hashes([folder / name for name in expected])
    for (name, (_, checksum)), current in zip(expected.items(), hashes, strict=True):
        if current != checksum:
            return f"{folder / name}: has changed since it was written"
    return None
