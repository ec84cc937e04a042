"""The files of a checkpoint: each is written whole or not at all, and checked before it is read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from raycodellm import retrying
from raycodellm.files import Folder
from raycodellm.storage_files import COMPLETE

STATE = "state.json"
"""The counters and the client state of a checkpoint."""


def write_tensors(folder: Folder, name: str, tensors: dict[str, torch.Tensor]) -> list[int]:
    """Writes a file of tensors; returns its size in bytes and its checksum.

    Raises OSError, after removing a half-written local file.
    """
    if folder.local is not None:
        path = folder.local / name
        folder.make()
        try:
            _save_tensors(tensors, path)
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
                return size_and_checksum(_blocks(file))
        except OSError:
            path.unlink(missing_ok=True)
            raise
    with tempfile.TemporaryDirectory(prefix="raycodellm-checkpoint-") as directory:
        path = Path(directory) / name
        _save_tensors(tensors, path)
        folder.upload(Path(directory))
        with open(path, "rb") as file:
            return size_and_checksum(_blocks(file))


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    with as_os_error(path):
        save_file(tensors, path)
    path.chmod(0o644)  # safetensors makes files that only their owner may read


@contextmanager
def as_os_error(path: Path) -> Iterator[None]:
    """Turns an error of safetensors into an OSError: it reports a full disk in the text of its own error."""
    try:
        yield
    except SafetensorError as error:
        number = errno.ENOSPC if "os error 28" in str(error) else errno.EIO
        raise OSError(number, f"{os.strerror(number)} ({error})", str(path)) from error


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(2**24):
        yield block


def size_and_checksum(blocks: Iterable[bytes]) -> list[int]:
    """[bytes, CRC-32] of the joined blocks."""
    size = checksum = 0
    for block in blocks:
        size, checksum = size + len(block), zlib.crc32(block, checksum)
    return [size, checksum]


def find_damage(folder: Folder) -> str | None:
    """How the checkpoint differs from its marker; None when it is whole.

    Waits for a storage that does not answer: that is no damage.
    """
    try:
        files = retrying.patiently(lambda: folder.read_json(COMPLETE)["files"], COMPLETE)
        for name, expected in files.items():
            actual = retrying.patiently(partial(_size_and_checksum_of, folder, name), name)
            if actual != list(expected):
                return f"{name} has {actual[0]} bytes with checksum {actual[1]}, its marker says {expected}"
    except (OSError, ValueError, KeyError) as error:
        return f"cannot be read: {error}"
    return None


def _size_and_checksum_of(folder: Folder, name: str) -> list[int]:
    with folder.filesystem.open_input_stream(f"{folder.path}/{name}") as stream:
        return size_and_checksum(_blocks(stream))


def explain_write(folder: Folder, error: OSError) -> str:
    """The message of a checkpoint that could not be written."""
    if error.errno != errno.ENOSPC:
        return f"the checkpoint {folder} could not be written: {error}; checkpoints before it stay usable"
    free_bytes = shutil.disk_usage(folder.local).free if folder.local is not None and folder.local.exists() else 0
    return (
        f"no space left for the checkpoint {folder} ({free_bytes / 1e9:.1f} GB free); checkpoints before it stay "
        "usable: free space or use another --storage, and run again to continue"
    )


@contextmanager
def open_tensors(folder: Folder) -> Iterator[dict[str, Any]]:
    """The opened file of each tensor, by the tensor's name; downloads a remote checkpoint first."""
    with folder.as_local() as local:
        files = json.loads((local / COMPLETE).read_text())["files"]
        open_files = [
            safe_open(local / name, framework="pt") for name in sorted(files) if name.endswith(".safetensors")
        ]
        yield {key: file for file in open_files for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
