"""How a run stands, from the files of its folder."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm import budget, report, storage_files, sweep, verdict, win_rates
from raycodellm.display import MOST_JOBS, Moment, expected_seconds, job_line, slots_line, times, whole_seconds
from raycodellm.records import ENDED, TrialResult, as_json
from raycodellm.report import BestArm
from raycodellm.sweep import Driver
from raycodellm.tables.plain_json import finite_json
from raycodellm.win_rates import WinRates

logger = logging.getLogger(__name__)

FORMAT = 1
"""Raised when a key of `RunStatus.as_json` changes its meaning or goes."""


@dataclass(frozen=True)
class RunStatus:
    """How a run stands."""

    name: str
    folder: str
    """URI of the run folder."""
    num_trials: int
    """Trials of the whole sweep, as far as is known."""
    most_trials: int
    """Trials that the sweep may come to, where a confirmation may ask for more than are known."""
    states: Counter[str]
    """Number of the trials that have begun, by state."""
    best: BestArm | None
    """None while no trial is complete."""
    driver: Driver | None
    """The process that runs the sweep now, as far as its files tell; None for none."""
    results: Sequence[TrialResult]
    front: verdict.Front | None = None
    """The Pareto front of several objectives by the means, with the intervals that the evaluations recorded; these are
    wider than the report's, which compares arms item by item. None with one objective."""
    is_trained: bool = True
    """False for a sweep of given models."""
    verdict: dict[str, Any] | None = None
    """The content of `verdict.json` as the trials stand now; None where it is not known without reading all items."""
    win_rates: WinRates | None = None
    """The win rates over the reference arm; None of a sweep without a judge, and before the judge was asked."""
    limits: tuple[budget.Limit, ...] = ()
    """The limits of the sweep's budget, and how much of each was spent when its driver last wrote that."""

    @classmethod
    def of(cls, run: sweep.Run, results: Sequence[TrialResult]) -> RunStatus:
        """`results`: of the run's trials, in order."""
        standing = sweep.Confirmation(run).standing(results)
        states = Counter(result.state for result in results)
        return cls(
            name=run.sweep.name,
            folder=run.folder.uri,
            num_trials=standing.num_trials,
            most_trials=standing.most_trials,
            states=states,
            best=report.best_arm_of(results, run.sweep.search.objectives, standing.looks, run.file),
            front=_front(run, results, standing.looks),
            driver=sweep.running_driver(run),
            results=results,
            is_trained=bool(run.sweep.stages),
            limits=_limits(run),
            win_rates=_win_rates(run),
            verdict=_verdict(run, results, standing.looks, sum(states[state] for state in ENDED)),
        )

    @property
    def num_ended(self) -> int:
        return sum(self.states[state] for state in ENDED)

    @property
    def num_unbegun(self) -> int:
        """Trials that have not begun, as far as is known."""
        return self.num_trials - sum(self.states.values())

    @property
    def moment(self) -> Moment | None:
        """The sweep as its driver last saw it; None without a driver whose trials have begun."""
        sighting = self.driver.sighting if self.driver is not None else None
        if sighting is None:
            return None
        return Moment(
            sighting.snapshot, self.results, self.num_trials, sighting.elapsed, self.most_trials, now=sighting.at
        )

    def __str__(self) -> str:
        """Two to ten lines."""
        return "\n".join(self.lines())

    def lines(self, now: float | None = None) -> list[str]:
        """How the run stands, in two lines or more. `now`: Unix seconds."""
        other_states = [f"{number} {state}" for state, number in sorted(self.states.items()) if state != "complete"]
        first_line = f"{self.name}: {self.num_ended} of {self.num_trials} trials ended"
        first_line += f" ({', '.join(other_states)})" if other_states else ""
        first_line += f", at most {self.most_trials} in all" if self.most_trials > self.num_trials else ""
        moment, lines = self.moment, []
        if moment is not None:
            first_line = ", ".join(filter(None, (first_line, *times(moment, self.num_ended))))
        if self.best is not None:
            lines.append(f"best so far: {self.best}" if self.num_ended < self.num_trials else f"best: {self.best}")
        if self.front is not None and self.front.arms:
            # Differences item by item, which tell more arms from noise, take too long to read here.
            hint = " The report says for which arms this is known." if self.front.knows_seeds else ""
            lines.append(f"{self.front.by_means}{hint}")
        if self.verdict is not None and (self.verdict["reference"] is not None or not self.is_trained):
            lines.append(self.verdict["answer"])
        if self.win_rates is not None:
            lines += win_rates.lines(self.win_rates)
        if self.limits:
            lines.append(f"budget: {', '.join(map(str, self.limits))}")
        if stopped := budget.why_stopped(self.limits, self.num_unbegun):
            lines.append(stopped)
        if moment is not None:
            lines += filter(None, [slots_line(moment.snapshot)])
            lines += [job_line(key, progress) for key, progress in sorted(moment.snapshot.running.items())[:MOST_JOBS]]
        if self.driver is not None:
            now = time.time() if now is None else now
            ago = f", as of {whole_seconds(max(0.0, now - moment.now))} ago" if moment is not None else ""
            lines.append(f"run by {self.driver.name}{ago}")
        return [first_line, *lines, self.folder]

    def as_json(self) -> dict[str, Any]:
        """Plain values with stable keys, documented in docs/notebook.md; null stands for a number that is not known."""
        document = {
            "format": FORMAT,
            "name": self.name,
            "folder": self.folder,
            "num_trials": self.num_trials,
            "most_trials": self.most_trials,
            "num_ended": self.num_ended,
            "states": dict(self.states),
            "driver": None if self.driver is None else self.driver.name,
            "now": self._now(),
            "best": None if self.best is None else as_json(self.best),
            "front": None if self.front is None else as_json(self.front),
            "verdict": self.verdict,
            "win_rates": None if self.win_rates is None else win_rates.document(self.win_rates),
            "budget": budget.document(self.limits, self.num_unbegun),
            "trials": [_trial(result) for result in self.results],
        }
        return finite_json(document)

    def _now(self) -> dict[str, Any] | None:
        """The sweep as the driver last saw it; None without a driver whose trials have begun."""
        moment = self.moment
        if moment is None:
            return None
        snapshot = moment.snapshot
        fields = ("job", "step", "num_steps", "items", "num_items", "tokens", "tokens_per_second", "loss", "note")
        return {
            "at": moment.now,
            "elapsed_seconds": moment.elapsed,
            "seconds_left": expected_seconds(moment, self.num_ended),
            "slots": [as_json(view) for view in snapshot.slot_views],
            "num_nodes": snapshot.num_nodes,
            "waiting_reason": snapshot.waiting_reason,
            "jobs": [{name: getattr(progress, name) for name in fields} for progress in snapshot.running.values()],
        }


def _verdict(
    run: sweep.Run, results: Sequence[TrialResult], looks: verdict.Looks | None, num_ended: int
) -> dict[str, Any] | None:
    """The verdict as the trials stand. Without a confirmation it rests on the items of all trials, which take too long
    to read here: then it is the one that the report has, if no trial has ended since."""
    if looks is not None:
        rows = [result.row() for result in results]
        findings = verdict.findings(run.file, rows, {}, looks)
        noise = verdict.seed_spreads(run.file, rows, looks)
        return verdict.document(run.file, findings, verdict.answer(run.file, findings), num_ended, noise=noise)
    written = storage_files.attempt(lambda: _written_verdict(run), logger.warning)
    return {**written, "sources": None} if written is not None and written.get("num_ended") == num_ended else None


def _win_rates(run: sweep.Run) -> WinRates | None:
    return None if run.sweep.evaluation.judge is None else win_rates.read_win_rates(run.folder, logger.warning)


def _limits(run: sweep.Run) -> tuple[budget.Limit, ...]:
    nothing = storage_files.Spent()
    if not budget.limits(run.sweep.budget, nothing):
        return ()
    spent = storage_files.attempt(lambda: storage_files.read_spent(run.folder), logger.warning, nothing)
    return budget.limits(run.sweep.budget, spent)


def _front(run: sweep.Run, results: Sequence[TrialResult], looks: verdict.Looks | None) -> verdict.Front | None:
    """The Pareto front; None with one objective."""
    if len(run.sweep.search.objectives) < 2:
        return None
    return verdict.front(run.file, [result.row() for result in results], {}, looks)


def _written_verdict(run: sweep.Run) -> dict[str, Any] | None:
    folder = run.folder / "report"
    return folder.read_json("verdict.json") if folder.exists("verdict.json") else None


def _trial(result: TrialResult) -> dict[str, Any]:
    names = ("number", "state", "arm", "seed", "phase", "params", "metrics", "tokens", "stages", "wall_seconds")
    fields = {name: as_json(getattr(result, name)) for name in (*names, "device_seconds", "deaths", "preemptions")}
    return {**fields, "error": result.error, "rungs": as_json(result.rungs), "stopped_by": result.stopped_by}
