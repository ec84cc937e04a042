"""The pairs of given models that a sweep without stages compares: their table, the answer, and `pairs.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raycodellm import config, pairs
from raycodellm.config import SweepFile
from raycodellm.evaluation import asked_averages
from raycodellm.pairs import Gap
from raycodellm.statistics import ERROR, Word
from raycodellm.tables import Cell, Table, cells, formats
from raycodellm.tables.plain_json import finite_json
from raycodellm.tables.trials import Row, metric_of, params_of
from raycodellm.verdict import MARKS

FORMAT = 1
"""Raised when a key of `pairs.json` changes its meaning or goes."""
_MOST_TOLD = 4
"""Pairs that the answer tells of one by one."""
_SCOPE = (
    "This compares these models: no training seed is behind a given model, so nothing is said of the recipe that it "
    "was trained by."
)


@dataclass(frozen=True)
class ModelPair:
    """Two models in one metric."""

    base: str
    other: str
    settings: Mapping[str, Any]
    """The searched parameters beside the model, which are equal for both."""
    metric: str
    scores: tuple[float | None, float | None]
    """The base's score, and the other model's."""
    gap: Gap | None
    """None where no item has a score of both."""
    word: Word | None
    """None for a difference that is not tested."""


def compared_models(file: SweepFile, rows: Sequence[Row], items: Callable[[int], pa.Table | None]) -> list[ModelPair]:
    """The pairs of the sweep of which both models are evaluated, metric by metric; none of a sweep with stages.

    `rows`: of `trials.parquet`; `items`: the table of a trial's items by its number, None where it cannot be read.
    """
    chosen = _chosen(file, rows)
    read_tables = {number: items(number) for number in dict.fromkeys(row["number"] for pair in chosen for row in pair)}
    by_trials = {(str(base["number"]), str(other["number"])): (base, other) for base, other in chosen}
    tables = {str(number): table for number, table in read_tables.items() if table is not None}
    with_items = [pair for pair in by_trials if pair[0] in tables and pair[1] in tables]
    settings = file.example()
    kind = settings.search.objectives[0].metric.rpartition("/")[2]
    compared = pairs.compare(tables, with_items, asked_averages(settings.evaluation), kind)
    comparisons = []
    for pair, gaps in compared.items():
        base, other = by_trials[pair]
        names = (_model(file, base), _model(file, other))
        for metric, gap in gaps.items():
            scores = (metric_of(base, metric), metric_of(other, metric))
            comparisons.append(ModelPair(*names, _settings(base), metric, scores, gap, pairs.word(metric, gap)))
    return comparisons


def _chosen(file: SweepFile, rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The complete trials of each pair: one with the base, one with the other model, under the same settings. A model
    is known by its trial from here on, since the sweep may evaluate it under several settings."""
    named_pairs = file.pairs()
    by_settings: dict[str, dict[str, Row]] = {}
    for row in rows if named_pairs else ():
        if row["state"] == "complete":
            by_settings.setdefault(repr(sorted(_settings(row).items())), {})[_model(file, row)] = row
    groups = by_settings.values()
    return [
        (by_model[base], by_model[other])
        for by_model in groups
        for base, other in named_pairs
        if base in by_model and other in by_model
    ]


def _settings(row: Row) -> dict[str, Any]:
    """The parameters of a trial beside its model."""
    return {name: value for name, value in params_of(row).items() if name.partition(".")[0] != "model"}


def _model(file: SweepFile, row: Row) -> str:
    return str(config.resolve(file, params_of(row)).model.pretrained)


# ------------------------------------------------------------------------------------------------- tables


def note(comparisons: Sequence[ModelPair]) -> str:
    """The paragraph below the table."""
    tests = sum(comparison.word is not None for comparison in comparisons)
    return (
        "▲ better, ▼ worse, ≈ not known. Differences over the same items, with 95 % intervals over items. p: McNemar's "
        f"exact test, or Student's over items or clusters of items; corrected: all {tests} tests, pairs × tasks, hold "
        f"at once (Holm). {_SCOPE}"
    )


def table(comparisons: Sequence[ModelPair], tested_alone: bool = True) -> Table:
    """A row for each pair and task; with all metrics unless `tested_alone`."""
    names = pairs.short_names(
        list(dict.fromkeys(name for comparison in comparisons for name in (comparison.base, comparison.other)))
    )
    settings = list(dict.fromkeys(name for comparison in comparisons for name in comparison.settings))
    header = ("base", "other", *settings, "metric", "base's", "other's", "difference (95 % over items)", "items")
    rows = [
        (
            names[comparison.base],
            names[comparison.other],
            *(cells.value(comparison.settings.get(name)) for name in settings),
            comparison.metric,
            *map(cells.score, comparison.scores),
            *_gap_cells(comparison),
        )
        for comparison in comparisons
        if comparison.word is not None or not tested_alone
    ]
    return Table((*header, "p", "corrected p"), rows, left=(0, 1, 2 + len(settings)))


def _gap_cells(comparison: ModelPair) -> tuple[str, ...]:
    gap, nothing = comparison.gap, Cell(formats.NOTHING)
    if gap is None:
        return nothing, nothing, nothing, nothing
    value, low, high = gap.interval
    mark = MARKS[comparison.word] if comparison.word else ""
    kind = comparison.word.replace(" ", "-") if comparison.word else ""
    difference = Cell(f"{value:+.3f} ({formats.signed_interval(low, high)}){mark}", value, kind)
    p_values = (Cell(formats.p_value(p), p) for p in (gap.p, gap.p_corrected))
    return (difference, cells.whole(gap.items), *p_values)


def answer(comparisons: Sequence[ModelPair]) -> str:
    """The result of the tests in sentences; empty without any."""
    tested = [comparison for comparison in comparisons if comparison.word is not None]
    if not tested:
        return ""
    names = pairs.short_names(
        list(dict.fromkeys(name for comparison in tested for name in (comparison.base, comparison.other)))
    )
    metrics_by_claim: dict[str, list[str]] = {}
    for comparison in tested:
        if comparison.word in ("better", "worse"):
            claim = f"{names[comparison.other]} is {comparison.word} than {names[comparison.base]} in"
            metrics_by_claim.setdefault(claim, []).append(_evidence(comparison))
    claims = [f"{claim} {', '.join(metrics)}" for claim, metrics in metrics_by_claim.items()]
    more = f"; {len(claims) - _MOST_TOLD} more in the table" if len(claims) > _MOST_TOLD else ""
    claims_text = f"{'; '.join(claims[:_MOST_TOLD])}{more}. " if claims else ""
    counts = Counter(comparison.word for comparison in tested)
    noun = "comparison" if len(tested) == 1 else "comparisons"
    return (
        f"{claims_text}Of {len(tested)} {noun} of given models (pairs × tasks), {counts['better']} better, "
        f"{counts['worse']} worse, {counts['not known']} not known, corrected together (Holm). {_SCOPE}"
    )


def _evidence(comparison: ModelPair) -> str:
    """The metric, its difference and the corrected p; with the settings, where the sweep searches over any."""
    settings = f", with {formats.params(comparison.settings)}" if comparison.settings else ""
    if comparison.gap is None:
        return comparison.metric
    p = formats.p_value(comparison.gap.p_corrected)
    return f"{comparison.metric} ({comparison.gap.interval.value:+.3f}, corrected p {p}{settings})"


def document(comparisons: Sequence[ModelPair]) -> dict[str, Any]:
    """The content of `pairs.json`, with null for each number that is not known."""
    plain: dict[str, Any] = finite_json(
        {"format": FORMAT, "error": ERROR, "pairs": [_plain(comparison) for comparison in comparisons]}
    )
    return plain


def _plain(comparison: ModelPair) -> dict[str, Any]:
    value, low, high = (None, None, None) if comparison.gap is None else comparison.gap.interval
    bootstrap = None if comparison.gap is None else comparison.gap.bootstrap
    return {
        "base": comparison.base,
        "other": comparison.other,
        "settings": dict(comparison.settings),
        "metric": comparison.metric,
        "base_score": comparison.scores[0],
        "other_score": comparison.scores[1],
        "difference": value,
        "difference_low": low,
        "difference_high": high,
        "bootstrap_low": None if bootstrap is None else bootstrap.low,
        "bootstrap_high": None if bootstrap is None else bootstrap.high,
        "items": None if comparison.gap is None else comparison.gap.items,
        "p": None if comparison.gap is None else comparison.gap.p,
        "test": None if comparison.gap is None else comparison.gap.test,
        "p_corrected": None if comparison.gap is None else comparison.gap.p_corrected,
        "verdict": comparison.word,
    }
