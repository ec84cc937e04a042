"""What the report's tables say, as rows of words and numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycodellm.records import LedgerRow, StageRecord, summed_ledger
from raycodellm.report import text
from raycodellm.report.ranking import ArmScore, is_present, params_of

if TYPE_CHECKING:
    from raycodellm.report import Records

Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Header and rows."""


def cards(records: Records) -> list[tuple[str, str]]:
    """The figures at the top: (value, what it is)."""
    best = next((one for one in records.scores if one.score is not None), None)
    spent = records.savings
    states = records.states
    found = []
    if best:
        metric = records.sweep.search.objectives[0].metric
        found.append((text.score(best.score), f"{metric} of arm {best.arm}, first in rank"))
        if best.accuracy is not None:
            found.append((text.score(best.accuracy), f"its accuracy; guessing gives {text.score(best.chance)}"))
    failed = f", {states['failed']} failed" if states["failed"] else ""
    still = states["running"] + states["waiting"]
    found.append(
        (
            f"{states['complete']} of {len(records.rows)}",
            f"trials complete{failed}{f', {still} to go' if still else ''}",
        )
    )
    if spent.tokens_trained:
        by_sharing = f"; {text.count(spent.tokens_saved)} saved by sharing" if spent.tokens_saved else ""
        not_spent = f"; {text.seconds(spent.seconds_saved)} saved" if spent.tokens_saved else ""
        found.append((text.count(spent.tokens_trained), f"tokens trained{by_sharing}"))
        found.append((text.seconds(spent.seconds_trained), f"device time{not_spent}"))
    return found


def ranking(records: Records) -> Rows:
    objectives = records.sweep.search.objectives
    names = list(dict.fromkeys(name for one in records.scores for name in one.params))
    several = len(objectives) > 1
    header = (
        "arm",
        *names,
        objectives[0].metric,
        text.interval_name(records.scores),
        text.difference_name(records.scores),
        "accuracy",
        "chance",
    )
    header += (*(one.metric for one in objectives[1:]), "Pareto front") if several else ()
    header += ("seeds",)
    rows = []
    for one in records.scores:
        if one.score is not None:
            row = (
                str(one.arm),
                *(text.value(one.params.get(name)) for name in names),
                text.score(one.score),
                text.interval(one.low, one.high),
                text.difference(one),
                text.score(one.accuracy),
                text.score(one.chance),
            )
            row += (*map(text.score, one.scores[1:]), "✓" if one.pareto else "") if several else ()
            rows.append((*row, str(len(one.seeds))))
    return header, rows


def tasks(records: Records, best: ArmScore) -> Rows:
    """Scores by task, and by part of a task, of the best arm's first trial."""
    row = next(row for row in records.rows if row["number"] == best.trials[0])
    metrics = {
        key.removeprefix("metrics."): value
        for key, value in row.items()
        if key.startswith("metrics.") and is_present(value)
    }
    of_items = "95 % interval, items only"
    header = ("task", "accuracy", of_items, "chance", "bits per byte", of_items, "items", "too long")
    rows = []
    for task, part in _scored_parts(metrics):
        suffix = f"_{part}" if part else ""
        acc, bpb = f"{task}/acc{suffix}", f"{task}/bpb{suffix}"
        rows.append(
            (
                f"{task} · {part}" if part else task,
                *_with_interval(metrics, acc),
                text.score(metrics.get(f"{task}/chance{suffix}")),
                *_with_interval(metrics, bpb),
                text.value(_whole(metrics.get(f"{task}/items{suffix}"))),
                text.value(_whole(metrics.get(f"{task}/too_long{suffix}"))),
            )
        )
    return header, rows


def _scored_parts(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """(task, part): each task, then its parts; the mean over tasks last."""
    found: dict[str, dict[str, None]] = {}
    for name in metrics:
        task, _, score = name.rpartition("/")
        match = re.fullmatch(r"(?:acc|bpb)(?:_(.+?))?(?:_(?:low|high))?", score)
        if match and match[1] not in ("low", "high"):
            found.setdefault(task, {})[match[1] or ""] = None
    order = sorted(found, key=lambda task: task == "mean")
    return [(task, part) for task in order for part in sorted(found[task])]


def _with_interval(metrics: dict[str, float], name: str) -> tuple[str, str]:
    low, high = (metrics.get(f"{name}_{end}", float("nan")) for end in ("low", "high"))
    return text.score(metrics.get(name)), text.interval(low, high)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def ledger(records: Records, best: ArmScore | None) -> Rows:
    """Per stage and source, and their sum over the trial's stages."""
    header = ("stage", "source", "kind", "planned tokens", "trained tokens", "difference", "unique", "epochs")
    stages = _best_stages(records, best)
    rows = [_ledger_row(record.name, row) for record in stages for row in record.ledger]
    if len(stages) > 1:
        rows += [_ledger_row("all stages", row) for row in summed_ledger(stages)]
    return header, rows


def phases(records: Records, best: ArmScore | None) -> Rows:
    """The same trial's ledger per phase, of the stages that have several."""
    header = ("stage", "phase", "source", "planned tokens", "trained tokens", "difference")
    rows = []
    for record in _best_stages(records, best):
        for number in range(max((len(row.phases) for row in record.ledger), default=0)):
            for row in record.ledger:
                if len(row.phases) > 1:
                    phase = row.phases[number]
                    counts = (f"{phase.planned_tokens:,}", f"{phase.tokens:,}", _signed(phase.difference))
                    rows.append((record.name, str(number + 1), row.source, *counts))
    return header, rows


def _best_stages(records: Records, best: ArmScore | None) -> list[StageRecord]:
    """The stages of the best arm's first trial, or of the first finished chain while there is no best."""
    candidates = [best.trials[0]] if best else [row["number"] for row in records.rows]
    keys = next((keys for number in candidates if (keys := records.stage_keys(number))), [])
    return [records.stages[key] for key in keys]


def _ledger_row(stage: str, row: LedgerRow) -> tuple[str, ...]:
    counts = (f"{row.planned_tokens:,}", f"{row.tokens:,}", _signed(row.tokens - row.planned_tokens))
    return (stage, row.source, row.kind, *counts, f"{row.unique_tokens:,}", f"{row.epochs:.2f}")


def _signed(difference: int) -> str:
    return f"{difference:+,}" if difference else "0"


def sources(records: Records) -> Rows:
    """The token stores that the finished stages drew from, and what identifies the text in them."""
    rows = []
    for name, manifest in records.stores.items():
        source = records.sweep.sources.get(name)
        path = "" if source is None else ", ".join(source.paths)
        counts = (f"{manifest['num_documents']:,}", f"{manifest['num_tokens']:,}")
        digest = manifest.get("content_digest") or manifest["source_fingerprint"]
        rows.append((name, str(manifest["kind"]), path, *counts, digest))
    return ("source", "kind", "path", "documents", "tokens", "digest"), rows


def skipped(records: Records) -> Rows:
    rows = [(name, reason, f"{n:,}") for name, reasons in records.skipped.items() for reason, n in reasons.items()]
    return ("source", "reason", "documents"), rows


def failures(records: Records) -> Rows:
    rows = [
        (f"{row['number']:04d}", str(row["arm"]), text.params(params_of(row)), str(row.get("error") or "not recorded"))
        for row in records.rows
        if row["state"] == "failed"
    ]
    return ("trial", "arm", "parameters", "cause"), rows


def trials(records: Records) -> Rows:
    names = list(dict.fromkeys(name for row in records.rows for name in params_of(row)))
    metrics = [one.metric for one in records.sweep.search.objectives]
    header = ("trial", "state", "arm", "seed", *names, *metrics, "tokens", "wall time", "device time")
    rows = []
    for row in records.rows:
        params, total = params_of(row), row.get("tokens.total")
        rows.append(
            (
                f"{row['number']:04d}",
                row["state"],
                str(row["arm"]),
                str(row["seed"]),
                *(text.value(params.get(name)) for name in names),
                *(text.score(row.get(f"metrics.{name}") if row["state"] == "complete" else None) for name in metrics),
                text.count(total) if is_present(total) else text.NOTHING,
                text.seconds(row.get("wall_seconds") or 0.0),
                text.seconds(row.get("device_seconds") or 0.0),
            )
        )
    return header, rows


def times(records: Records) -> list[tuple[str, float, str]]:
    """Parts of the run, as timed by the driver."""
    return [(name, float(spent), text.seconds(spent)) for name, spent in records.timing.items() if is_present(spent)]


@dataclass(frozen=True)
class StageNode:
    """A stage in the stage tree."""

    name: str
    facts: str
    children: tuple[StageNode, ...]


def stage_tree(records: Records) -> tuple[StageNode, ...]:
    """The prefix tree of all trials' chains of stages."""
    root: dict[str, Any] = {}
    for row in records.rows:
        below = root
        for key in row.get("stages") or ():
            node = below.setdefault(key, {"trials": [], "below": {}})
            node["trials"].append(row["number"])
            below = node["below"]
    return tuple(_node(records, key, node) for key, node in root.items())


def _node(records: Records, key: str, node: dict[str, Any]) -> StageNode:
    name, _, identity = key.rpartition("-")
    wanted, record = len(node["trials"]), records.stages.get(key)
    if record is None:
        facts = "not finished"
    else:
        spent = text.seconds(record.device_seconds)
        facts = f"{text.count(record.num_tokens)} tokens, {spent}, loss {record.final_loss:.3f}"
        if wanted > 1:
            facts += f"; trained once for {wanted} trials, {text.count(record.num_tokens * (wanted - 1))} tokens saved"
    if wanted == 1:
        facts += f"; trial {node['trials'][0]:04d}"
    below = tuple(_node(records, child, inner) for child, inner in node["below"].items())
    return StageNode(f"{name} {identity[:6]}", facts, below)
