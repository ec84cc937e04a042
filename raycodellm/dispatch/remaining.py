"""The seconds that are left, by what this run has measured so far: pure arithmetic on jobs and their progress."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from raycodellm.dispatch.nodes import OPEN, JobNode, JobState
from raycodellm.dispatch.trunks import tokens_taken_over
from raycodellm.finished import Job
from raycodellm.records import Progress

MEASURED_SECONDS = 3.0
"""A stage's speed is taken as known after so many seconds of steps: the first steps compile and fill caches."""


@dataclass(frozen=True)
class RemainingWork:
    """Slot-seconds that are left, as far as this run can tell."""

    job_seconds: float = 0.0
    """Seconds for the unfinished jobs of the trials that have begun; a job that several trials need counts once."""
    longest_seconds: float = 0.0
    """Seconds for the trial that has most left to do: its jobs run one after the other."""
    trial_seconds: float = 0.0
    """Seconds for one more trial: the mean of what the trials added, without the first, which begins shared stages."""
    is_upper_bound: bool = False
    """True while a single trial has begun: how much the others share with it is unknown."""
    covers_evaluations: bool = True
    """False while no evaluation has come far enough to be measured: the seconds are those of the stages alone."""
    num_trials: int = 0
    """Trials that have begun and have unfinished jobs."""


def seconds_left(work: RemainingWork, num_further_trials: int, num_slots: int) -> float | None:
    """Seconds until the sweep's end with `num_slots` slots; None without a slot.

    `num_further_trials`: trials that have not begun. Never less than the longest trial needs by itself.
    """
    if num_slots <= 0:
        return None
    longest = max(work.longest_seconds, work.trial_seconds if num_further_trials > 0 else 0.0)
    return max(longest, (work.job_seconds + max(0, num_further_trials) * work.trial_seconds) / num_slots)


@dataclass
class _NewJobs:
    """Counts of jobs that no earlier trial had asked for, and that the stage store did not hold."""

    num_trials: int = 0
    num_evaluations: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    """`stages` and `tokens` are by the stages' names."""

    def add(self, jobs: Iterable[Job]) -> None:
        self.num_trials += 1
        for job in jobs:
            if job.kind == "stage":
                self.stages[job.stage.name] += 1
                self.tokens[job.stage.name] += job.stage.num_tokens
            else:
                self.num_evaluations += 1


class JobTimes:
    """How long this run's jobs take. `now` is in monotonic seconds throughout."""

    def __init__(self) -> None:
        self._last_reports: dict[str, tuple[float, int]] = {}
        """Maps the key of a running stage to the time of its last report of steps, and its tokens then."""
        self._stepping_seconds: dict[str, float] = defaultdict(float)
        """Seconds of steps per key of a running stage."""
        self._tokens: dict[str, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)
        """`_tokens` trained and `_seconds` of steps, by the stages' names."""
        self._overhead_seconds: list[float] = []
        """Seconds per ended stage in which it did no steps: loading, first checkpoint, export."""
        self._evaluation_durations: list[float] = []
        """Seconds of each ended evaluation."""
        self._first_trial, self._other_trials = _NewJobs(), _NewJobs()

    def trial_began(self, new_jobs: Iterable[Job]) -> None:
        """`new_jobs`: those that no trial before had asked for and the stage store does not hold."""
        (self._other_trials if self._first_trial.num_trials else self._first_trial).add(new_jobs)

    def reported(self, job: Job, progress: Progress, now: float) -> None:
        """Notes how far a stage is; other progress changes nothing."""
        if job.kind != "stage" or not progress.step:
            return
        if job.key in self._last_reports:
            last_time, last_tokens = self._last_reports[job.key]
            self._tokens[job.stage.name] += max(0, progress.tokens - last_tokens)
            self._seconds[job.stage.name] += now - last_time
            self._stepping_seconds[job.key] += now - last_time
        self._last_reports[job.key] = (now, progress.tokens)

    def stopped(self, job: Job, seconds: float, is_done: bool) -> None:
        """The job runs no longer; it ran for `seconds`."""
        self._last_reports.pop(job.key, None)
        stepping_seconds = self._stepping_seconds.pop(job.key, 0.0)
        if is_done and job.kind == "stage":
            self._overhead_seconds.append(max(0.0, seconds - stepping_seconds))
        elif is_done:
            self._evaluation_durations.append(seconds)

    def remaining(
        self, nodes: Iterable[JobNode], progress: Mapping[str, Progress], taken_at: Mapping[str, float], now: float
    ) -> RemainingWork | None:
        """The work that is left in the jobs `nodes`; None while the speed of a stage that is left is unknown.

        `progress` and `taken_at`: of the running jobs, by their keys.
        """
        evaluation_seconds = self._evaluation_seconds(progress, taken_at, now)
        nodes, job_seconds = list(nodes), 0.0
        taken_tokens = tokens_taken_over(nodes)
        by_trial: dict[int, float] = defaultdict(float)
        for node in nodes:
            if node.state not in OPEN:
                continue
            job_progress = progress.get(node.job.key) if node.state == JobState.RUNNING else None
            seconds = self._seconds_left(node.job, job_progress, evaluation_seconds, taken_tokens.get(node.job.key, 0))
            if seconds is None:
                return None
            job_seconds += seconds
            for trial in node.trials:
                by_trial[trial] += seconds
        new_jobs = self._other_trials if self._other_trials.num_trials else self._first_trial
        trial_seconds = self._trial_seconds(new_jobs, evaluation_seconds)
        if trial_seconds is None:
            return None
        return RemainingWork(
            job_seconds=job_seconds,
            longest_seconds=max(by_trial.values(), default=0.0),
            trial_seconds=trial_seconds,
            is_upper_bound=not self._other_trials.num_trials,
            covers_evaluations=evaluation_seconds is not None,
            num_trials=len(by_trial),
        )

    def _seconds_left(
        self, job: Job, job_progress: Progress | None, evaluation_seconds: float | None, tokens_taken_over: int
    ) -> float | None:
        """Slot-seconds that the job still needs; None while the speed of its stage is unknown.

        `evaluation_seconds`: seconds of a whole evaluation. `tokens_taken_over`: tokens that the stage takes over from
        another stage.
        """
        if job.kind == "evaluation":
            share_done = (
                job_progress.items / job_progress.num_items
                if job_progress is not None and job_progress.num_items
                else 0.0
            )
            return (evaluation_seconds or 0.0) * (1 - share_done)
        speed = self._speed(job.stage.name)
        if speed is None:
            return None
        if job_progress is None or not job_progress.step:
            return (job.stage.num_tokens - tokens_taken_over) / speed + self._overhead
        return max(0, job.stage.num_tokens - job_progress.tokens) / speed

    def _trial_seconds(self, new_jobs: _NewJobs, evaluation_seconds: float | None) -> float | None:
        """Slot-seconds per trial in `new_jobs`."""
        if not new_jobs.num_trials:
            return None
        seconds = new_jobs.num_evaluations * (evaluation_seconds or 0.0)
        for name, tokens in new_jobs.tokens.items():
            speed = self._speed(name)
            if speed is None:
                return None
            seconds += tokens / speed + new_jobs.stages[name] * self._overhead
        return seconds / new_jobs.num_trials

    def _speed(self, stage: str) -> float | None:
        """Tokens per slot-second of the stages of this name; of all stages where none of this name was measured."""
        tokens, seconds = self._tokens[stage], self._seconds[stage]
        if seconds < MEASURED_SECONDS:
            tokens, seconds = sum(self._tokens.values()), sum(self._seconds.values())
        return tokens / seconds if seconds >= MEASURED_SECONDS and tokens else None

    @property
    def _overhead(self) -> float:
        return sum(self._overhead_seconds) / len(self._overhead_seconds) if self._overhead_seconds else 0.0

    def _evaluation_seconds(
        self, progress: Mapping[str, Progress], taken_at: Mapping[str, float], now: float
    ) -> float | None:
        """Seconds of one evaluation: the mean of those that ended, else as one that runs lets expect."""
        if self._evaluation_durations:
            return sum(self._evaluation_durations) / len(self._evaluation_durations)
        estimates = [
            (now - taken_at[key]) * job_progress.num_items / job_progress.items
            for key, job_progress in progress.items()
            if job_progress.items and key in taken_at
        ]
        return max(estimates, default=None)
