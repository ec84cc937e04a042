"""The report's sections: one list, which the page and the Markdown file render."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from raycodellm.report import figures, tables
from raycodellm.report.answer import unknown_noise
from raycodellm.report.figures import Figure
from raycodellm.report.records import Records
from raycodellm.tables import StageNode, Table, formats


@dataclass(frozen=True)
class Bars:
    """A bar chart of named values."""

    rows: list[tuple[str, float, str]]
    """Name, length, and the value in words."""


@dataclass(frozen=True)
class Tree:
    """The stage tree."""

    nodes: tuple[StageNode, ...]


@dataclass(frozen=True)
class Code:
    """A text that is shown as it is."""

    text: str


Part: TypeAlias = str | Table | Figure | Tree | Bars | Code
"""A part of a section; a string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading with its parts."""

    title: str
    parts: Sequence[Part]
    note: str = ""
    is_folded: bool = False
    """True if the page hides the section until the reader opens it."""


_SEEDS_NOTE = (
    "All intervals are 95 % intervals over evaluation items and seeds. The variance between seeds is taken as equal "
    "for all arms, and pooled. A difference is taken over the same items and, where arms share seeds, seed by seed: "
    "arms whose intervals overlap may still differ. Its interval holds for all arms at once, since the best was chosen "
    "by its score (Tukey's range): where no arm differs, at most 5 % of sweeps show a difference. ≈ marks arms that "
    "cannot be told from the best."
)
_ITEMS_NOTE = "All intervals are 95 % intervals over evaluation items alone: none covers the scores of other seeds."
_TASKS_NOTE = "Chance is the accuracy of guessing. Items longer than the model's context are counted, and not scored."
_CODE_RATIO_NOTE = (
    "First arm of each group. Dashed: planned. Solid: code's share of the tokens since the previous point."
)
_LOSS_NOTE = "First arm in full colour, other arms pale. Loss is the mean over counted tokens since the previous point."
_LEDGER_NOTE = (
    "Tokens are counted where they were trained on. Unique: tokens that the trial had not seen before. "
    "Epochs: passes over the source, in this stage and before it."
)
_SOURCES_NOTE = (
    "The digest identifies a builtin corpus by its documents, and any other source by its files and how they are read. "
    "A builtin corpus is made of the installed Python: one module more or less moves scores as much as another seed."
)


def sections(records: Records) -> list[Section]:
    """The sections that have a part."""
    return [section for section in _all_sections(records) if section.parts]


def _all_sections(records: Records) -> list[Section]:
    best = records.best
    of_arm = f"of arm {best.arm}, first in rank" if best else "of the first trial"
    return [
        _ranking(records),
        Section(
            f"{records.sweep.search.objectives[0].metric} by parameter",
            [*figures.scores(records), *figures.pareto(records)],
        ),
        Section(f"Tasks {of_arm}", [tables.tasks(records, best)] if best else [], _TASKS_NOTE),
        Section("Code ratio, planned and real", figures.code_ratios(records), _CODE_RATIO_NOTE),
        Section("Training loss", figures.losses(records), _LOSS_NOTE),
        Section(f"Ledger {of_arm}", _unless_empty(tables.ledger(records, best)), _LEDGER_NOTE),
        Section(f"Phases {of_arm}", _unless_empty(tables.phases(records, best)), is_folded=True),
        Section("Sources", _unless_empty(tables.sources(records)), _SOURCES_NOTE),
        Section("Documents left out", _unless_empty(tables.skipped(records))),
        Section("Stage tree", _stage_tree(records)),
        Section("Failed trials", _unless_empty(tables.failures(records))),
        Section("Where the time went", [Bars(bars)] if (bars := tables.times(records)) else []),
        Section("All trials", _unless_empty(tables.trials(records)), is_folded=True),
        Section("Settings", [Code(records.run.read_text("sweep.yaml"))], is_folded=True),
        Section("Files that could not be read", list(records.lost)),  # last: the other sections read files
    ]


def _unless_empty(table: Table) -> list[Table]:
    return [table] if table.rows else []


def _ranking(records: Records) -> Section:
    warning = unknown_noise(records.scores)
    parts: list[Part] = [tables.ranking(records)] if records.best else []
    return Section("Ranking", [warning, *parts] if warning else parts, _ITEMS_NOTE if warning else _SEEDS_NOTE)


def _stage_tree(records: Records) -> list[Part]:
    shared = records.sharing
    if not shared.tokens_asked:
        return []
    summary = (
        f"All trials asked for {formats.count(shared.tokens_asked)} tokens of finished stages; "
        f"{formats.count(shared.tokens_trained)} were trained. Sharing equal stages saved "
        f"{formats.count(shared.tokens_saved)} tokens ({shared.tokens_saved / shared.tokens_asked:.0%}) and "
        f"{formats.seconds(shared.seconds_saved)} of device time."
    )
    return [summary, Tree(tables.stages(records))]
