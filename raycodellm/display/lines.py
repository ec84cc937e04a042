"""The display without a terminal: lines, for a log that somebody reads later."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from raycodellm.display.base import Display, Shown
from raycodellm.display.moment import (
    MOST_JOBS,
    Moment,
    is_moving,
    job_line,
    jobs_line,
    overview,
    slots_line,
    source_line,
    state_line,
    trial_line,
    waiting_line,
    whole_seconds,
)
from raycodellm.display.redirect import console
from raycodellm.display.trials import newest_trials, older_line
from raycodellm.records import ENDED
from raycodellm.tables import table_lines

if TYPE_CHECKING:
    from raycodellm.tokens import SourceProgress

LINE_SECONDS = 10.0
"""Seconds between two lines about the same subject."""
TERMINAL_SECONDS = 5.0
"""Seconds between two lines about a wait on a terminal, where somebody waits."""
OVERVIEW_SECONDS = 60.0
"""Seconds between two overviews of the sweep."""


class LineDisplay(Display):
    """Writes lines; about one subject not more than one every `LINE_SECONDS`."""

    def __init__(self, output: TextIO, shown: Shown, **clock: Callable[[], float]) -> None:
        super().__init__(output, shown, **clock)
        self.console = console(output)
        self.wait_seconds = TERMINAL_SECONDS if output.isatty() else LINE_SECONDS
        """Seconds after which a line says that the run waits, and between two such lines."""
        self.last_line = {"overview": self.began}
        """Maps each subject to the clock's time at which a line about it was last due."""
        self.announced: set[int] = set()
        """Numbers of the trials whose end was said."""
        self.is_changed = False
        """True if a trial has ended since the last table."""

    @property
    def columns(self) -> int:
        return self.console.width

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    def _prepared(self, event: SourceProgress) -> None:
        if event.state != "running" or self._is_due(event.source, first=not event.documents):
            self._say(source_line(event, self.clock() - self.sources[event.source][1]))

    def _evaluated(self, model: str) -> None:
        self._say_evaluations()

    def _say_evaluations(self) -> None:
        for model, (num_scored, num_items, began) in self.evaluations.items():
            if num_scored < num_items and self._is_due(model, first=False):
                self._say(f"{model}: {num_scored:,} of {num_items:,} items, {whole_seconds(self.clock() - began)}")

    def _trained(self, moment: Moment) -> None:
        self._trial_lines(moment)
        running = {key: progress for key, progress in moment.snapshot.running.items() if is_moving(progress)}
        if len(running) > MOST_JOBS // 2:
            if self._is_due("jobs"):
                self._say(jobs_line(running))
        else:
            for key, progress in running.items():
                if self._is_due(key):
                    self._say(job_line(key, progress))
        # While nothing moves, the line about the wait says why no slot can start.
        if moment.snapshot.waiting_reason and not moment.waiting and self._is_due("slots", seconds=OVERVIEW_SECONDS):
            self._say(slots_line(moment.snapshot))
        if self._is_due("overview", seconds=OVERVIEW_SECONDS):
            self._overview(moment)
        self._refresh()

    def _trial_lines(self, moment: Moment) -> None:
        for result in moment.results:
            if result.state in ENDED and result.number not in self.announced:
                self.announced.add(result.number)
                self.is_changed = True
                self._say(trial_line(result, self.shown.metrics))

    def _overview(self, moment: Moment) -> None:
        """Says how the sweep stands; with the table of trials, if a trial has ended since the last table."""
        if not self.is_changed:
            self._say(state_line(moment))
            return
        self.is_changed = False
        for line in overview(moment):
            self._say(line)
        table, num_older = newest_trials(moment.results, self.shown.metrics, self.columns)
        for line in [*([older_line(num_older)] if num_older else []), *table_lines(table)]:
            self._say(f"  {line}")

    def _refresh(self) -> None:
        subject, seconds = self.waiting
        if not subject:
            self.last_line.pop("waiting", None)
        elif seconds >= self.wait_seconds and self._is_due("waiting", seconds=self.wait_seconds):
            self._say(waiting_line(subject, seconds))
        if self.moment is None and not subject:
            self._say_evaluations()
            for event, began in self.sources.values():
                if event.state == "running" and self._is_due(event.source, first=False):
                    self._say(source_line(event, self.clock() - began))

    def _is_due(self, subject: str, first: bool = True, seconds: float = LINE_SECONDS) -> bool:
        """True if the last line about the subject is old enough for another. `first`: the answer to the first call."""
        now = self.clock()
        if now - self.last_line.setdefault(subject, -math.inf if first else now) < seconds:
            return False
        self.last_line[subject] = now
        return True
