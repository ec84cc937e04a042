"""Sorts the errors of transformers while it opens a model or a tokenizer: those of the files, which a user can mend,
and those of the machine, the network and the program, which travel as they are.

The type says little: damaged files raise OSError, ValueError, KeyError, TypeError, AttributeError, IndexError and more.
"""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator
from pathlib import Path

from raycodellm.config import UserError
from raycodellm.config.errors import one_line

_PACKAGE = str(Path(__file__).parents[1])
_OF_PATHS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP})
"""What the system says of a path that is wrong; any other number is about the machine, such as a full disk."""
_REASON_CHARACTERS = 140
_NETWORK_PACKAGES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"})


@contextlib.contextmanager
def load_errors(subject: str, fault: str, remedy: str) -> Iterator[None]:
    """Turns an error about the files that the `with` block opens into a UserError, `<subject> <fault>: <reason>;
    <remedy>`, and a missing Python package into one that names it. All other errors travel."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{subject} needs a Python package that cannot be imported here: {reason_of(error)}") from error
    except Exception as error:
        if not _is_of_files(error):
            raise
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{subject} brings Python code of its own, which raycodellm never runs; use a model whose architecture "
                "transformers has"
            ) from error
        raise UserError(f"{subject} {fault}: {reason_of(error)}; {remedy}") from error


def reason_of(error: Exception) -> str:
    """The error's first line, with the second where the first ends in a colon; an error that is no sentence, such as
    KeyError, is named with it."""
    lines = str(error).strip().splitlines() or [""]
    line = one_line(" ".join(lines[: 2 if lines[0].rstrip().endswith(":") else 1]), _REASON_CHARACTERS)
    return line if isinstance(error, (OSError, ValueError, ImportError)) and line else f"{type(error).__name__}: {line}"


def _is_of_files(error: BaseException) -> bool:
    """False for an error of memory, of a device, of a disk, of the network, or of this package's own code."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return False
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)):
        return False
    if any(_is_of_network(cause) or _is_of_machine(cause) for cause in _chain(error)):
        return False
    return not _raised_in(error).startswith(_PACKAGE)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, the one that led to it, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _is_of_machine(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno is not None and error.errno not in _OF_PATHS


def _is_of_network(error: BaseException) -> bool:
    """True where the hub did not answer; a hub that answers has no such model, or gives no access."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return bool(status >= 500)
    of_hub = type(error).__name__ == "LocalEntryNotFoundError"  # the cache has no copy, and the hub was not reached
    of_network = type(error).__module__.partition(".")[0] in _NETWORK_PACKAGES
    return of_hub or of_network or isinstance(error, (ConnectionError, TimeoutError))


def _raised_in(error: BaseException) -> str:
    """The path of the code that raised the error."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place.tb_frame.f_code.co_filename if place is not None else ""
