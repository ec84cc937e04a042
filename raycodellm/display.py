"""The display of a run: live progress bars and a table of trials on a terminal, single lines elsewhere.

While a run goes on, everything that libraries write to standard output and error goes to the run's log file; only
`Display` writes to the terminal.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raycodellm.records import Progress, TrialResult
from raycodellm.tables import Table as PlainTable
from raycodellm.tables import formats, trials_table
from raycodellm.tables.trials import trial_name

if TYPE_CHECKING:
    from raycodellm.dispatch import Snapshot
    from raycodellm.tokens import SourceProgress

LINE_SECONDS = 10.0
"""Seconds between two lines about the same job, without a terminal."""


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[TextIO]:
    """Sends standard output and error of this process, and all Python logging, to `log`; yields the real output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    real = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    handler = logging.FileHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield real
    finally:
        with contextlib.suppress(OSError):  # the log's disk may be full; the terminal is given back all the same
            sys.stdout.flush()
            sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in kept:
            os.close(descriptor)
        root.handlers[:], level = before
        root.setLevel(level)
        handler.close()
        real.flush()


def console(output: TextIO) -> Console:
    """A console that writes in a terminal's width, and to a file or a pipe in lines of any length."""
    if output.isatty():
        return Console(file=output, highlight=False)
    return Console(file=output, highlight=False, soft_wrap=True, width=200)


class Display:
    """Shows a run on a terminal, or in lines; implements `sweep.Monitor`."""

    def __init__(self, output: TextIO, metrics: Sequence[str], num_trials: int) -> None:
        self.console = console(output)
        self.metrics = metrics
        self.num_trials = num_trials
        self.live: Live | None = None
        self.sources: dict[str, SourceProgress] = {}
        self.last_line: dict[str, float] = {}
        self.seen: set[int] = set()
        self.waiting_since: float | None = None
        """When the last job that reported steps ended; None while a job reports steps."""

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            # By default `Live` would show what libraries print.
            self.live = Live(
                console=self.console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.live is not None:
            with self._terminal():
                self.live.__exit__(*error)
            self.live = None

    @contextlib.contextmanager
    def _terminal(self) -> Iterator[None]:
        """Lets a run go on when its terminal was closed: from then on the output goes nowhere."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.console.file.fileno())
            os.close(nowhere)

    def say(self, line: str) -> None:
        with self._terminal():
            self.console.print(line, markup=False)

    def preparing(self, event: SourceProgress) -> None:
        """Shows the progress of a source's token store."""
        self.sources[event.source] = event
        if self.live is not None:
            with self._terminal():
                self.live.update(self._token_table(), refresh=True)
        elif event.state != "running" or self._is_due(event.source, first=not event.documents):
            self.say(_source_line(event))

    def training(self, snapshot: Snapshot, results: Sequence[TrialResult]) -> None:
        for note in snapshot.notes:
            self.say(note)
        if self.live is not None:
            with self._terminal():
                self.live.update(Group(self._job_table(snapshot), trial_table(results, self.metrics)), refresh=True)
            return
        for result in results:
            if result.state in ("complete", "failed") and result.number not in self.seen:
                self.seen.add(result.number)
                self.say(_trial_line(result, self.metrics[0]))
        for key, progress in snapshot.running.items():
            if progress.num_steps and self._is_due(key):
                self.say(_job_line(key, progress))
        waiting = self._waiting_for(snapshot)
        if waiting and self._is_due("waiting"):
            self.say(waiting)

    def _is_due(self, subject: str, first: bool = True) -> bool:
        """True if the last line about the subject is old enough for another. `first`: the answer to the first call."""
        now = time.monotonic()
        if now - self.last_line.setdefault(subject, -math.inf if first else now) < LINE_SECONDS:
            return False
        self.last_line[subject] = now
        return True

    def _waiting_for(self, snapshot: Snapshot) -> str | None:
        """Says what the run waits for, and for how long already; None while a job reports steps."""
        if any(progress.num_steps for progress in snapshot.running.values()):
            self.waiting_since = None
            return None
        now = time.monotonic()
        if self.waiting_since is None:
            self.waiting_since = self.last_line["waiting"] = now
        jobs = [f"{formats.short_key(key)} ({progress.note})" for key, progress in sorted(snapshot.running.items())]
        subject = ", ".join(jobs) or ("the next job" if snapshot.slots else "the first worker group")
        return f"waiting for {subject}, {now - self.waiting_since:.0f} s so far"

    def _token_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for event in self.sources.values():
            table.add_row("…" if event.state == "running" else "✓", _source_line(event))
        return table

    def _job_table(self, snapshot: Snapshot) -> Table:
        table = Table.grid(padding=(0, 2))
        for key, progress in sorted(snapshot.running.items()):
            bar = ProgressBar(total=max(1, progress.num_steps), completed=progress.step, width=24)
            table.add_row(formats.short_key(key), bar, _job_facts(progress))
        waiting = self._waiting_for(snapshot)
        if waiting and not snapshot.running:
            table.add_row(waiting, "", "")
        return table


def trial_table(results: Sequence[TrialResult], metrics: Sequence[str]) -> Table:
    """The trials, one row each, which `run` shows live and `status` prints. `metrics`: of the objectives."""
    return rich_table(trials_table([result.row() for result in results], metrics))


def rich_table(table: PlainTable) -> Table:
    """Renders a table for a terminal. Where the terminal is narrow, cells are broken into lines and never shortened."""
    rendered = Table(box=None, padding=(0, 1))
    for place, name in enumerate(table.header):
        rendered.add_column(name, overflow="fold", justify="left" if place in table.left else "right")
    for row in table.rows:
        rendered.add_row(*(Text(cell) for cell in row))
    return rendered


def _trial_line(result: TrialResult, metric: str) -> str:
    name = trial_name(result.number)
    if result.state == "failed":
        return f"trial {name} failed: {result.error}"
    return f"trial {name} {formats.params(result.params)}: {metric} {formats.score(result.metrics.get(metric))}"


def _job_line(key: str, progress: Progress) -> str:
    return f"{formats.short_key(key)} {100 * progress.step / progress.num_steps:3.0f} % {_job_facts(progress)}"


def _job_facts(progress: Progress) -> str:
    if not progress.num_steps:
        return progress.note
    facts = f"{progress.tokens:,} tokens  {progress.tokens_per_second:,.0f}/s  loss {progress.loss:.3f}"
    return f"{facts}  code {progress.code_ratio_real:.3f} (plan {progress.code_ratio_planned:.3f})"


def _source_line(event: SourceProgress) -> str:
    if not event.documents:
        return f"{event.source}: {event.state}"
    how = "as before" if event.state == "reused" else f"{event.seconds:.1f} s"
    return f"{event.source}: {event.documents:,} documents, {event.tokens:,} tokens, {how}"
