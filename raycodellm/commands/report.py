"""`raycodellm report`: writes the report of a run, once or again and again while the run goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from raycodellm.commands.read_run import is_ladder
from raycodellm.commands.request import DONE
from raycodellm.config import UserError
from raycodellm.retrying import patiently
from raycodellm.storage_files import report_address

if TYPE_CHECKING:
    from raycodellm.records import TrialResult
    from raycodellm.report import Records
    from raycodellm.sweep import Run


def report(path: str, is_watching: bool, complain: Callable[[str], None], pictures: str | None = None) -> int:
    """Writes the report of the run folder `path`, and prints its path; returns the exit code.

    With `is_watching` it is written again as results come, until the sweep has ended. Of a ladder the joint report is
    written, and that of each size that has begun. `pictures`: svg or png, to draw the figures as files too.
    """
    if is_watching and pictures is not None:
        raise UserError("--pictures: draw them when the sweep has ended, without --watch")
    if is_ladder(path):
        return _ladder_report(path, is_watching, complain, pictures)
    from raycodellm import runs

    opened_run = runs.open_run(path, complain)
    if is_watching:
        _watch(opened_run.run, complain)
        return DONE
    opened_run.write_report(pictures)
    print(report_address(opened_run.folder))
    return DONE


def _ladder_report(path: str, is_watching: bool, complain: Callable[[str], None], pictures: str | None) -> int:
    from raycodellm import ladder, runs

    opened_ladder = ladder.open_ladder(path)
    begun_sizes = [size for size in opened_ladder.facts.sizes if opened_ladder.has_begun(size)]
    if is_watching:
        example = f", such as {opened_ladder.run_folder(begun_sizes[-1])}" if begun_sizes else ""
        raise UserError(f"--watch: {path} is a ladder; watch the run folder of one of its sizes{example}")
    for size in begun_sizes:
        runs.open_run(opened_ladder.run_folder(size).uri, complain).write_report(pictures)
    ladder.write_report(opened_ladder, complain, pictures)
    print(report_address(opened_ladder.folder))
    return DONE


def _watch(run: Run, complain: Callable[[str], None]) -> None:
    from raycodellm.report.watch import ReportWatch

    pages = _Pages(run, complain)
    print(report_address(run.folder))
    print("written again as results come; Ctrl-C ends that, and stops no training", flush=True)
    watch = ReportWatch(
        stamp=lambda: patiently(lambda: _stamp(run), "the run folder"),
        read=lambda: patiently(pages.read, "the trials"),
        write=lambda reload_seconds: patiently(lambda: pages.write(reload_seconds), "the report"),
    )
    try:
        watch.until_ended()
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt):
            pages.write_last()  # whoever has the page open would load it again for ever
        raise
    print(f"all {pages.num_trials} trials have ended")


def _stamp(run: Run) -> Any:
    """Changes when a trial begins or ends. Three requests, however many trials there are."""
    from raycodellm.sweep import journal_copy, results

    parts = run.folder / journal_copy.PARTS
    return run.folder.stamp(journal_copy.JOURNAL), run.folder.stamp(results.TABLE), parts.list()


class _Pages:
    """Reads the run's trials and writes its report; keeps in memory what has ended, until the sweep is continued."""

    def __init__(self, run: Run, complain: Callable[[str], None]) -> None:
        from raycodellm import sweep

        self.run, self.complain = run, complain
        self.confirmation = sweep.Confirmation(run)
        self.num_trials = 0
        """Trials of the sweep as far as was known when the trials were last read."""
        self.ended = sweep.EndedTrials()
        self.results: Sequence[TrialResult] = ()
        self.records: Records | None = None

    def read(self) -> tuple[Any, bool]:
        """The trials as they are now, and whether the sweep has ended. Reads no trial again that has ended, unless the
        sweep has been continued, maybe with more trials or tasks."""
        from raycodellm import storage_files, sweep

        if self.ended.forget_if_continued(self.run.folder):
            self.run = sweep.Run(storage_files.read_sweep_file(self.run.folder), self.run.storage)
            self.confirmation, self.records = sweep.Confirmation(self.run), None
        self.results = sweep.read_results(self.run, self.ended.results, self.complain)
        self.num_trials = self.confirmation.standing(self.results).num_trials
        return self.results, self.num_ended >= self.num_trials

    @property
    def num_ended(self) -> int:
        return len(self.ended.results)

    def write(self, reload_seconds: int | None) -> None:
        from raycodellm import report as reports

        rows = [result.row() for result in self.results]
        self.records = reports.read_records(self.run.folder, self.run.storage, rows, self.records)
        reports.write_pages(self.records, reload_seconds)
        for line in self.records.lost:
            self.complain(line)
        print(f"{self.num_ended} of {self.num_trials} trials ended; report written", flush=True)

    def write_last(self) -> None:
        """Writes the page once more, without its automatic reload."""
        from raycodellm import report as reports

        if self.records is not None:
            reports.write_pages(self.records)
