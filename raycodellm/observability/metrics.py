"""The table of metrics. The gauges, the Grafana board and the table in docs/observability.md are made from it."""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "raycodellm_"
"""Beginning of all names. In Prometheus `ray_` stands before it, which Ray adds."""
TRIAL = ("sweep", "trial", "arm", "code_ratio", "schedule")
STAGE = (*TRIAL, "stage")
LABELS = {
    "sweep": "the sweep's name",
    "trial": "the trial's number, `0003`; of a stage that trials share, the first of them",
    "arm": "the trial's arm",
    "code_ratio": "planned code ratio of the stage; of a trial, that of the first stage that searches one",
    "schedule": "the schedule's shape; `weights` or `phases` where the stage's mixture is given so",
    "stage": "the stage's name",
    "source": "the source's name",
    "task": "task and metric of an evaluation: `mean/bpb`, `boxes/acc`",
    "state": "of a trial: complete, failed, pruned, running, waiting; of a slot: starting, idle, working, lost",
}
"""Labels and their meaning."""


@dataclass(frozen=True)
class Metric:
    """A gauge with its labels."""

    name: str
    unit: str
    """`ratio` is a share from 0 to 1; empty for a score, whose unit is its task's."""
    labels: tuple[str, ...]
    description: str
    ends_at: float | None = None
    """The last value of a series that is over, such as the speed of an ended stage. Then, and at once where this is
    None, the line ends: Ray drops a gauge that nobody sets again."""

    @property
    def full_name(self) -> str:
        """The name under which `ray.util.metrics` knows the gauge."""
        return PREFIX + self.name

    @property
    def prometheus_name(self) -> str:
        return f"ray_{self.full_name}"


METRICS = (
    Metric("trials", "trials", ("sweep", "state"), "Trials of the sweep in this state.", 0.0),
    Metric("trials_planned", "trials", ("sweep",), "Trials of the whole sweep."),
    Metric("trial_state", "", (*TRIAL, "state"), "1 for the state that the trial is in, 0 for earlier ones.", 0.0),
    Metric(
        "score",
        "",
        (*TRIAL, "task"),
        "A complete trial's metrics of each task, `<task>/chance` included.",
    ),
    Metric("objective", "", (*TRIAL, "task"), "The metrics of a complete trial that the search optimises."),
    Metric("best_objective", "", ("sweep", "task"), "The best value of each objective among complete trials."),
    Metric("trial_tokens", "tokens", TRIAL, "Tokens trained along an ended trial's stages, shared stages included."),
    Metric("trial_source_tokens", "tokens", (*TRIAL, "source"), "The same, of each source."),
    Metric("trial_code_ratio", "ratio", TRIAL, "Share of code among all tokens of an ended trial, as trained."),
    Metric("device_seconds", "seconds", TRIAL, "Seconds of an ended trial times its workers, shared stages included."),
    Metric("trial_deaths", "deaths", TRIAL, "Deaths of workers under an ended trial's jobs."),
    Metric("loss", "nats per token", STAGE, "Training loss of the newest step."),
    Metric("held_out_bpb", "bits per byte", (*STAGE, "source"), "Bits per byte of held-out text, when last measured."),
    Metric("tokens_per_second", "tokens per second", STAGE, "Speed of training, over all workers.", 0.0),
    Metric("mfu", "ratio", STAGE, "Share of the devices' best FLOP/s that the training uses.", 0.0),
    Metric("code_ratio_planned", "ratio", STAGE, "Share of code that the schedule plans for all tokens until now."),
    Metric("code_ratio_real", "ratio", STAGE, "Share of code among all tokens trained until now."),
    Metric("data_wait_share", "ratio", STAGE, "Share of the steps' time that was spent waiting for data.", 0.0),
    Metric("stage_progress", "ratio", STAGE, "Share of the stage's steps that are trained."),
    Metric("slots", "slots", ("sweep", "state"), "Worker groups in this state.", 0.0),
    Metric("nodes", "nodes", ("sweep",), "Living nodes of the cluster."),
    Metric("deaths", "deaths", ("sweep",), "Deaths of workers under a job without notice, since the driver started."),
    Metric(
        "preemptions", "preemptions", ("sweep",), "Jobs whose workers were told to leave, since the driver started."
    ),
    Metric(
        "tokens_saved",
        "tokens",
        ("sweep",),
        "Tokens that ended trials did not train again, because trials of this sweep share stages or steps.",
    ),
    Metric("tokens_stopped", "tokens", ("sweep",), "Tokens of their stages that trials stopped early did not ask for."),
    Metric(
        "training_slot_seconds", "seconds", ("sweep",), "Seconds of slots on ended stages, since the driver started."
    ),
    Metric(
        "evaluation_slot_seconds",
        "seconds",
        ("sweep",),
        "Seconds of slots on ended evaluations, since the driver started.",
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}
