"""Names under which a sweep's actors and calls stand in Ray's dashboard.

Each name holds the sweep's name, so that typing that into a filter of the dashboard finds all of one sweep.
"""

from __future__ import annotations

from collections.abc import Sequence

from raycodellm.finished import Job
from raycodellm.records import short_job_key

_SEPARATOR = " · "
_MOST_TRIALS = 3
"""Trials that the name of a job lists."""


def trial_call(number: int, arm: int, settings: str, sweep: str) -> str:
    """Name of the call that lasts as long as a trial; `settings`: its searched settings in words."""
    return _SEPARATOR.join(part for part in (f"trial {number:04d}", f"arm {arm}", settings, sweep) if part)


def job_call(job: Job, trials: Sequence[int], sweep: str, slot: str) -> str:
    """Name of the call that lasts as long as a slot works on the job, for the trials with these numbers."""
    numbers = ", ".join(f"{number:04d}" for number in trials[:_MOST_TRIALS])
    unnamed_text = f" and {len(trials) - _MOST_TRIALS} more" if len(trials) > _MOST_TRIALS else ""
    trials_text = f"trial{'s' if len(trials) > 1 else ''} {numbers}{unnamed_text}" if trials else ""
    return _SEPARATOR.join(part for part in (short_job_key(job.key), trials_text, sweep, slot) if part)


def trial_actor(sweep: str) -> str:
    """Name of the processes that trials wait in; each takes trial after trial."""
    return f"{sweep} trials"
