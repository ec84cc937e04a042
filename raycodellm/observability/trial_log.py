"""The events of each trial, in lines: the text of its log on the dashboard's Logs page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from raycodellm.dispatch import Snapshot
from raycodellm.known_trials import KnownTrials, changed
from raycodellm.records import ENDED, Progress, TrialResult, short_job_key
from raycodellm.tables import formats
from raycodellm.tables.stopped import why_stopped
from raycodellm.tables.trials import trial_name

PROGRESS_SECONDS = 10.0
"""Seconds between two lines about the progress of one job."""


class TrialLog:
    """Compares each state of the sweep with the one before; gives the new lines of each trial."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._seen: dict[int, str] = {}
        """Each trial's state when last looked at."""
        self._results: Sequence[TrialResult] = ()
        """The trials when last looked at."""
        self._jobs_told: set[int] = set()
        """Trials whose jobs a line has named."""
        self._running: dict[str, Progress] = {}
        self._told: dict[tuple[int, str], tuple[int, datetime]] = {}
        """Per trial and job: the step that the last line about its progress told, and when."""

    def new_lines(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> dict[int, list[str]]:
        """The new lines per trial number, each with the time."""
        now = self._clock()
        time, lines = f"{now:%Y-%m-%d %H:%M:%S}", dict[int, list[str]]()
        for result in self._to_look_at(snapshot, results):
            jobs = snapshot.chains.get(result.number, ())
            told = [
                *self._beginning(result, jobs),
                *self._of_jobs(result.number, jobs, snapshot, now),
                *_ending(result, self._seen),
            ]
            self._seen[result.number] = result.state
            if told:
                lines[result.number] = [f"{time}  {line}" for line in told]
        self._running = dict(snapshot.running)
        return lines

    def _to_look_at(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> list[TrialResult]:
        """The trials that have jobs, and those that have changed: few of a long sweep's."""
        new, self._results = changed(results, self._results), results
        if isinstance(results, KnownTrials):
            with_jobs = [one for number in snapshot.chains if (one := results.of(number)) is not None]
        else:
            with_jobs = [result for result in results if result.number in snapshot.chains]
        found = {result.number: result for result in (*new, *with_jobs)}
        return [found[number] for number in sorted(found)]

    def _beginning(self, result: TrialResult, jobs: Sequence[str]) -> Iterator[str]:
        if result.number not in self._seen:
            name = trial_name(result.number)
            yield f"trial {name}, arm {result.arm}, seed {result.seed}: {formats.params(result.params)}"
        if jobs and result.number not in self._jobs_told:
            self._jobs_told.add(result.number)
            yield f"its jobs: {', '.join(map(short_job_key, jobs))}"

    def _of_jobs(self, number: int, jobs: Sequence[str], snapshot: Snapshot, now: datetime) -> Iterator[str]:
        for key in jobs:
            name = short_job_key(key)
            for note in (note for note in snapshot.notes if key in note):
                yield note.replace(key, name)
            if key in snapshot.running:
                if key not in self._running:
                    yield f"{name}: begins"
                yield from self._of_progress(number, name, snapshot.running[key], now)
            elif key in self._running or key in snapshot.ended:
                last = snapshot.ended.get(key, self._running.get(key))
                if last is not None and last.step and self._told.get((number, name), (0,))[0] != last.step:
                    yield f"{name}: {_facts(last)}"
                yield f"{name}: runs no longer"

    def _of_progress(self, number: int, name: str, progress: Progress, now: datetime) -> Iterator[str]:
        told = self._told.get((number, name))
        is_due = told is None or (now - told[1]).total_seconds() >= PROGRESS_SECONDS
        if progress.step and is_due:
            self._told[number, name] = progress.step, now
            yield f"{name}: {_facts(progress)}"


def _ending(result: TrialResult, seen: dict[int, str]) -> Iterator[str]:
    if result.state not in ENDED or seen.get(result.number) == result.state:
        return
    if result.state == "failed":
        yield f"failed: {result.error}"
        return
    if result.state == "pruned":
        yield f"stopped early, {why_stopped(result.rungs, result.stopped_by)}"
        return
    yield f"complete: {formats.count(result.tokens.get('total', 0))} tokens, {formats.seconds(result.wall_seconds)}"
    for name, value in result.metrics.items():
        yield f"  {name} {value:.4g}"


def _facts(progress: Progress) -> str:
    share = 100 * progress.step / progress.num_steps
    facts = f"{share:.0f} %, {progress.tokens:,} tokens, {progress.tokens_per_second:,.0f} tokens/s"
    ratio = f"code {progress.code_ratio_real:.3f} (plan {progress.code_ratio_planned:.3f})"
    return f"{facts}, loss {progress.loss:.3f}, {ratio}"
