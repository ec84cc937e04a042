"""The display on a terminal and in a notebook: lines that stay, and below them a region that is drawn anew."""

from __future__ import annotations

import abc
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raycodellm.display.base import Display, Shown
from raycodellm.display.moment import (
    MOST_JOBS,
    Moment,
    is_moving,
    job_facts,
    overview,
    share_done,
    source_line,
    waiting_line,
    whole_seconds,
)
from raycodellm.display.redirect import console
from raycodellm.display.trials import newest_trials, older_line, rich_table
from raycodellm.tables import formats

if TYPE_CHECKING:
    from raycodellm.tokens import SourceProgress

NOTEBOOK_COLUMNS = 110


class RegionDisplay(Display):
    """Draws the whole region at each event and once a second."""

    def _prepared(self, event: SourceProgress) -> None:
        self._refresh()

    def _trained(self, moment: Moment) -> None:
        self._refresh()

    def _evaluated(self, model: str) -> None:
        self._refresh()

    def _refresh(self) -> None:
        self._draw(self.region())

    def region(self) -> RenderableType:
        """The region as it is drawn now."""
        waiting, seconds = self.waiting
        if self.moment is not None:
            return run_region(self._moment(self.moment.snapshot, self.moment.results), self.shown, self.columns)
        parts: list[RenderableType] = []
        if self.sources:
            parts.append(self._token_table())
        if self.evaluations:
            parts.append(self._evaluation_table())
        if waiting and seconds >= 1.0:
            parts.append(Text(waiting_line(waiting, seconds)))
        return Group(*parts)

    def _token_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for event, began in self.sources.values():
            mark = "…" if event.state == "running" else "✓"
            table.add_row(mark, Text(source_line(event, self.clock() - began)))
        return table

    def _evaluation_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(overflow="fold")
        for model, (num_scored, num_items, began) in self.evaluations.items():
            bar = ProgressBar(total=max(1, num_items), completed=num_scored, width=24)
            since = "" if num_scored == num_items else f", {whole_seconds(self.clock() - began)}"
            table.add_row(Text(model), bar, Text(f"{num_scored:,} of {num_items:,} items{since}", no_wrap=True))
        return table

    @abc.abstractmethod
    def _draw(self, region: RenderableType) -> None:
        """Shows the region in the place of the one before."""


class LiveDisplay(RegionDisplay):
    """Draws on a terminal."""

    def __init__(self, output: TextIO, shown: Shown, **clock: Callable[[], float]) -> None:
        super().__init__(output, shown, **clock)
        self.console = console(output)
        # By default `Live` would show what libraries print.
        self.live = Live(
            console=self.console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    @property
    def columns(self) -> int:
        return self.console.width

    def _open(self) -> None:
        self.live.start()

    def _close(self) -> None:
        self.live.stop()

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)  # the terminal breaks it, so that paths can be copied

    def _draw(self, region: RenderableType) -> None:
        self.live.update(region, refresh=True)


class NotebookDisplay(RegionDisplay):
    """Draws below a notebook's cell."""

    def __init__(self, output: TextIO, shown: Shown, **clock: Callable[[], float]) -> None:
        super().__init__(output, shown, **clock)
        self.handle: Any = None

    @property
    def columns(self) -> int:
        return NOTEBOOK_COLUMNS

    def _open(self) -> None:
        from IPython.display import display

        self.handle = display(self._html(Text("")), display_id=True)

    def _close(self) -> None:
        self.handle.update(self._html(Text("")))

    def _say(self, line: str) -> None:
        print(line, file=self.output, flush=True)

    def _draw(self, region: RenderableType) -> None:
        self.handle.update(self._html(region))

    def _html(self, region: RenderableType) -> Any:
        from IPython.display import HTML

        return HTML(region_html(region, self.columns))


def region_html(region: RenderableType, columns: int) -> str:
    """The region as preformatted HTML; all text in it is escaped."""
    recorder = Console(file=io.StringIO(), record=True, width=columns, highlight=False, force_jupyter=False)
    recorder.print(region)
    return recorder.export_html(
        inline_styles=True, code_format='<pre style="font-family: monospace; line-height: 1.3">{code}</pre>'
    )


def run_region(moment: Moment, shown: Shown, columns: int) -> RenderableType:
    """The region of a sweep: lines on how it stands, a bar for each running job, and the newest trials."""
    first, *rest = overview(moment, with_wait=not moment.snapshot.running)  # each job says itself how long it starts
    head = f"{shown.name}: {first}" if shown.name else first
    parts: list[RenderableType] = [Text(line) for line in (head, *rest)]
    if moment.snapshot.running:
        parts.append(job_table(moment, columns))
    if moment.results:
        table, num_older = newest_trials(moment.results, shown.metrics, columns)
        parts += [Text(older_line(num_older))] if num_older else []
        parts.append(rich_table(table))
    return Group(*parts)


def job_table(moment: Moment, columns: int) -> Table:
    """One row per running job, with a bar where the job's size is known; as many facts as the width holds."""
    table = Table.grid(padding=(0, 2))
    waits = {view.job: view.seconds for view in moment.snapshot.slot_views}
    bar_width = 24 if columns >= 100 else 12
    jobs = sorted(moment.snapshot.running.items())
    for key, progress in jobs[:MOST_JOBS]:
        name, share = formats.short_key(key), share_done(progress)
        bar = ProgressBar(total=1.0, completed=share, width=bar_width) if share is not None else Text("")
        done = "" if share is None else f"{100 * share:.0f} %"
        facts = job_facts(progress)
        if not is_moving(progress) and key in waits:
            facts.append(whole_seconds(waits[key]))
        left = columns - len(name) - bar_width - 4 - 8
        table.add_row(name, bar, Text(done, justify="right"), Text(_fitting(facts, left)))
    if len(jobs) > MOST_JOBS:
        table.add_row(f"… {len(jobs) - MOST_JOBS} more", "", "", "")
    return table


def _fitting(facts: list[str], columns: int) -> str:
    """The first facts, as many as the width holds; at least one."""
    text = ""
    for fact in facts:
        longer = f"{text}  {fact}" if text else fact
        if text and len(longer) > columns:
            break
        text = longer
    return text
