"""The token that clusters ask for: written for a local one so that only its owner can read it, read for others."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from raycodellm.config import UserError


def write_token() -> None:
    """Writes the token that Ray would write for a first cluster, with mode 0600 in a folder of mode 0700.

    Ray's own file has the mode that the umask leaves: mostly 0644, in a folder of 0755. Does nothing where a token
    exists, or where RAY_AUTH_MODE asks for none.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    if os.environ.get("RAY_AUTH_TOKEN_PATH") or _token_file().exists():
        return
    try:
        _token_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another start was faster
            handle = os.open(_token_file(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32))
    except OSError as error:
        raise UserError(
            f"{_token_file()}: Ray's token cannot be written there ({error.strerror}); make the folder writable, "
            "set HOME to one that is, or set RAY_AUTH_TOKEN"
        ) from error


def read_token() -> str | None:
    """The token for a cluster that asks for one, from where Ray looks for it; None where there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or _token_file()).expanduser()
    try:
        return path.read_text().strip() or None
    except OSError:  # no token was written, or the file is somebody else's
        return None


def token_warnings() -> list[str]:
    """A warning where others can read the token's file."""
    try:
        mode = stat.S_IMODE(_token_file().stat().st_mode)
    except OSError:  # no token file
        return []
    if not mode & 0o077 or _token_file().parent.stat().st_mode & 0o011 == 0:
        return []
    return [
        f"others on this machine can read {_token_file()}, and with it use the cluster; run: chmod 600 {_token_file()}"
    ]


def _token_file() -> Path:
    return Path.home() / ".ray" / "auth_token"
