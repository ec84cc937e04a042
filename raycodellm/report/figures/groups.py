"""The order of the arms in the plots: along a code ratio or another parameter, and in groups of one colour each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm.config import CODE_KINDS, Domain
from raycodellm.records import StageRecord
from raycodellm.report.figures.figure import GROUP_COLOURS, GROUP_SYMBOLS, as_markup
from raycodellm.report.ranking import ArmScore
from raycodellm.report.records import Records
from raycodellm.tables import formats
from raycodellm.tables.trials import Row, params_of, trial_name

_SMALLEST_SPREAD = 0.005
"""Code ratios that lie closer together are one ratio, rounded to whole sequences."""


@dataclass(frozen=True)
class Axis:
    """The place of each arm along an x axis."""

    title: str
    places: Mapping[int, Any]
    """Maps an arm to its number, or to the name of its option."""
    layout: Mapping[str, Any]
    """Plotly's settings of the axis."""
    stage: str = ""
    """The stage that the parameter belongs to."""
    is_ratio: bool = False
    """True for a code ratio."""
    name: str = ""
    """The searched parameter; empty for a ratio that follows from the stage's weights."""

    def stands_for(self, name: str) -> bool:
        """True for a parameter that decides the arm's place."""
        if self.name:
            return name == self.name
        stage, _, rest = name.partition(".")
        return stage == self.stage and rest.partition(".")[0] in ("weights", "phases", "within", "sources")

    @property
    def is_numeric(self) -> bool:
        return self.layout.get("type") != "category"

    @property
    def is_log(self) -> bool:
        return self.layout.get("type") == "log"


def scored(records: Records) -> list[ArmScore]:
    """The arms that have a score, the best first."""
    return [arm_score for arm_score in records.scores if arm_score.score is not None]


def axes(records: Records) -> list[Axis]:
    """The code ratio of each stage in which it differs from arm to arm; else the first searched parameter."""
    domains = records.file.domains
    stage_axes: list[Axis | None] = []
    for stage in records.sweep.stages:
        name = f"{stage.name}.code_ratio"
        if name in domains:
            stage_axes.append(_parameter_axis(records, name, domains[name], stage.name))
        else:
            stage_axes.append(_trained_axis(records, stage.name))
    ratios = [axis for axis in stage_axes if axis is not None and axis.places]
    if ratios or not domains:
        return ratios
    name_of_first, domain = next(iter(domains.items()))
    other = _parameter_axis(records, name_of_first, domain, name_of_first.partition(".")[0])
    return [other] if other.places else []


def is_along_code_ratio(records: Records) -> bool:
    """True if the arms differ in the code ratio of a stage."""
    return any(axis.is_ratio for axis in axes(records))


def _parameter_axis(records: Records, name: str, domain: Domain, stage: str) -> Axis:
    values = {arm_score.arm: arm_score.params[name] for arm_score in scored(records) if name in arm_score.params}
    is_ratio = name.endswith("code_ratio")
    title = f"{name} (share of tokens)" if is_ratio else name
    if domain.kind == "choice" and not all(map(_is_number, domain.options)):
        labels = {arm: as_markup(formats.value(value)) for arm, value in values.items()}
        return Axis(title, labels, {"type": "category"}, stage, is_ratio, name)
    if domain.kind == "loguniform":
        return Axis(title, values, {"type": "log"}, stage, is_ratio, name)
    ends = domain.options if domain.kind == "choice" else (domain.low, domain.high)
    margin = 0.04 * (max(ends) - min(ends)) or 0.5
    return Axis(title, values, {"range": [min(ends) - margin, max(ends) + margin]}, stage, is_ratio, name)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _trained_axis(records: Records, stage: str) -> Axis | None:
    """The code ratio that each arm's first trial was really trained with, for mixtures that are given by weights."""
    ratios = {}
    for arm_score in scored(records):
        for key in records.stage_keys(arm_score.trials[0]):
            if records.stages[key].name == stage:
                ratios[arm_score.arm] = trained_ratio(records.stages[key])
    finite = [ratio for ratio in ratios.values() if math.isfinite(ratio)]
    if not finite or max(finite) - min(finite) < _SMALLEST_SPREAD:
        return None
    margin = 0.04 * (max(finite) - min(finite))
    limits = {"range": [min(finite) - margin, max(finite) + margin]}
    places = {arm: ratio for arm, ratio in ratios.items() if math.isfinite(ratio)}
    return Axis(f"code ratio trained in stage {stage} (share of tokens)", places, limits, stage, is_ratio=True)


def trained_ratio(record: StageRecord) -> float:
    """Share of the stage's trained tokens that come from code."""
    whole = sum(row.tokens for row in record.ledger)
    return sum(row.tokens for row in record.ledger if row.kind in CODE_KINDS) / whole if whole else math.nan


def grouping(records: Records, stage: str) -> str | None:
    """The choice that gives the arms their colour: a schedule, of the stage if it has one, else any other choice."""
    choices = [name for name, domain in records.file.domains.items() if domain.kind == "choice"]
    others = [name for name in choices if not name.endswith("code_ratio")]
    stage_choices = [name for name in others if name.partition(".")[0] == stage]
    schedules = [
        name for name in (*stage_choices, *others) if name.endswith("schedule") and "learning_rate" not in name
    ]
    return next(iter((*schedules, *stage_choices, *others)), None)


def grouping_of_trials(records: Records) -> str | None:
    """The `grouping` of plots without a code ratio along an axis: there a choice of code ratios may give the colour."""
    choices = [name for name, domain in records.file.domains.items() if domain.kind == "choice"]
    first = axes(records)
    return grouping(records, first[0].stage if first else "") or next(iter(choices), None)


def group_of(params: Mapping[str, Any], parameter: str | None) -> str:
    """Name of the group of an arm with these parameters, as Plotly shows it; `none` where it has no such parameter."""
    if parameter is None:
        return "all arms"
    return as_markup(formats.value(params[parameter])) if parameter in params else "none"


def styles(records: Records, parameter: str | None) -> dict[str, dict[str, Any]]:
    """Colour and symbol of each group of arms, in the order of the sweep file."""
    options = records.file.domains[parameter].options if parameter else ()
    named = [as_markup(formats.value(option)) for option in options]
    groups = dict.fromkeys([*named, *(group_of(arm_score.params, parameter) for arm_score in records.scores)])
    return {
        group: {
            "color": GROUP_COLOURS[place % len(GROUP_COLOURS)],
            "symbol": GROUP_SYMBOLS[place % len(GROUP_SYMBOLS)],
        }
        for place, group in enumerate(groups)
    }


def hover_texts(records: Records) -> dict[str, dict[int, str]]:
    """The text of each arm's and each trial's point, kept once for all plots."""
    metric = records.sweep.search.objectives[0].metric
    return {
        "arms": {arm_score.arm: _arm_text(arm_score, metric) for arm_score in scored(records)},
        "trials": {row["number"]: _trial_text(row, metric) for row in records.rows},
    }


def _arm_text(arm_score: ArmScore, metric: str) -> str:
    seeds = f"{len(arm_score.seeds)} seed{'s' * (len(arm_score.seeds) != 1)}"
    ends = formats.interval(arm_score.low, arm_score.high)
    lines = [
        f"arm {arm_score.arm}: {metric} {formats.score(arm_score.score)} ({ends}), {seeds}",
        *_parameter_lines(arm_score.params),
        f"accuracy {formats.score(arm_score.accuracy)}, chance {formats.score(arm_score.chance)}",
    ]
    return _as_lines(lines)


def _trial_text(row: Row, metric: str) -> str:
    score = row.get(f"metrics.{metric}") if row["state"] == "complete" else None
    ending = formats.score(score) if score is not None else f"{row['state']} {str(row.get('error') or '')[:80]}"
    return _as_lines([f"trial {trial_name(row['number'])}, arm {row['arm']}, seed {row['seed']}: {metric} {ending}"])


def _parameter_lines(params: Mapping[str, Any]) -> list[str]:
    return [f"{name} {formats.value(value)}" for name, value in params.items()]


def _as_lines(lines: Sequence[str]) -> str:
    return "<br>".join(map(as_markup, lines))


def group_of_row(row: Row, parameter: str | None) -> str:
    """Name of the group of a trial's arm."""
    return group_of(params_of(row), parameter)
