"""The report's sections: one list, which the page and the Markdown file render."""

from __future__ import annotations

from dataclasses import replace

from raycodellm import win_rates
from raycodellm.report import (
    constraints,
    effects,
    figures,
    looks,
    pairs,
    predicted,
    seed_spread,
    tables,
    times,
    what_if,
)
from raycodellm.report.answer import unknown_noise
from raycodellm.report.parts import Code, Part, Section, Tree
from raycodellm.report.records import Records
from raycodellm.report.shortened import shortened
from raycodellm.search import FEWEST_POINTS
from raycodellm.tables import Table, sharing_sentence
from raycodellm.tables.stopped import stopped_sentence, stopped_table
from raycodellm.tables.trials import params_of
from raycodellm.verdict.marks import KEY

_SEEDS_NOTE = (
    "All intervals are 95 % intervals over evaluation items and seeds. The variance between seeds is taken as equal "
    "for all arms, and pooled. A difference is taken over the same items and, where arms share seeds, seed by seed: "
    "arms whose intervals overlap may still differ. Its interval holds for all arms at once, since the best was chosen "
    "by its score (Tukey's range): where no arm differs, at most 5 % of sweeps show a difference. ≈ marks arms that "
    "cannot be told from the best."
)
_ITEMS_NOTE = "All intervals are 95 % intervals over evaluation items alone: none covers the scores of other seeds."
_TASKS_NOTE = (
    "The intervals are over evaluation items alone. Chance is the accuracy of guessing, majority that of the "
    "constant best answer. Items longer than the model's context, and items that could not be run, are counted and not "
    "scored. Contaminated items are in the training data; clean accuracy is that of the others."
)
_VERDICT_NOTE = f"{KEY}, against arm {{base}}, at 95 % over items and seeds. Corrected: {{corrected}}"
_CORRECTED = {
    "first in rank": (
        "the verdicts of all arms and all tasks hold at once (Tukey's range over the arms of a task, Bonferroni over "
        "the tasks)."
    ),
    "all seeds": "all arms and all metrics are one family (Holm).",
    "confirmation": (
        "all arms, metrics and looks are one family (Holm within a look, at the error that the look may spend). "
        "Scores are of fresh seeds alone; a verdict that is known is final."
    ),
}
_NO_VERDICT_NOTE = "No verdict is given: the noise between seeds is unknown."
_GIVEN_NOTE = "Given models, each evaluated once. Pairs of them are compared above."
_NOT_YET_NOTE = "No verdict is given yet: no look at fresh seeds is complete."
_SELECTED_NOTE = (
    "Scores of the search chose the arms that are confirmed, so that noise makes them look too good: no verdict rests "
    "on them."
)
_REFERENCE_NOTE = (
    "All intervals are 95 % intervals over evaluation items and seeds. A difference is that to the reference arm, over "
    "the same items and, where arms share seeds, seed by seed; its interval holds for all arms and metrics that have a "
    "verdict at once. The arms stand in the order of their means: two arms beside the reference are not compared."
)
_RATIO_NOTE = "Dashed: planned. Solid: code's share of the tokens since the previous point. One line per trial."
_ORDER_NOTE = "The line is the best single score so far. It is chosen by its score, so noise makes it look too good."
_COST_NOTE = "Tokens and device time of all stages of a trial, also where another trial had trained them already."
_LOSS_NOTE = "Mean over counted tokens since the previous point; one line per trial. Long curves are thinned."
_HELD_OUT_NOTE = "Measured now and then on text that no stage trains on; one line per trial."
_IMPORTANCE_NOTE = (
    "PED-ANOVA: how much a parameter decides whether an arm is among the best tenth. fANOVA: how much of the scores' "
    "variance it explains, of the parameters that all arms have. Neither says anything of noise: seeds and items move "
    "scores too, so a small share may be nothing, and no share is a verdict."
)
_BUDGET_NOTE = (
    "Over all runs of the sweep. A trial's tokens count from its beginning, equal stages once, and not those of stages "
    "that another sweep trained. Device hours are those that worker groups held, idle ones too. Once a limit is "
    "reached no further trial begins, and those that have begun end."
)
_PARETO_NOTE = (
    "An arm is on the front, by the means, if no other arm is better in one objective and at least as good in all. "
    "In the plot, arms whose bars do not overlap in an objective differ in it; the table has each score's own 95 % "
    "interval, which holds the noise of the items that all arms share. Told from noise: an arm of the front, if each "
    "other arm is worse in some objective for sure; another arm, if an arm of the front is better in all objectives. "
    "Where an arm of the front is not told, the last column names the arms that may dominate it. All of this holds for "
    "all arms and objectives at once (Tukey's range over the arms, Bonferroni over the objectives), and at all looks "
    "at a confirmation: each spends its part of the 5 %, and before the first one nothing is told. A verdict is "
    "corrected for all metrics as well, so it may be not known where the front tells two arms apart."
)
_LEDGER_NOTE = (
    "Tokens are counted where they were trained on. Unique: tokens that the trial had not seen before. "
    "Epochs: passes over the source, in this stage and before it."
)
_LOST_NOTE = (
    "Deaths of workers, and times that workers were told to leave, under the trial's jobs. A stage goes on from its "
    "newest checkpoint with the same data, whoever trains it."
)
_STOPPED_NOTE = (
    "Compared is {metric} at the same share of the same stage. The first trials at a rung go on, and then each that is "
    "among the best {keep} of those that reached it. One seed decides: an arm that was stopped has no score and no "
    "verdict, and is not known to be worse. The reference and the confirmation are never stopped."
)
_SOURCES_NOTE = (
    "The digest identifies a builtin corpus by its documents, and any other source by its files and how they are read. "
    "A builtin corpus is made of the installed Python: one module more or less moves scores as much as another seed."
)


def sections(records: Records) -> list[Section]:
    """The sections that have a part, of a length that a page can have."""
    return [shortened(section) for section in _all_sections(records) if section.parts]


def _all_sections(records: Records) -> list[Section]:
    best = records.best
    of_arm = f"of arm {best.arm}" if best else "of the first trial"
    return [
        _by_code_ratio(records),
        *_pairs(records),
        _ranking(records),
        Section("Verdicts look by look", looks.parts(records), looks.NOTE),
        _arms_by_task(records),
        Section(
            "Differences by task", effects.parts(records), effects.NOTE.format(base=records.findings.compared_with)
        ),
        Section("Tasks that go against the overall verdict", effects.transfer_parts(records), effects.TRANSFER_NOTE),
        Section("Noise between seeds", seed_spread.parts(records), seed_spread.NOTE),
        Section("Constraints", _unless_empty(constraints.table(records)), constraints.NOTE),
        Section("Verdicts", _unless_empty(tables.verdicts(records)), is_folded=not records.has_reference),
        *_win_rates(records),
        Section("Predicted beside measured", predicted.parts(records), predicted.NOTE),
        Section(f"Tasks and their parts {of_arm}", _task_parts(records), _TASKS_NOTE, is_folded=True),
        Section("Code ratio, planned and real", _curves(records, figures.RATIO), _RATIO_NOTE),
        Section("Scores in the order of the trials", figures.order(records), _ORDER_NOTE),
        Section("Score and cost", figures.costs(records), _COST_NOTE),
        Section("Training loss", _curves(records, figures.LOSS), _LOSS_NOTE),
        _stopped(records),
        Section("Held-out text", _curves(records, figures.HELD_OUT), _HELD_OUT_NOTE),
        _importance(records),
        Section("What a change would do", what_if.parts(records), what_if.NOTE),
        Section("Objectives against each other", _front(records), _PARETO_NOTE),
        Section("Stage tree", _stage_tree(records)),
        Section(f"Ledger {of_arm}", _unless_empty(tables.ledger(records, best)), _LEDGER_NOTE),
        Section(f"Phases {of_arm}", _unless_empty(tables.phases(records, best)), is_folded=True),
        Section("Sources", _unless_empty(tables.sources(records)), _SOURCES_NOTE),
        Section("Documents left out", _unless_empty(tables.skipped(records))),
        Section("Failed trials", _unless_empty(tables.failures(records))),
        Section("Deaths and preemptions", _unless_empty(tables.lost_workers(records)), _LOST_NOTE),
        Section("Budget", _unless_empty(tables.spent(records)), _BUDGET_NOTE),
        Section("Where the time went", times.parts(records), times.NOTE),
        Section("All trials", _unless_empty(tables.trials(records)), is_folded=True),
        Section("Settings", [Code(records.run.read_text("sweep.yaml"))], is_folded=True),
        Section("Files that could not be read", list(records.lost)),  # last: the other sections read files
    ]


def _win_rates(records: Records) -> list[Section]:
    """The section on win rates; none of a sweep without a judge."""
    if records.win_rates is None:
        return []
    params = {row["arm"]: params_of(row) for row in records.rows}
    rates = win_rates.table(records.win_rates, params)
    sentences = win_rates.lines(records.win_rates)
    return [Section("Win rates", [*sentences, *_unless_empty(rates)], win_rates.NOTE)]


def _by_code_ratio(records: Records) -> Section:
    """The plots of the first screen. A caption that all of them have is said once."""
    metric = records.sweep.search.objectives[0].metric
    title = f"{metric} by {'code ratio' if figures.is_along_code_ratio(records) else 'parameter'}"
    plots = figures.scores(records)
    captions = {plot.caption for plot in plots}
    if len(plots) > 1 and len(captions) == 1:
        return Section(title, [replace(plot, caption="") for plot in plots], captions.pop(), is_first=True)
    return Section(title, plots, is_first=True)


def _unless_empty(table: Table) -> list[Table]:
    return [table] if table.rows else []


def _pairs(records: Records) -> list[Section]:
    """The sections on pairs of given models; none of a sweep with stages."""
    note = pairs.note(records.pairs)
    return [
        Section("Pairs of models", _unless_empty(pairs.table(records.pairs)), note),
        Section(
            "Pairs of models in all metrics", _unless_empty(pairs.table(records.pairs, False)), note, is_folded=True
        ),
    ]


def _ranking(records: Records) -> Section:
    warning = unknown_noise(records)
    parts: list[Part] = [tables.ranking(records)] if records.best else []
    note = (
        _ITEMS_NOTE
        if warning or not records.sweep.stages
        else _REFERENCE_NOTE
        if records.has_reference
        else _SEEDS_NOTE
    )
    if records.sweep.search.confirm is not None:
        note = f"{note} {_SELECTED_NOTE}"
    return Section("Ranking", [warning, *parts] if warning else parts, note)


def _task_parts(records: Records) -> list[Part]:
    if not records.best:
        return []
    return [tables.tasks(records, records.best), *tables.task_remarks(records, records.best)]


def _arms_by_task(records: Records) -> Section:
    findings = records.findings
    if not records.sweep.stages:
        note = _GIVEN_NOTE
    elif findings.verdicts:
        note = _VERDICT_NOTE.format(base=findings.compared_with, corrected=_CORRECTED[findings.basis])
    else:
        note = _NOT_YET_NOTE if findings.basis == "confirmation" else _NO_VERDICT_NOTE
    return Section("Arms by task", _unless_empty(tables.arms_by_task(records)), note)


def _stopped(records: Records) -> Section:
    """The trials at the rungs of early stopping."""
    early = records.sweep.search.early_stopping
    parts: list[Part] = [*figures.rungs(records), *_unless_empty(stopped_table(records.rows))]
    if early is None or not parts:
        return Section("Stopped early", [])
    sentence = stopped_sentence(records.rows)
    parts = [f"{sentence}.", *parts] if sentence else parts
    return Section("Stopped early", parts, _STOPPED_NOTE.format(metric=early.metric, keep=f"{early.keep:.0%}"))


def _front(records: Records) -> list[Part]:
    if records.front is None or not records.front.arms:
        return []
    return [str(records.front), *figures.pareto(records), tables.front(records)]


def _curves(records: Records, quantity: str) -> list[Part]:
    curves: list[Part] = [*figures.curve_figures(records, quantity)]
    num_shown, num_known = figures.num_arms_with_curves(records)
    if not curves or num_shown == num_known:
        return curves
    return [
        f"The best {num_shown:,} of {num_known:,} arms can be chosen: the page has no room for the curves of all.",
        *curves,
    ]


def _importance(records: Records) -> Section:
    title = "Importance of the parameters"
    bars = figures.importance(records)
    if bars or len(records.file.domains) < 2 or not records.best:
        return Section(title, bars, _IMPORTANCE_NOTE)
    shown_from = f"Shown from {FEWEST_POINTS} arms on whose scores differ"
    return Section(title, [f"{shown_from}: with fewer, importance is that of a few accidents."])


def _stage_tree(records: Records) -> list[Part]:
    if not records.sharing.tokens_asked:
        return []
    return [sharing_sentence(records.sharing), Tree(tables.stages(records))]
