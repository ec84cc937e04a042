"""A run that exists, finished or not: what a notebook, `status` and `report` read of it."""

from raycodellm.runs.opened_run import OpenedRun, open_run
from raycodellm.runs.status import RunStatus

__all__ = ["OpenedRun", "RunStatus", "open_run"]
