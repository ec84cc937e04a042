"""Tells Ray's dashboard and Prometheus of a running sweep, from the driver."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from raycodellm.config import Objective, SweepFile
from raycodellm.dispatch import Snapshot
from raycodellm.known_trials import changed
from raycodellm.observability.gauges import Gauges
from raycodellm.observability.job_page import JobPage, submission_id
from raycodellm.observability.readings import SweepReadings
from raycodellm.observability.session_logs import SessionLogs, Text
from raycodellm.observability.summary import Best, FindBest, job_metadata, summary_line
from raycodellm.observability.trial_log import TrialLog
from raycodellm.records import TrialResult
from raycodellm.tables import trials_table
from raycodellm.tables.terminal import table_lines
from raycodellm.tables.trials import score_columns, trial_name
from raycodellm.throttle import Throttle

if TYPE_CHECKING:
    from raycodellm.tokens import SourceProgress

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Seconds between two looks at the sweep. Ray takes the gauges' values every ten seconds."""


class Observer:
    """Shows a sweep in the dashboard's pages, and sets its gauges.

    A failure of one of these is logged, and ends no sweep.
    """

    def __init__(
        self,
        file: SweepFile,
        num_trials: int,
        *,
        gcs_address: str,
        session_folder: str,
        find_best: FindBest,
        metadata: dict[str, str] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`metadata`: what the job's page tells of the sweep while it runs. The process is connected to Ray."""
        sweep = file.example()
        self._name, self._num_trials = sweep.name, num_trials
        self._objectives = sweep.search.objectives
        self._find_best = find_best
        self._metadata = metadata or {}
        self._clock, self._looked = clock or time.monotonic, -LOOK_SECONDS
        self._last_results: Sequence[TrialResult] = ()
        """The trials at the last look."""
        self._failures: set[str] = set()
        """Failures that were logged, and are not logged again: a look comes every two seconds."""
        self._readings = SweepReadings(file)
        self._trial_log = TrialLog()
        self._throttle = Throttle(clock)
        """Limits how often the views of all trials are written: the table, and the job's page."""
        self._viewed: tuple[Sequence[TrialResult], int] = ((), -1)
        """The trials as these views were last written, and the number of all trials."""
        self._last_state: tuple[Snapshot, Sequence[TrialResult]] | None = None
        self._gauges = _attempt(Gauges)
        self._logs = _attempt(lambda: SessionLogs(session_folder))
        job = submission_id()
        self._page = _attempt(lambda: JobPage(job, gcs_address)) if job is not None else None

    def expects(self, num_trials: int) -> None:
        """The sweep has so many trials, as far as is known now."""
        self._num_trials = num_trials

    def look(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> None:
        """Shows the sweep's state: once in `LOOK_SECONDS`, and at once where a trial or a job has begun or ended."""
        has_news = bool(snapshot.notes or snapshot.ended or changed(results, self._last_results))
        self._last_results = results
        if not has_news and self._clock() - self._looked < LOOK_SECONDS:
            return
        self._looked = self._clock()
        self._last_state = snapshot, results
        for part in (self._show_gauges, self._write_logs):
            _attempt(partial(part, snapshot, results), self._failures)
        if self._throttle.is_due:
            self._write_views(results)

    def finish(self) -> None:
        """Shows the sweep's last state, where the views of all trials are behind it."""
        if self._last_state is not None:
            self._write_views(self._last_state[1])

    def _write_views(self, results: Sequence[TrialResult]) -> None:
        """Writes the table and tells the job's page; does nothing where no trial has begun or ended since."""
        viewed, num_trials = self._viewed
        if num_trials == self._num_trials and not changed(results, viewed):
            return
        self._viewed = results, self._num_trials
        find_best = _once_per_metric(self._find_best)
        with self._throttle:
            for part in (self._write_table, self._tell_job):
                _attempt(partial(part, results, find_best), self._failures)

    def _show_gauges(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> None:
        if self._gauges is not None:
            self._gauges.show(*self._readings.of(snapshot, results, self._num_trials))

    def _write_logs(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> None:
        if self._logs is None:
            return
        lines = self._trial_log.new_lines(snapshot, results)
        files = {
            f"raycodellm-{self._name}-trial-{trial_name(number)}.log": Text("".join(f"{line}\n" for line in new_lines))
            for number, new_lines in lines.items()
        }
        self._logs.write(files)

    def _write_table(self, results: Sequence[TrialResult], find_best: FindBest) -> None:
        """Writes the table of trials, below one line about the sweep."""
        if self._logs is None:
            return
        metrics = [objective.metric for objective in self._objectives]
        table = trials_table([result.row(score_columns(metrics)) for result in results], metrics)
        summary = summary_line(results, self._num_trials, self._objectives, find_best)
        text = "\n".join([f"{self._name}: {summary}", "", *map(_unfolded, table_lines(table)), ""])
        self._logs.write({f"raycodellm-{self._name}-trials.txt": Text(text, is_whole=True)})

    def _tell_job(self, results: Sequence[TrialResult], find_best: FindBest) -> None:
        if self._page is not None:
            message = summary_line(results, self._num_trials, self._objectives, find_best)
            state = job_metadata(results, self._num_trials, self._objectives, find_best)
            self._page.tell(message, {**self._metadata, **state})


def _once_per_metric(find_best: FindBest) -> FindBest:
    """`find_best` for one state of the sweep: it is asked once for each objective."""
    best_by_metric: dict[str, Best | None] = {}

    def find(results: Sequence[TrialResult], objective: Objective) -> Best | None:
        if objective.metric not in best_by_metric:
            best_by_metric[objective.metric] = find_best(results, objective)
        return best_by_metric[objective.metric]

    return find


def _unfolded(line: str) -> str:
    """The line with spaces that do not break: the Logs page folds several usual spaces into one."""
    return re.sub(" {2,}", lambda spaces: "\N{NO-BREAK SPACE}" * len(spaces[0]), line)


def _attempt(act: Callable[[], Any], logged_failures: set[str] | None = None) -> Any:
    """The result of `act`; None where `act` fails. A view of a sweep must not end the sweep.

    `logged_failures`: failures that have been logged, which are not logged again; this one is added.
    """
    try:
        return act()
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        if logged_failures is None or failure not in logged_failures:
            logger.warning("a part of the dashboard is not kept current", exc_info=True)
        if logged_failures is not None:
            logged_failures.add(failure)
        return None


class Monitor(Protocol):
    """Shows a run, as `sweep.Monitor` says."""

    def say(self, line: str) -> None: ...

    def preparing(self, event: SourceProgress) -> None: ...

    def waits_for(self, subject: str) -> None: ...

    def expects(self, num_trials: int, most_trials: int) -> None: ...

    def training(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> None: ...


class Observed:
    """A monitor of a run that also tells an observer; implements `sweep.Monitor`."""

    def __init__(self, monitor: Monitor, observer: Observer) -> None:
        self._monitor, self._observer = monitor, observer

    def say(self, line: str) -> None:
        self._monitor.say(line)

    def preparing(self, event: SourceProgress) -> None:
        self._monitor.preparing(event)

    def waits_for(self, subject: str) -> None:
        self._monitor.waits_for(subject)

    def expects(self, num_trials: int, most_trials: int) -> None:
        self._monitor.expects(num_trials, most_trials)
        self._observer.expects(num_trials)

    def training(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> None:
        self._monitor.training(snapshot, results)
        self._observer.look(snapshot, results)
