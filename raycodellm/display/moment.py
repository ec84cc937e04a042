"""A running sweep at one moment, and the sentences that say how it stands: pure functions of plain values."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raycodellm.dispatch import Snapshot, seconds_left
from raycodellm.known_trials import num_ended, state_counts
from raycodellm.records import Progress, TrialResult
from raycodellm.tables import formats
from raycodellm.tables.stopped import why_stopped
from raycodellm.tables.trials import trial_name

if TYPE_CHECKING:
    from raycodellm.tokens import SourceProgress

MOST_JOBS = 8
"""Jobs that are shown one by one; more are shown together."""
_NOT_COMPLETE = {"failed": "failed", "pruned": "stopped early"}
"""Ends of a trial other than a result, in words."""
_CLOCK_SECONDS = 600.0
"""From so many seconds on, the hour of the expected end is said too."""


@dataclass(frozen=True)
class Moment:
    """A running sweep at one moment."""

    snapshot: Snapshot
    results: Sequence[TrialResult]
    """Chains of the trials that have begun, by number."""
    num_trials: int
    """Trials of the whole sweep, as far as is known."""
    elapsed: float
    """Seconds since the command began."""
    most_trials: int = 0
    """Trials that the sweep may come to, where it may ask for more than are known."""
    best: str = ""
    """The best arm so far with its uncertainty; empty while no trial is complete."""
    waiting: str = ""
    """The thing that the run waits for; empty while a job moves."""
    waiting_seconds: float = 0.0
    now: float = field(default_factory=time.time)
    """Unix seconds."""


def overview(moment: Moment, with_wait: bool = True) -> list[str]:
    """One to five lines on how the sweep stands. The reason why no slot can start stands in one of them alone."""
    lines = [state_line(moment)]
    if moment.best:
        lines.append(f"best so far: {moment.best}")
    says_wait = bool(moment.waiting) and with_wait
    if slots := slots_line(moment.snapshot, with_reason=not says_wait):
        lines.append(slots)
    if moment.snapshot.budget:
        lines.append(f"spent: {', '.join(moment.snapshot.budget)}")
    if says_wait:
        lines.append(waiting_line(moment.waiting, moment.waiting_seconds))
    return lines


def state_line(moment: Moment) -> str:
    """`4 of 6 trials done (1 failed), 3 min 12 s elapsed, about 2 min left`; of a sweep that may ask for more trials
    `4 of 6 trials done, at most 12, …`."""
    in_state, ended = state_counts(moment.results), num_ended(moment.results)
    counts = [f"{number} {word}" for state, word in _NOT_COMPLETE.items() if (number := in_state.get(state, 0))]
    failed = f" ({', '.join(counts)})" if counts else ""
    most = [f"at most {moment.most_trials}"] if moment.most_trials > moment.num_trials else []
    return ", ".join([f"{ended} of {moment.num_trials} trials done{failed}", *most, *times(moment, ended)])


def times(moment: Moment, num_ended: int) -> list[str]:
    """`3 min 12 s elapsed`, and the expected end where it is known."""
    expected = expected_end(moment, num_ended)
    return [f"{whole_seconds(moment.elapsed)} elapsed", *([expected] if expected else [])]


def expected_seconds(moment: Moment, num_ended: int) -> float | None:
    """Seconds until the sweep's end; None while too little is measured, and without a slot that has workers."""
    work = moment.snapshot.remaining
    if work is None:
        return None
    return seconds_left(work, moment.num_trials - num_ended - work.num_trials, num_working_slots(moment.snapshot))


def expected_end(moment: Moment, num_ended: int) -> str:
    """`about 12 min left, until 14:32`; empty while too little is measured."""
    work, left = moment.snapshot.remaining, expected_seconds(moment, num_ended)
    if work is None or left is None:
        return ""
    is_rough_bound = work.is_upper_bound and moment.num_trials - num_ended > work.num_trials
    text = f"{'at most' if is_rough_bound and work.covers_evaluations else 'about'} {roughly(left)} left"
    if not work.covers_evaluations:
        text += " without the evaluations"
    if left >= _CLOCK_SECONDS:
        format = "%H:%M" if left < 20 * 3600 else "%a %d %b %H:%M"
        text += f", until {time.strftime(format, time.localtime(moment.now + left))}"
    return text


def roughly(seconds: float) -> str:
    """A duration as an estimate deserves it: tens of seconds, whole minutes, then hours and minutes."""
    if seconds < 90:
        return f"{max(1, math.ceil(seconds / 10)) * 10} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def num_working_slots(snapshot: Snapshot) -> int:
    """Slots that have workers, with or without a job."""
    if not snapshot.slot_views:
        return snapshot.slots
    return sum(view.state in ("idle", "working") for view in snapshot.slot_views)


def slots_line(snapshot: Snapshot, with_reason: bool = True) -> str:
    """`slots: 2 working, 1 starting (35 s), on 3 nodes`, and why no slot can start; empty without a slot."""
    views = snapshot.slot_views
    parts = []
    for state in ("working", "idle", "starting", "lost"):
        seconds = [view.seconds for view in views if view.state == state]
        if seconds:
            since = f" ({whole_seconds(max(seconds))})" if state in ("starting", "lost") else ""
            parts.append(f"{len(seconds)} {state}{since}")
    line = f"slots: {', '.join(parts)}" if parts else ""
    if line and snapshot.num_nodes > 1:
        line += f", on {snapshot.num_nodes} nodes"
    if snapshot.waiting_reason and with_reason:
        line = f"{line or 'slots: none'}; {snapshot.waiting_reason}"
    return line


def waited_for(snapshot: Snapshot) -> str:
    """The thing that the run waits for; empty while a job moves."""
    if any(is_moving(progress) for progress in snapshot.running.values()):
        return ""
    if snapshot.running:
        jobs = [f"{formats.short_key(key)} ({progress.note})" for key, progress in sorted(snapshot.running.items())]
        more = f" and {len(jobs) - MOST_JOBS} more" if len(jobs) > MOST_JOBS else ""
        return ", ".join(jobs[:MOST_JOBS]) + more
    starting = [view.name for view in snapshot.slot_views if view.state == "starting"]
    if num_working_slots(snapshot):
        return "the next job"
    reason = f" ({snapshot.waiting_reason})" if snapshot.waiting_reason else ""
    if starting:
        return f"{', '.join(starting[:MOST_JOBS])} to start{reason}"
    return ("a worker group" if snapshot.slots else "the first worker group") + reason


def is_moving(progress: Progress) -> bool:
    """True if the job has reported steps or items."""
    return bool(progress.step or progress.items)


def waiting_line(subject: str, seconds: float) -> str:
    return f"waiting for {subject}, {whole_seconds(seconds)} so far"


def whole_seconds(seconds: float) -> str:
    """`7 s`, or minutes: how long something has lasted until now."""
    return f"{int(seconds)} s" if seconds < 60 else formats.seconds(seconds)


# ------------------------------------------------------------------------------------------------- jobs


def share_done(progress: Progress) -> float | None:
    """0 to 1; None while the job's size is unknown."""
    if progress.num_steps:
        return min(1.0, progress.step / progress.num_steps)
    return min(1.0, progress.items / progress.num_items) if progress.num_items else None


def job_facts(progress: Progress) -> list[str]:
    """The known facts of a running job, the most important first; a number that is not known yet is left out."""
    if progress.num_items:
        return [f"{progress.items:,} of {progress.num_items:,} items"]
    if not progress.step:
        return [progress.note] if progress.note else []
    facts = [f"{formats.count(progress.tokens)} tokens"]
    if progress.tokens_per_second > 0 and math.isfinite(progress.tokens_per_second):
        facts.append(f"{formats.count(progress.tokens_per_second)}/s")
    if math.isfinite(progress.loss):
        facts.append(f"loss {progress.loss:.3f}")
    if math.isfinite(progress.code_ratio_real):
        planned = progress.code_ratio_planned
        plan = f" (plan {planned:.3f})" if math.isfinite(planned) else ""
        facts.append(f"code {progress.code_ratio_real:.3f}{plan}")
    return facts


def job_line(key: str, progress: Progress) -> str:
    """`pretrain 012345  50 %  5.00 k tokens  1.23 k/s  loss 3.210  code 0.480 (plan 0.500)`."""
    done = share_done(progress)
    share = "" if done is None else f"{100 * done:3.0f} %"
    return "  ".join(part for part in (formats.short_key(key), share, *job_facts(progress)) if part)


def jobs_line(running: dict[str, Progress]) -> str:
    """Many jobs in one line: their number, their speed in all, and how far each is."""
    speed = sum(
        progress.tokens_per_second for progress in running.values() if math.isfinite(progress.tokens_per_second)
    )
    together = f", {formats.count(speed)} tokens/s" if speed else ""
    parts = []
    for key, progress in sorted(running.items())[:MOST_JOBS]:
        done = share_done(progress)
        parts.append(formats.short_key(key) + ("" if done is None else f" {100 * done:.0f} %"))
    more = f" and {len(running) - MOST_JOBS} more" if len(running) > MOST_JOBS else ""
    return f"{len(running)} jobs{together}: {', '.join(parts)}{more}"


# ------------------------------------------------------------------------------------------------- trials and sources


def trial_line(result: TrialResult, metrics: Sequence[str]) -> str:
    """`trial 0001 pretrain.code_ratio 0.25: mean/bpb 1.500`, or the cause of its failure, or why it was stopped early;
    with the seed in a confirmation, where the same arms come again and again."""
    name = trial_name(result.number)
    if result.state == "failed":
        return f"trial {name} failed: {result.error or 'no cause was recorded'}"
    if result.state == "pruned":
        why = why_stopped(result.rungs, result.stopped_by)
        return f"trial {name} {formats.params(result.params)}: stopped early, {why}"
    scores = ", ".join(f"{metric} {formats.score(result.metrics.get(metric))}" for metric in metrics)
    seed = f", seed {result.seed}" if result.phase == "confirm" else ""
    return f"trial {name} {formats.params(result.params)}{seed}: {scores or 'complete'}"


def source_line(event: SourceProgress, seconds: float) -> str:
    """A line on how far a source's token store is; `seconds`: since its making began, for a store in the making."""
    if event.state == "running":
        counts = f"{event.documents:,} documents, {event.tokens:,} tokens, " if event.documents else "running, "
        return f"{event.source}: {counts}{whole_seconds(max(seconds, event.seconds))}"
    if not event.documents:
        return f"{event.source}: {event.state}" + (f", {formats.seconds(event.seconds)}" if event.seconds else "")
    outcome = "as before" if event.state == "reused" else formats.seconds(event.seconds)
    return f"{event.source}: {event.documents:,} documents, {event.tokens:,} tokens, {outcome}"
