"""The report's tables as plain rows of cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from raycodellm.records import LedgerRow, StageRecord, summed_ledger
from raycodellm.report.answer import difference, difference_name, interval_name
from raycodellm.report.ranking import ArmScore
from raycodellm.report.records import Records
from raycodellm.tables import (
    Cell,
    StageNode,
    Table,
    cells,
    formats,
    remarks,
    score_table,
    stage_tree,
    trials_table,
)
from raycodellm.tables.trials import is_present, params_of, stages_of, trial_name
from raycodellm.verdict import Verdict
from raycodellm.verdict.arms import mean_score
from raycodellm.verdict.marks import marked
from raycodellm.verdict.verdicts import task_metrics


def cards(records: Records) -> list[tuple[str, str]]:
    """The figures at the top of the page: value and caption."""
    best, shared, states = records.best, records.sharing, records.states
    figures = []
    if best:
        metric = records.sweep.search.objectives[0].metric
        figures.append((formats.score(best.score), f"{metric} of arm {best.arm}, first in rank"))
        if best.accuracy is not None:
            figures.append((formats.score(best.accuracy), f"its accuracy; guessing gives {formats.score(best.chance)}"))
    failed = "".join(f", {states[state]} {state}" for state in ("failed", "pruned") if states[state])
    to_go = f", {records.num_open} to go" if records.num_open else ""
    figures.append((f"{states['complete']} of {records.num_trials}", f"trials complete{failed}{to_go}"))
    if shared.tokens_asked:
        tokens_saved = f"; {formats.count(shared.tokens_saved)} saved by sharing" if shared.tokens_saved else ""
        seconds_saved = f"; {formats.seconds(shared.seconds_saved)} saved" if shared.tokens_saved else ""
        if shared.tokens_taken_over:
            tokens_saved = f"; {formats.count(shared.tokens_taken_over)} taken over from other sweeps{tokens_saved}"
            seconds_saved = f"; {formats.seconds(shared.seconds_taken_over)} taken over{seconds_saved}"
        figures.append((formats.count(shared.tokens_trained), f"tokens trained{tokens_saved}"))
        figures.append((formats.seconds(shared.seconds_trained), f"device time{seconds_saved}"))
    return figures


def spent(records: Records) -> Table:
    """A row per limit of the budget, with the part of it that is spent."""
    rows = [
        (limit.key, str(limit), limit.share.partition(" of ")[0], "reached" if limit.is_reached else "")
        for limit in records.limits
    ]
    return Table(("limit", "spent", "share", ""), rows, left=(0, 1, 3))


def ranking(records: Records) -> Table:
    """The arms that have a score, the best first; confirmed arms before those with a score of the search alone."""
    scored = [arm_score for arm_score in records.scores if arm_score.score is not None]
    names = list(dict.fromkeys(name for arm_score in scored for name in arm_score.params))
    first_metric, *other_metrics = (objective.metric for objective in records.sweep.search.objectives)
    is_confirmed = any(arm_score.is_confirmed for arm_score in scored)
    header = (
        *("arm", *names, first_metric, interval_name(records.scores)),
        *((SELECTED,) if is_confirmed else ()),
        *(
            difference_name(records),
            "accuracy",
            "chance",
            *other_metrics,
            *(("Pareto front",) if other_metrics else ()),
            "seeds",
        ),
    )
    rows = []
    for arm_score in scored:
        gap = arm_score.difference
        objective_cells = (*map(cells.score, arm_score.scores[1:]), "✓" if arm_score.pareto else "")
        if is_confirmed and not arm_score.is_confirmed:  # the search's score stands in a column of its own
            score_cells: tuple[str, ...] = (cells.score(None), cells.score(None), cells.score(arm_score.score))
        else:
            score_cells = (
                cells.score(arm_score.score),
                Cell(formats.interval(arm_score.low, arm_score.high), arm_score.low),
            )
            score_cells += (cells.score(arm_score.selected_score),) if is_confirmed else ()
        kind = (arm_score.verdict or "").replace(" ", "-")
        is_reference = records.has_reference and arm_score.arm == records.findings.compared_with
        rows.append(
            (
                Cell(str(arm_score.arm), arm_score.arm),
                *(cells.value(arm_score.params.get(name)) for name in names),
                *score_cells,
                Cell("reference" if is_reference else difference(arm_score), gap.value if gap else 0.0, kind),
                cells.score(arm_score.accuracy),
                cells.score(arm_score.chance),
                *(objective_cells if other_metrics else ()),
                cells.whole(len(arm_score.seeds)),
            )
        )
    return Table(header, rows, is_first_best=bool(scored) and scored[0].separable and not records.has_reference)


def front(records: Records) -> Table:
    """The arms by all objectives: those on the Pareto front first; no rows of a sweep with one objective."""
    pareto = records.front
    if pareto is None:
        return Table((), [])
    params = {arm_score.arm: arm_score.params for arm_score in records.scores}
    names = list(dict.fromkeys(name for front_arm in pareto.arms for name in params[front_arm.arm]))
    scores = [name for metric in pareto.objectives for name in (metric, "95 % interval")]
    rows = []
    for front_arm in pareto.arms:
        score_cells = []
        for score in front_arm.scores:
            score_cells += [cells.score(score.value), Cell(formats.interval(score.low, score.high), score.low)]
        values = (cells.value(params[front_arm.arm].get(name)) for name in names)
        place = "on the front" if front_arm.is_on_front else "dominated"
        certainty = "yes" if front_arm.is_known else "no" if pareto.knows_seeds else "seeds unknown"
        certainty = "no look yet" if pareto.is_before_looks else certainty
        rivals = ", ".join(map(str, front_arm.rivals[:12])) + (" …" if len(front_arm.rivals) > 12 else "")
        rows.append((Cell(str(front_arm.arm), front_arm.arm), *values, *score_cells, place, certainty, rivals))
    num_before = len(names) + len(scores)
    header = ("arm", *names, *scores, "by the means", "told from noise", "may be, or is, dominated by")
    return Table(header, rows, left=(0, num_before + 1, num_before + 2, num_before + 3))


SELECTED = "in the search (selected)"
"""Heading of the scores by which the search chose the arms that are confirmed."""


def arms_by_task(records: Records) -> Table:
    """The score of each arm in each task, with its verdict against the arm that is compared with.

    With a confirmation the scores are those of fresh seeds, as far as the looks are complete.
    """
    findings = records.findings
    metrics = task_metrics(records.rows, records.sweep.search.objectives[0])
    verdict_of = {(verdict.arm, verdict.metric): verdict for verdict in findings.verdicts}
    by_trial = {row["number"]: row for row in records.rows}
    scored = [arm_score for arm_score in records.scores if arm_score.score is not None]
    if any(arm_score.is_confirmed for arm_score in scored):
        scored = [arm_score for arm_score in scored if arm_score.is_confirmed]
    names = list(dict.fromkeys(name for arm_score in scored for name in arm_score.params))
    rows = []
    for arm_score in scored:
        trial_rows = [by_trial[number] for number in arm_score.trials]
        scores = [
            _task_cell(verdict_of.get((arm_score.arm, metric)), mean_score(trial_rows, metric))
            for metric in metrics.values()
        ]
        rows.append(
            (
                Cell(str(arm_score.arm), arm_score.arm),
                *(cells.value(arm_score.params.get(name)) for name in names),
                *scores,
            )
        )
    return Table(("arm", *names, *metrics), rows if metrics else [])


def _task_cell(verdict: Verdict | None, score: float | None) -> Cell:
    if verdict is None or math.isnan(verdict.difference.value):
        return cells.score(score)
    return marked(verdict.score.value, verdict.word)


MOST_DIFFERENCES = 1000
"""Rows of the table of differences: those of the best arms."""


def verdicts(records: Records) -> Table:
    """The verdicts with the differences behind them, arm by arm; no rows where no verdict is given."""
    findings = records.findings
    place = {arm_score.arm: number for number, arm_score in enumerate(records.scores)}
    header = ("arm", "metric", "score", "95 % interval", "difference", "corrected interval", "corrected p", "seeds")
    rows = []
    for verdict in sorted(findings.verdicts, key=lambda verdict: place[verdict.arm])[:MOST_DIFFERENCES]:
        gap = verdict.difference
        rows.append(
            (
                Cell(str(verdict.arm), verdict.arm),
                verdict.metric,
                cells.score(verdict.score.value),
                Cell(formats.interval(verdict.score.low, verdict.score.high), verdict.score.low),
                Cell(formats.signed_score(gap.value), gap.value),
                Cell(formats.signed_interval(gap.low, gap.high), gap.low),
                Cell(formats.p_value(verdict.p_corrected), verdict.p_corrected),
                cells.whole(len(verdict.seeds)),
                Cell(verdict.word + ("" if verdict.is_final else ", so far"), kind=verdict.word.replace(" ", "-")),
            )
        )
    return Table((*header, "verdict"), rows, left=(0, 1, 8))


def tasks(records: Records, best: ArmScore) -> Table:
    """Scores by suite, task and part of a task, of the best arm's first trial; averages last."""
    return score_table(_metrics(records, best), records.sweep.evaluation)


def task_remarks(records: Records, best: ArmScore) -> list[str]:
    """Remarks for a reader of these scores."""
    return remarks(_metrics(records, best), records.sweep.evaluation)


def _metrics(records: Records, best: ArmScore) -> dict[str, float]:
    row = next(row for row in records.rows if row["number"] == best.trials[0])
    return {
        key.removeprefix("metrics."): value
        for key, value in row.items()
        if key.startswith("metrics.") and is_present(value)
    }


def ledger(records: Records, best: ArmScore | None) -> Table:
    """Tokens by stage and source of the best arm's first trial, and the sum over its stages."""
    header = ("stage", "source", "kind", "planned tokens", "trained tokens", "difference", "unique", "epochs")
    stages = _best_stages(records, best)
    rows = [_ledger_cells(record.name, row) for record in stages for row in record.ledger]
    if len(stages) > 1:
        rows += [_ledger_cells("all stages", row) for row in summed_ledger(stages)]
    return Table(header, rows, left=(0, 1, 2))


def phases(records: Records, best: ArmScore | None) -> Table:
    """Tokens by phase of the best arm's first trial, for the stages that have several phases."""
    header = ("stage", "phase", "source", "planned tokens", "trained tokens", "difference")
    rows = []
    for record in _best_stages(records, best):
        for number in range(max((len(row.phases) for row in record.ledger), default=0)):
            for row in record.ledger:
                if len(row.phases) > 1:
                    phase = row.phases[number]
                    counts = (f"{phase.planned_tokens:,}", f"{phase.tokens:,}", formats.signed(phase.difference))
                    rows.append((record.name, str(number + 1), row.source, *counts))
    return Table(header, rows, left=(0, 2))


def _best_stages(records: Records, best: ArmScore | None) -> list[StageRecord]:
    """Stages of the best arm's first trial; without a best arm those of the first trial that has finished stages."""
    candidates = [best.trials[0]] if best else [row["number"] for row in records.rows]
    keys = next((keys for number in candidates if (keys := records.stage_keys(number))), [])
    return [records.stages[key] for key in keys]


def _ledger_cells(stage: str, row: LedgerRow) -> tuple[str, ...]:
    gap = row.tokens - row.planned_tokens
    counts = (cells.whole(row.planned_tokens), cells.whole(row.tokens), Cell(formats.signed(gap), gap))
    return (stage, row.source, row.kind, *counts, cells.whole(row.unique_tokens), Cell(f"{row.epochs:.2f}", row.epochs))


def sources(records: Records) -> Table:
    """The token stores of the finished stages, and the digests that identify their text."""
    rows = []
    for name, manifest in records.stores.items():
        source = records.sweep.sources.get(name)
        path = "" if source is None else ", ".join(source.paths)
        counts = (f"{manifest['num_documents']:,}", f"{manifest['num_tokens']:,}")
        rows.append((name, str(manifest["kind"]), path, *counts, digest_of(manifest)))
    return Table(("source", "kind", "path", "documents", "tokens", "digest"), rows, left=(0, 1, 2, 5))


def digest_of(manifest: Mapping[str, Any]) -> str:
    """The digest that identifies the text of a token store, from its manifest."""
    return str(manifest.get("content_digest") or manifest["source_fingerprint"])


def skipped(records: Records) -> Table:
    """Documents left out of the token stores."""
    rows = [(name, reason, f"{n:,}") for name, reasons in records.skipped.items() for reason, n in reasons.items()]
    return Table(("source", "reason", "documents"), rows)


def failures(records: Records) -> Table:
    """The failed trials with their causes."""
    rows = [
        (
            trial_name(row["number"]),
            str(row["arm"]),
            formats.params(params_of(row)),
            str(row.get("error") or "not recorded"),
        )
        for row in records.rows
        if row["state"] == "failed"
    ]
    return Table(("trial", "arm", "parameters", "cause"), rows, left=(0, 1, 2, 3))


def lost_workers(records: Records) -> Table:
    """The trials whose workers died or had to leave, and where their stages went on."""
    rows = []
    for row in records.rows:
        deaths, preemptions = (int(row[name]) if is_present(row.get(name)) else 0 for name in _LOSSES)
        stages = [records.stages[key] for key in records.stage_keys(row["number"])]
        continued = [f"{record.name} at step {step:,}" for record in stages for step in record.resumed_at]
        if deaths or preemptions or continued:
            trial_cells = (trial_name(row["number"]), Cell(str(row["arm"]), row["arm"]), row["state"])
            rows.append((*trial_cells, cells.whole(deaths), cells.whole(preemptions), ", ".join(continued)))
    return Table(("trial", "arm", "state", "deaths", "preemptions", "continued"), rows, left=(0, 2, 5))


_LOSSES = ("deaths", "preemptions")


def trials(records: Records) -> Table:
    """All trials."""
    return trials_table(records.rows, [objective.metric for objective in records.sweep.search.objectives])


def stages(records: Records) -> tuple[StageNode, ...]:
    """The stage tree of all trials."""
    chains = ((row["number"], stages_of(row)) for row in records.rows)
    return stage_tree(chains, partial(_stage_facts, records))


def _stopped_facts(records: Records, key: str) -> str:
    """A stage that is not finished: the tokens until where it was stopped early or failed, if it was."""
    if key not in records.stopped_parts:
        return "not finished"
    tokens, state = records.stopped_parts[key]
    return f"{'failed' if state == 'failed' else 'stopped'} after {formats.count(tokens)} tokens"


def _stage_facts(records: Records, key: str, trials: Sequence[int]) -> tuple[str, str]:
    record = records.stages.get(key)
    if record is None:
        facts = _stopped_facts(records, key)
    else:
        seconds = formats.seconds(record.device_seconds)
        facts = f"{formats.count(record.num_tokens)} tokens, {seconds}, loss {record.final_loss:.3f}"
        if record.trunk_steps:
            facts += f"; {formats.count(record.trunk_tokens)} of the tokens taken over from another stage"
        if records.stage_uses[key].is_elsewhere:
            facts += f"; trained by the sweep {record.trained_by}"
        if len(trials) > 1:
            saved = formats.count(record.num_tokens * (len(trials) - 1))
            facts += f"; trained once for {len(trials)} trials, {saved} tokens saved"
    if len(trials) == 1:
        facts += f"; trial {trial_name(trials[0])}"
    return formats.short_key(key), facts
