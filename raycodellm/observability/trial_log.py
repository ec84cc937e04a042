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
        self._last_states: dict[int, str] = {}
        """Maps each trial to its state at the last look."""
        self._results: Sequence[TrialResult] = ()
        """The trials at the last look."""
        self._trials_with_named_jobs: set[int] = set()
        """Trials whose jobs a line has named."""
        self._running: dict[str, Progress] = {}
        self._last_reports: dict[tuple[int, str], tuple[int, datetime]] = {}
        """Maps each trial and job to the step in the last line about the job's progress, and the time of that line."""

    def new_lines(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> dict[int, list[str]]:
        """The new lines per trial number, each with the time."""
        now = self._clock()
        time, lines = f"{now:%Y-%m-%d %H:%M:%S}", dict[int, list[str]]()
        for result in self._trials_with_news(snapshot, results):
            jobs = snapshot.chains.get(result.number, ())
            lines_of_trial = [
                *self._beginning_lines(result, jobs),
                *self._job_lines(result.number, jobs, snapshot, now),
                *_ending_lines(result, self._last_states),
            ]
            self._last_states[result.number] = result.state
            if lines_of_trial:
                lines[result.number] = [f"{time}  {line}" for line in lines_of_trial]
        self._running = dict(snapshot.running)
        return lines

    def _trials_with_news(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> list[TrialResult]:
        """The trials that have jobs, and those that have changed: few of a long sweep's."""
        changed_results, self._results = changed(results, self._results), results
        if isinstance(results, KnownTrials):
            with_jobs = [trial for number in snapshot.chains if (trial := results.of(number)) is not None]
        else:
            with_jobs = [result for result in results if result.number in snapshot.chains]
        by_number = {result.number: result for result in (*changed_results, *with_jobs)}
        return [by_number[number] for number in sorted(by_number)]

    def _beginning_lines(self, result: TrialResult, jobs: Sequence[str]) -> Iterator[str]:
        if result.number not in self._last_states:
            name = trial_name(result.number)
            yield f"trial {name}, arm {result.arm}, seed {result.seed}: {formats.params(result.params)}"
        if jobs and result.number not in self._trials_with_named_jobs:
            self._trials_with_named_jobs.add(result.number)
            yield f"its jobs: {', '.join(map(short_job_key, jobs))}"

    def _job_lines(self, number: int, jobs: Sequence[str], snapshot: Snapshot, now: datetime) -> Iterator[str]:
        for key in jobs:
            name = short_job_key(key)
            for note in (note for note in snapshot.notes if key in note):
                yield note.replace(key, name)
            if key in snapshot.running:
                if key not in self._running:
                    yield f"{name}: begins"
                yield from self._progress_lines(number, name, snapshot.running[key], now)
            elif key in self._running or key in snapshot.ended:
                last = snapshot.ended.get(key, self._running.get(key))
                if last is not None and last.step and self._last_reports.get((number, name), (0,))[0] != last.step:
                    yield f"{name}: {_facts(last)}"
                yield f"{name}: runs no longer"

    def _progress_lines(self, number: int, name: str, progress: Progress, now: datetime) -> Iterator[str]:
        last_report = self._last_reports.get((number, name))
        is_due = last_report is None or (now - last_report[1]).total_seconds() >= PROGRESS_SECONDS
        if progress.step and is_due:
            self._last_reports[number, name] = progress.step, now
            yield f"{name}: {_facts(progress)}"


def _ending_lines(result: TrialResult, last_states: dict[int, str]) -> Iterator[str]:
    if result.state not in ENDED or last_states.get(result.number) == result.state:
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
