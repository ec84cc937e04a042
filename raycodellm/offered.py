"""The names that `import raycodellm` offers, each imported when it is first asked for."""

import importlib
import sys
from typing import Any

HOMES = {
    "OpenedLadder": "raycodellm.ladder",
    "OpenedRun": "raycodellm.runs",
    "RunFailed": "raycodellm.commands.run",
    "UserError": "raycodellm.config",
    "check_sweep": "raycodellm.notebook",
    "open_run": "raycodellm.runs",
    "run": "raycodellm.notebook",
}
"""The module that each name comes from; `__init__.pyi` says the same to type checkers."""


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'raycodellm' has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*vars(sys.modules["raycodellm"]), *HOMES})
