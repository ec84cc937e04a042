"""Records where the time of a sweep went, run by run: `runs/0000.json` of its run folder and so on, one file per run.

A run is one call of `raycodellm run`, or what continues a sweep in another way. The file is there from the run's
beginning and is written again now and then, so that a run that was killed is known too, to within `WRITE_SECONDS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from raycodellm.files import DamagedFile, Folder
from raycodellm.records import as_json, from_json

RUNS = "runs"
"""Folder of the run folder with the files."""
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
"""How a run stands: DONE did all trials that it could, be some of them failed; FAILED ended before, with an error. The
file of a run that was killed says RUNNING for good."""
REPORT = "report"
"""The part of a run that writes the report, its last one."""
WRITE_SECONDS = 60.0
"""Between two writings of the file of a running run."""


@dataclass(frozen=True)
class RunTimes:
    """One run. Times are Unix seconds."""

    began: float
    heard: float
    """Time at which the file was written last: the run's end, where it has ended."""
    state: str = RUNNING
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by part of the run, in the order in which the parts began."""
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    """When each part began and ended."""
    slot_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that worker groups, added up, were busy with each kind of job."""
    first_slot_seconds: float | None = None
    """From the dispatcher's start until the first worker group asked for work; sources are prepared meanwhile."""
    num_ended: int = 0
    """Trials that ended in this run."""
    jobs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Maps a job's key to when it was `asked` for, `taken`, at its `first_step` and `last_step`, and `ended`. Empty
    until the run has ended."""

    @property
    def wall_seconds(self) -> float:
        """Seconds from the run's beginning until it was last heard of."""
        return self.heard - self.began


def next_number(run: Folder) -> int:
    """The number of the next run of the sweep, from 0."""
    return 1 + max(_numbers(run), default=-1)


def write_run_times(run: Folder, number: int, times: RunTimes) -> None:
    """Writes the file of a run of the sweep."""
    (run / RUNS).write_json(_file(number), as_json(times))


def _file(number: int) -> str:
    return f"{number:04d}.json"


def read_run_times(run: Folder) -> list[RunTimes]:
    """The runs of a sweep in the order in which they began; none of a sweep that only an older version ran.

    Raises `DamagedFile` where a file is damaged.
    """
    return [_read(run, number) for number in sorted(_numbers(run))]


def _numbers(run: Folder) -> list[int]:
    if not run.exists(RUNS):
        return []
    names = (name.removesuffix(".json") for name in (run / RUNS).list())
    return [int(name) for name in names if name.isdecimal()]


def _read(run: Folder, number: int) -> RunTimes:
    folder, name = run / RUNS, _file(number)
    try:
        return from_json(RunTimes, folder.read_json(name), f"{folder}/{name}")
    except DamagedFile as error:
        raise error.with_meaning("where the time of the runs went cannot be shown; nothing else needs it") from error


def wrote_report(run: Folder) -> bool:
    """True if the newest run of the sweep wrote its report to the end. Raises `DamagedFile` where its file is
    damaged."""
    numbers = _numbers(run)
    newest = _read(run, max(numbers)) if numbers else None
    return newest is not None and newest.state == DONE and REPORT in newest.seconds


def gaps(runs: Sequence[RunTimes]) -> list[float | None]:
    """Seconds between each run and the end of the one before it, in which nothing ran; None for the first. A run that
    was killed ends where it was last heard of."""
    between = [max(0.0, after.began - before.heard) for before, after in itertools.pairwise(runs)]
    return [None, *between][: len(runs)]


def summed(runs: Sequence[RunTimes]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by part, and slot-seconds by kind of job, over all runs."""
    parts: dict[str, float] = {}
    slots: dict[str, float] = {}
    for run in runs:
        for total, seconds_by_name in ((parts, run.seconds), (slots, run.slot_seconds)):
            for name, seconds in seconds_by_name.items():
                total[name] = total.get(name, 0.0) + seconds
    return parts, slots
