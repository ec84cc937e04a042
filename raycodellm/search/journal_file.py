"""Optuna's journal file, `optuna.log`, which `optuna-dashboard` opens too."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.storages import JournalStorage


def quiet_optuna() -> None:
    """Sends Optuna's messages to the log instead of the terminal, and drops its warnings of experimental features."""
    import optuna

    if optuna.logging.get_verbosity() != optuna.logging.WARNING:  # set, it clears the caches of hundreds of loggers
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_journal(path: Path) -> JournalStorage:
    """Optuna's journal storage at `path`. Cuts off a last line that a killed process left half written."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    quiet_optuna()
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            path.write_bytes(data[: data.rfind(b"\n") + 1])
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))
