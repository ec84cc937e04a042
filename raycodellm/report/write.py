"""Writes a run's `report/index.html`, `report.md` and `verdict.json`, and the summary that `run` prints at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raycodellm import verdict, win_rates
from raycodellm.files import Folder
from raycodellm.report import constraints, pairs, tables
from raycodellm.report.answer import answer_so_far, difference_name, progress, unknown_noise
from raycodellm.report.figures import Figure
from raycodellm.report.html_page import html_page
from raycodellm.report.markdown import markdown
from raycodellm.report.parts import Section
from raycodellm.report.records import Records, read_records
from raycodellm.report.sections import sections
from raycodellm.storage_files import report_address
from raycodellm.tables import fitted, sharing_sentence, table_lines
from raycodellm.tables.plain_json import finite_json
from raycodellm.tables.stopped import stopped_sentence
from raycodellm.verdict.marks import KEY

SUMMARY_ARMS = 10
"""Arms that the summary shows."""
SUMMARY_CHARACTERS = 200
"""Width of its table where nothing is known of the reader's screen."""


def write_report(
    run: Folder, storage: Folder, say: Callable[[str], Any] = lambda line: None, pictures: str | None = None
) -> Folder:
    """Writes `index.html`, `report.md` and `verdict.json` into the run's `report` folder; of a sweep without stages
    `pairs.json`, of one with a judge `win-rate.json`, too. Returns that folder.

    The run may be unfinished. `say` receives a line about each file that could not be read; the report shows it too.
    `pictures`: svg or png, to write the figures as files too and show them in `report.md`.
    """
    records = read_records(run, storage)
    folder = write_pages(records, pictures=pictures)
    for line in records.lost:
        say(line)
    return folder


def write_pages(records: Records, reload_seconds: int | None = None, pictures: str | None = None) -> Folder:
    """Writes the report of the records; returns its folder. Each file is replaced as a whole.

    `reload_seconds`: an open page loads itself again after so many seconds; None for never. `pictures`: svg or png.
    """
    page_sections = sections(records)
    folder = records.run / "report"
    folder.write_json("verdict.json", verdict_document(records))
    if not records.sweep.stages:
        folder.write_json("pairs.json", pairs.document(records.pairs))
    if records.win_rates is not None:
        folder.write_json("win-rate.json", finite_json(win_rates.document(records.win_rates)))
    folder.write_bytes("index.html", html_page(records, page_sections, reload_seconds).encode())
    drawn = drawn_pictures(folder, page_sections, pictures)
    folder.write_bytes("report.md", markdown(records, page_sections, drawn).encode())
    return folder


def drawn_pictures(folder: Folder, page_sections: Sequence[Section], kind: str | None) -> dict[str, str]:
    """Draws the sections' figures; maps their names to the files, relative to `folder`. None for no pictures.

    Raises `UserError` for an unknown kind, and where matplotlib is not installed.
    """
    if kind is None:
        return {}
    from raycodellm.report.pictures import write_pictures  # matplotlib takes half a second to import

    return write_pictures(
        folder, [part for section in page_sections for part in section.parts if isinstance(part, Figure)], kind
    )


def verdict_document(records: Records) -> dict[str, Any]:
    """The content of `verdict.json`."""
    digests = {name: tables.digest_of(manifest) for name, manifest in records.stores.items()}
    answer = " ".join(filter(None, (answer_so_far(records), unknown_noise(records))))
    return verdict.document(records.file, records.findings, answer, records.num_ended, digests, records.seed_spreads)


def summary_text(
    run: Folder, storage: Folder, records: Records | None = None, num_characters: int = SUMMARY_CHARACTERS
) -> str:
    """The best arms, the answer with its uncertainty, tokens and seconds, and the path of the report.

    `records`: of the run, if they have been read. `num_characters`: the width of the table of arms, which lacks some
    columns where it does not suffice.
    """
    records = read_records(run, storage) if records is None else records
    shared = records.sharing
    dispensable = ("Pareto front", "chance", "accuracy", tables.SELECTED, "seeds", difference_name(records))
    arms = fitted(tables.ranking(records).first(SUMMARY_ARMS), num_characters, dispensable)
    lines = [*table_lines(arms), ""] if records.best else []
    if records.has_reference and records.findings.verdicts:
        by_task = tables.arms_by_task(records).first(SUMMARY_ARMS)
        lines += [*table_lines(fitted(by_task, num_characters, by_task.header[:0:-1])), KEY, ""] if by_task.rows else []
    if records.sweep.search.constraints and (constraint_table := constraints.table(records).first(SUMMARY_ARMS)).rows:
        lines += [*table_lines(fitted(constraint_table, num_characters, ("95 % interval",))), ""]
    if (pair_table := pairs.table(records.pairs)).rows:
        lines += [*table_lines(fitted(pair_table, num_characters, ("items", "p", "base's", "other's"))), ""]
    closing = [
        progress(records),
        f"tokens: {sharing_sentence(shared)}" if shared.tokens_asked else "",
        stopped_sentence(records.rows),
        *records.lost,
        f"report: {report_address(run)}" if run.exists("report") else "",
        *(win_rates.lines(records.win_rates) if records.win_rates is not None else ()),
        answer_so_far(records),  # at the end: it is what the reader has waited for
        unknown_noise(records),
    ]
    return "\n".join([*lines, *(line for line in closing if line)])
