"""raycodellm: how much code, of which kind, at which training stage, on which schedule, makes a model reason better?

`raycodellm.run(sweep)` runs a sweep, `raycodellm.open_run(folder)` opens a run, `raycodellm.check_sweep(sweep)` says
what a sweep would do; docs/notebook.md shows them. They are imported when they are first used, so that
`import raycodellm` takes milliseconds.
"""

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycodellm.notebook import OpenedRun, RunFailed, UserError, check_sweep, open_run, run

__all__ = ["OpenedRun", "RunFailed", "UserError", "__version__", "check_sweep", "open_run", "run"]
__version__ = "0.1.0"

STARTED = time.monotonic()
"""When this process imported the package, in seconds of the monotonic clock."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'raycodellm' has no attribute {name!r}")
    from raycodellm import notebook

    return getattr(notebook, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
