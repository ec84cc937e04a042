"""Text that a command writes where the option `--into` says."""

from __future__ import annotations

from pathlib import Path

from raycodellm.config import UserError


def write_into(into: str, text: str, name: str = "") -> Path:
    """Writes `text` into the file `into`, or into the file `name` of the folder `into`; makes the folders that are
    missing. Returns the file's path. Raises `UserError` where it cannot be written."""
    path = Path(into).expanduser() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        kind = "folder" if name else "file"
        raise UserError(f"--into {into}: cannot be written ({error.strerror}); give the path of a {kind}") from error
    return path
