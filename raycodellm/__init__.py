"""raycodellm: how much code, of which kind, at which training stage, on which schedule, makes a model reason better?

`raycodellm.run(sweep)` runs a sweep, `raycodellm.open_run(folder)` opens a run, `raycodellm.check_sweep(sweep)` says
what a sweep would do; docs/notebook.md shows them. They are imported when they are first used, so that
`import raycodellm` takes milliseconds.
"""

import importlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycodellm.commands.run import RunFailed
    from raycodellm.config import UserError
    from raycodellm.ladder import OpenedLadder
    from raycodellm.notebook import check_sweep, run
    from raycodellm.runs import OpenedRun, open_run

__all__ = ["OpenedLadder", "OpenedRun", "RunFailed", "UserError", "__version__", "check_sweep", "open_run", "run"]
__version__ = "0.1.0"

STARTED = time.monotonic()
"""When this process imported the package, in seconds of the monotonic clock."""


_HOMES = {
    "OpenedLadder": "raycodellm.ladder",
    "OpenedRun": "raycodellm.runs",
    "RunFailed": "raycodellm.commands.run",
    "UserError": "raycodellm.config",
    "check_sweep": "raycodellm.notebook",
    "open_run": "raycodellm.runs",
    "run": "raycodellm.notebook",
}
"""The module that each name comes from."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raycodellm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
