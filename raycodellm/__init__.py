"""raycodellm: how much code, of which kind, at which training stage, on which schedule, makes a model reason better?

`raycodellm.run(sweep)` runs a sweep, `raycodellm.open_run(folder)` opens a run, `raycodellm.check_sweep(sweep)` says
what a sweep would do; docs/notebook.md shows them. They are imported when they are first used (`offered.py`; their
types are in `__init__.pyi`), so that `import raycodellm` takes milliseconds.
"""

from raycodellm.offered import __dir__ as __dir__
from raycodellm.offered import __getattr__ as __getattr__
from raycodellm.started import STARTED as STARTED
from raycodellm.version import __version__

__all__ = ["OpenedLadder", "OpenedRun", "RunFailed", "UserError", "__version__", "check_sweep", "open_run", "run"]
