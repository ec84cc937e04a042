"""The files of a model folder: their content, and whether any was damaged since it was written."""

from __future__ import annotations

import json
import re
from pathlib import Path

from raycodellm.files import Folder
from raycodellm.identity import file_hashes

CHECKSUMS = "checksums.json"
"""In a model folder that raycodellm wrote: file name -> [bytes, hash]."""
_WEIGHTS = re.compile(r"(generation_)?config\.json|adapter_config\.json|.*\.(safetensors|bin|pt|index\.json)")
"""Files of a model folder that decide its outputs; tokenizers have an identity of their own."""


def model_content(folder: Folder) -> list[list]:
    """[file name, hash] of the files that decide what a model folder's model gives; of a folder on an object store
    [file name, bytes, change time]."""
    if folder.local is not None:
        names = sorted(path.name for path in folder.local.iterdir() if path.is_file() and _WEIGHTS.fullmatch(path.name))
        return [list(pair) for pair in zip(names, file_hashes.stored_hashes(folder, names), strict=True)]
    from pyarrow.fs import FileSelector

    infos = folder.filesystem.get_file_info(FileSelector(folder.path))
    found = [[i.base_name, i.size, i.mtime_ns] for i in infos if i.is_file and _WEIGHTS.fullmatch(i.base_name)]
    return sorted(found)


def write_checksums(folder: Path) -> None:
    """Leaves CHECKSUMS in a model folder, of all its files."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    said = {path.name: [path.stat().st_size, file_hashes.content_hash(path)] for path in files}
    (folder / CHECKSUMS).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def damage(folder: Path) -> str | None:
    """Which file of a model folder is not as raycodellm wrote it, and how; None where all are, or nothing is known."""
    try:
        said = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        expected = {str(name): (int(size), str(found)) for name, (size, found) in said.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return f"{folder / CHECKSUMS}: cannot be read ({error})"
    for name, (size, _) in expected.items():
        if not (folder / name).is_file():
            return f"{folder / name}: is missing"
        if (folder / name).stat().st_size != size:
            return f"{folder / name}: has {(folder / name).stat().st_size} bytes, written were {size}"
    found = file_hashes.content_hashes([folder / name for name in expected])
    for (name, (_, written)), now in zip(expected.items(), found, strict=True):
        if now != written:
            return f"{folder / name}: has changed since it was written"
    return None
