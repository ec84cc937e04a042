"""Writes `report/index.html` and `report/report.md` of a run, and the summary that `run` prints at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raycodellm.files import Folder
from raycodellm.report import tables
from raycodellm.report.answer import answer, progress, unknown_noise
from raycodellm.report.html_page import html_page
from raycodellm.report.markdown import markdown
from raycodellm.report.records import Records, read_records
from raycodellm.report.sections import sections
from raycodellm.tables import formats, table_lines

SUMMARY_ARMS = 10
"""Arms that the summary shows."""


def write_report(run: Folder, storage: Folder, say: Callable[[str], Any] = lambda line: None) -> Folder:
    """Writes `index.html` and `report.md` into the run's `report` folder; returns that folder.

    The run may be unfinished. `say` receives a line about each file that could not be read; the report shows it too.
    """
    records = read_records(run, storage)
    found = sections(records)
    folder = run / "report"
    folder.write_bytes("index.html", html_page(records, found).encode())
    folder.write_bytes("report.md", markdown(records, found).encode())
    for line in records.lost:
        say(line)
    return folder


def summary_text(run: Folder, storage: Folder) -> str:
    """The best arms, the answer with its uncertainty, tokens and seconds, and the path of the report."""
    records = read_records(run, storage)
    shared = records.sharing
    lines = [*table_lines(tables.ranking(records).first(SUMMARY_ARMS)), ""] if records.best else []
    closing = [
        answer(records.scores, records.sweep.search.objectives),
        unknown_noise(records.scores),
        progress(records),
        _tokens(records) if shared.tokens_trained else "",
        *records.lost,
        f"report: {(run / 'report').uri}/index.html" if run.exists("report") else "",
    ]
    return "\n".join([*lines, *(line for line in closing if line)])


def _tokens(records: Records) -> str:
    shared = records.sharing
    return (
        f"tokens: {formats.count(shared.tokens_trained)} trained for {formats.count(shared.tokens_asked)} asked for, "
        f"{formats.count(shared.tokens_saved)} saved by shared stages; device time: "
        f"{formats.seconds(shared.seconds_trained)} spent, {formats.seconds(shared.seconds_saved)} saved"
    )
