"""The part that all displays share: facts of the sweep, waits, and a clock that goes on while nothing happens."""

from __future__ import annotations

import abc
import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from raycodellm.display.moment import Moment, waited_for
from raycodellm.known_trials import num_ended
from raycodellm.records import TrialResult
from raycodellm.throttle import Throttle

if TYPE_CHECKING:
    from raycodellm.dispatch import Snapshot
    from raycodellm.tokens import SourceProgress

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
ANSWER_SECONDS = 5.0
"""Seconds without an answer of the cluster after which the display says that the run waits for it."""


@dataclass(frozen=True)
class Shown:
    """The facts of a sweep that a display shows beside its progress."""

    name: str = ""
    metrics: tuple[str, ...] = ()
    """Names of the objectives' metrics."""
    num_trials: int = 0
    """Trials of the whole sweep as far as is known when it begins, those of earlier runs included."""
    most_trials: int = 0
    """Trials that the sweep may come to, where it may ask for more than are known."""
    best: Callable[[Sequence[TrialResult]], str] = lambda results: ""
    """The best arm so far with its uncertainty; asked when another trial has ended, but never so often that the answers
    take more than a small share of the time."""


class Display(abc.ABC):
    """Shows a run; implements `sweep.Monitor`. Its methods may be called from any thread.

    A thread of its own keeps the elapsed time current, so that a long wait is never silent.
    """

    def __init__(self, output: TextIO, shown: Shown, clock: Callable[[], float] | None = None) -> None:
        self.output, self.shown, self.clock = output, shown, clock or time.monotonic
        self.lock = threading.RLock()
        self.began = self.clock()
        self.sources: dict[str, tuple[SourceProgress, float]] = {}
        """Maps each source to its newest event, and to the clock's time of its first event."""
        self.evaluations: dict[str, tuple[int, int, float]] = {}
        """Maps each model of `evaluating` to its scored and all items, and the clock's time of its first call."""
        self.num_trials, self.most_trials = shown.num_trials, shown.most_trials
        self.moment: Moment | None = None
        """The sweep as it was last seen; None before its first trial."""
        self._waiting: tuple[str, float] = ("", self.began)
        """The subject that the run waits for, empty for none, and the clock's time at which the wait began."""
        self._seen_at = self.began
        """The clock's time of the newest snapshot of the sweep."""
        self._best: tuple[int, str] = (0, "")
        """Number of ended trials, and the best arm among them."""
        self._throttle = Throttle(clock)
        """Limits how often the best arm is looked for."""
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick_on, name="raycodellm display", daemon=True)

    def __enter__(self) -> Display:
        with self.lock, self._terminal():
            self._open()
        self._ticker.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        with self.lock, self._terminal():
            self._close()

    # ------------------------------------------------------------------------------------------ what a run tells

    def say(self, line: str) -> None:
        """Shows a line that stays."""
        with self.lock, self._terminal():
            self._say(line)

    def waits_for(self, subject: str) -> None:
        """The run waits for the subject now, and for nothing else, until it tells of something else."""
        with self.lock, self._terminal():
            if subject != self._waiting[0]:
                self._waiting = (subject, self.clock())
            self.moment = None
            self.sources.clear()
            self.evaluations.clear()
            self._refresh()

    def evaluating(self, model: str, num_scored: int, num_items: int) -> None:
        """An evaluation outside a sweep has scored `num_scored` of its `num_items` items."""
        with self.lock, self._terminal():
            self._waiting = ("", self.clock())
            _, _, began = self.evaluations.get(model, (0, 0, self.clock()))
            self.evaluations[model] = (num_scored, num_items, began)
            self._evaluated(model)

    def preparing(self, event: SourceProgress) -> None:
        """A source's token store has come further."""
        with self.lock, self._terminal():
            self._waiting = ("", self.clock())
            _, began = self.sources.get(event.source, (event, self.clock()))
            self.sources[event.source] = (event, began)
            self._prepared(event)

    def expects(self, num_trials: int, most_trials: int) -> None:
        """The sweep has `num_trials` trials as far as is known now, and may come to `most_trials`."""
        with self.lock:
            self.num_trials, self.most_trials = num_trials, most_trials

    def training(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> None:
        """The trials have come further."""
        with self.lock, self._terminal():
            for note in snapshot.notes:
                self._say(note)
            now, subject = self.clock(), waited_for(snapshot)
            # A wait goes on while its subject changes: from the first worker group to its first step, say.
            if not subject or not self._waiting[0] or self.moment is None:
                self._waiting = (subject, now)
            else:
                self._waiting = (subject, self._waiting[1])
            self._seen_at = now
            self.moment = self._moment(snapshot, results)
            self._trained(self.moment)

    def _moment(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> Moment:
        ended = num_ended(results)
        if ended != self._best[0] and self._throttle.is_due:
            with self._throttle:
                self._best = (ended, self._best_of(results))
        waiting, seconds = self.waiting
        return Moment(
            snapshot=snapshot,
            results=results,
            num_trials=self.num_trials,
            most_trials=self.most_trials,
            elapsed=self.clock() - self.began,
            best=self._best[1],
            waiting=waiting,
            waiting_seconds=seconds,
        )

    def _best_of(self, results: Sequence[TrialResult]) -> str:
        try:
            return self.shown.best(results)
        except Exception:  # the report says at the run's end what is wrong; until then the trials go on
            logger.exception("the best arm so far cannot be shown")
            return ""

    @property
    def waiting(self) -> tuple[str, float]:
        """The subject that the run waits for, empty for none, and the seconds that it has waited."""
        subject, since = self._waiting
        now = self.clock()
        if self.moment is not None and not subject and now - self._seen_at >= ANSWER_SECONDS:
            return "the cluster's answer", now - self._seen_at
        return subject, now - since

    # ------------------------------------------------------------------------------------------ how it is shown

    @property
    @abc.abstractmethod
    def columns(self) -> int:
        """Characters of a line that the reader sees whole."""

    def _open(self) -> None:  # noqa: B027  # lines need no beginning and no end
        """The display begins."""

    def _close(self) -> None:  # noqa: B027
        """The display ends."""

    @abc.abstractmethod
    def _say(self, line: str) -> None: ...

    @abc.abstractmethod
    def _evaluated(self, model: str) -> None: ...

    @abc.abstractmethod
    def _prepared(self, event: SourceProgress) -> None: ...

    @abc.abstractmethod
    def _trained(self, moment: Moment) -> None: ...

    @abc.abstractmethod
    def _refresh(self) -> None:
        """Shows how long the run has waited; called once a second too."""

    def _tick_on(self) -> None:
        with contextlib.suppress(OSError):  # the reader of the output ended, which the next line of the run reports
            while not self._ended.wait(TICK_SECONDS):
                with self.lock, self._terminal():
                    if not self._ended.is_set():
                        self._refresh()

    @contextlib.contextmanager
    def _terminal(self) -> Iterator[None]:
        """Lets a run go on when its terminal was closed: from then on the output goes nowhere."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.output.fileno())
            os.close(nowhere)
