"""The panels of the Grafana board: what each shows, by which queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from raycodellm.observability.metrics import BY_NAME


@dataclass(frozen=True)
class Query:
    """A Prometheus query."""

    expression: str
    legend: str = ""
    """Name of each line, with labels in braces: `arm {{arm}}`."""
    is_table: bool = False
    """True for the values of this moment, one row per series; else lines over time."""


@dataclass(frozen=True)
class Panel:
    """A panel of the board."""

    title: str
    kind: str
    """Grafana's name of the panel's type."""
    queries: tuple[Query, ...]
    description: str
    unit: str = "none"
    """Grafana's name of the unit of the values."""
    width: int = 8
    """Width of the panel, in 24ths of the board."""
    height: int = 8
    transformations: tuple[dict[str, Any], ...] = field(default=())
    """Grafana's transformations of the queries' tables, in order."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the panel's type."""


@dataclass(frozen=True)
class Row:
    """A titled row of panels."""

    title: str
    panels: tuple[Panel, ...]


def newest(metric: str, labels: Sequence[str], where: str = "") -> str:
    """Query for the metric's value per value of `labels`. `where`: more conditions on labels, after the sweep's.

    `max` folds what Ray adds to each series, such as the process that set it: a sweep that is run again is one line.
    """
    row = BY_NAME[metric]
    assert set(labels) <= set(row.labels), f"{metric} has the labels {row.labels}, and not {labels}"
    return f'max by ({", ".join(labels)}) ({row.prometheus_name}{{sweep=~"$sweep"{where}}})'


def lines(metric: str, labels: Sequence[str], where: str = "") -> tuple[Query, ...]:
    """One line over time per value of `labels`, named by them."""
    return (Query(newest(metric, labels, where), " · ".join(f"{name} {{{{{name}}}}}" for name in labels)),)


def _total(metric: str, name: str) -> Query:
    return Query(newest(metric, ("sweep",)), f"{{{{sweep}}}} {name}")


def _organized(names: dict[str, str]) -> dict[str, Any]:
    """Names a table's columns, and hides what is not among `names`."""
    order = {name: place for place, name in enumerate(names)}
    hidden = {"Time": True}
    options = {"excludeByName": hidden, "indexByName": order, "renameByName": names, "includeByName": {}}
    return {"id": "organize", "options": options}


_TRIAL = ("sweep", "trial", "arm", "code_ratio", "schedule")
_TRIALS_TABLE = Panel(
    "Trials",
    "table",
    (
        Query(f"{newest('trial_state', (*_TRIAL, 'state'))} == 1", is_table=True),
        Query(newest("objective", (*_TRIAL, "task")), is_table=True),
        Query(newest("device_seconds", _TRIAL), is_table=True),
        Query(newest("trial_tokens", _TRIAL), is_table=True),
        Query(newest("trial_code_ratio", _TRIAL), is_table=True),
        Query(newest("trial_deaths", _TRIAL), is_table=True),
    ),
    "One row per trial, the newest hundred that have ended; a running trial has no score yet.",
    width=24,
    height=10,
    transformations=(
        {"id": "merge", "options": {}},
        _organized(
            {
                "sweep": "sweep",
                "trial": "trial",
                "state": "state",
                "arm": "arm",
                "code_ratio": "code ratio planned",
                "Value #E": "code ratio trained",
                "schedule": "schedule",
                "task": "objective",
                "Value #B": "score",
                "Value #C": "device seconds",
                "Value #D": "tokens",
                "Value #F": "deaths",
                "Value #A": "now",
            }
        ),
        {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": "trial"}]}},
    ),
)
_SCORE_BY_RATIO = Panel(
    "Score against code ratio, by schedule",
    "xychart",
    (Query(newest("objective", ("code_ratio", "schedule", "trial", "task")), is_table=True),),
    "Each point is a complete trial: its objective over the code ratio that it tried.",
    width=12,
    height=10,
    transformations=(
        {
            "id": "convertFieldType",
            "options": {"fields": {}, "conversions": [{"targetField": "code_ratio", "destinationType": "number"}]},
        },
        _organized({"code_ratio": "code ratio", "Value": "score", "schedule": "schedule", "trial": "trial"}),
        {"id": "partitionByValues", "options": {"fields": ["schedule"], "keepFields": False}},
    ),
    options={"mapping": "auto", "series": []},
)

ROWS = (
    Row(
        "The sweep",
        (
            Panel(
                "Trials by state",
                "stat",
                (
                    Query(newest("trials", ("sweep", "state")), "{{sweep}} {{state}}"),
                    _total("trials_planned", "planned"),
                ),
                "Trials of the sweep in each state, and of the whole sweep.",
                height=5,
            ),
            Panel(
                "Best so far",
                "stat",
                (Query(newest("best_objective", ("sweep", "task")), "{{sweep}} {{task}}"),),
                "The best value of each objective among complete trials.",
                height=5,
            ),
            Panel(
                "Tokens saved",
                "stat",
                (_total("tokens_saved", "shared"), _total("tokens_stopped", "stopped early")),
                "Tokens that ended trials did not train again because trials share stages or steps, and tokens that "
                "trials which were stopped early did not ask for.",
                "short",
                height=5,
            ),
            _TRIALS_TABLE,
        ),
    ),
    Row(
        "Which mixture helps",
        (
            _SCORE_BY_RATIO,
            Panel(
                "Scores per task",
                "table",
                (Query(newest("score", ("trial", "code_ratio", "schedule", "task")), is_table=True),),
                "Every metric of every complete trial.",
                width=12,
                height=10,
                transformations=(
                    _organized(
                        {
                            "task": "task",
                            "trial": "trial",
                            "code_ratio": "code ratio",
                            "schedule": "schedule",
                            "Value": "score",
                        }
                    ),
                ),
            ),
        ),
    ),
    Row(
        "Training",
        (
            Panel(
                "Loss by arm",
                "timeseries",
                lines("loss", ("arm", "trial", "stage")),
                "Training loss, in nats per token.",
            ),
            Panel(
                "Held-out text",
                "timeseries",
                lines("held_out_bpb", ("arm", "trial", "stage", "source")),
                "Bits per byte of text that no stage trains on; of stages with `held_out`.",
            ),
            Panel(
                "Progress of stages",
                "timeseries",
                lines("stage_progress", ("trial", "stage")),
                "Share of the stage's steps that are trained.",
                "percentunit",
            ),
            Panel(
                "Throughput",
                "timeseries",
                lines("tokens_per_second", ("trial", "stage")),
                "Tokens per second over all workers of the stage; 0 when it has ended.",
                "short",
            ),
            Panel(
                "MFU",
                "timeseries",
                lines("mfu", ("trial", "stage")),
                "Share of the devices' best FLOP/s.",
                "percentunit",
            ),
            Panel(
                "Waiting for data",
                "timeseries",
                lines("data_wait_share", ("trial", "stage")),
                "Share of the steps' time that was spent waiting for data.",
                "percentunit",
            ),
            Panel(
                "Code ratio, planned and real",
                "timeseries",
                (
                    Query(newest("code_ratio_real", ("trial", "stage")), "real, trial {{trial}} · {{stage}}"),
                    Query(newest("code_ratio_planned", ("trial", "stage")), "planned, trial {{trial}} · {{stage}}"),
                ),
                "Share of code among the stage's tokens until now.",
                "percentunit",
                width=12,
            ),
            Panel(
                "Tokens per source",
                "bargauge",
                (Query(newest("trial_source_tokens", ("trial", "source")), "trial {{trial}} · {{source}}"),),
                "Tokens that each ended trial consumed, per source.",
                "short",
                width=12,
            ),
        ),
    ),
    Row(
        "Devices",
        (
            Panel("Slots", "timeseries", lines("slots", ("sweep", "state")), "Worker groups in each state."),
            Panel("Nodes", "timeseries", lines("nodes", ("sweep",)), "Living nodes of the cluster."),
            Panel(
                "Slot-seconds",
                "timeseries",
                (_total("training_slot_seconds", "training"), _total("evaluation_slot_seconds", "evaluation")),
                "Seconds that slots spent on jobs that have ended.",
                "s",
            ),
            Panel(
                "Deaths and preemptions",
                "timeseries",
                (_total("deaths", "deaths"), _total("preemptions", "preemptions")),
                "Deaths of workers without notice, and workers that were told to leave.",
            ),
        ),
    ),
)
