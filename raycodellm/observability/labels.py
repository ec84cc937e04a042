"""The name of a trial where people look for it: its number, its arm, and the mixture that it tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycodellm import config
from raycodellm.config import CODE_KINDS, Stage, Sweep, SweepFile
from raycodellm.tables import formats
from raycodellm.tables.trials import trial_name


@dataclass(frozen=True)
class StageLabels:
    """The labels of a stage's metrics, beside the trial's."""

    stage: str
    code_ratio: str
    schedule: str


@dataclass(frozen=True)
class TrialLabels:
    """The labels of a trial's metrics."""

    sweep: str
    trial: str
    arm: str
    code_ratio: str
    schedule: str
    stages: tuple[StageLabels, ...]
    settings: str
    """The mixture and the other searched parameters, in words: `code_ratio 0.396 constant`."""

    def of_trial(self) -> dict[str, str]:
        names = ("sweep", "trial", "arm", "code_ratio", "schedule")
        return {name: getattr(self, name) for name in names}

    def of_stage(self, index: int) -> dict[str, str]:
        """Labels of the trial's stage number `index`, counted from 0."""
        stage = self.stages[index]
        stage_labels = {"stage": stage.stage, "code_ratio": stage.code_ratio, "schedule": stage.schedule}
        return {**self.of_trial(), **stage_labels}


def trial_labels(file: SweepFile, number: int, arm: int, params: Mapping[str, Any]) -> TrialLabels:
    """The labels of the trial with these parameters (by name)."""
    sweep = config.resolve(file, params)
    main_stage = _main_stage(sweep, params)
    code_ratio = "" if main_stage is None else formats.value(planned_code_ratio(sweep, main_stage))
    schedule = "" if main_stage is None else shape(main_stage)
    mixture = () if main_stage is None else _mixture_names(main_stage)
    others = {name: value for name, value in params.items() if name not in mixture}
    words = [] if main_stage is None else [f"code_ratio {code_ratio} {schedule}"]
    words += [f"{name} {formats.value(value)}" for name, value in others.items()]
    return TrialLabels(
        sweep=sweep.name,
        trial=trial_name(number),
        arm=str(arm),
        code_ratio=code_ratio,
        schedule=schedule,
        stages=tuple(
            StageLabels(stage.name, formats.value(planned_code_ratio(sweep, stage)), shape(stage))
            for stage in sweep.trained_stages
        ),
        settings=", ".join(words),
    )


def _main_stage(sweep: Sweep, params: Mapping[str, Any]) -> Stage | None:
    """The first stage whose mixture is searched; else the first; None where nothing is trained."""
    stages = sweep.trained_stages
    searched = (stage for stage in stages if any(name in params for name in _mixture_names(stage)))
    return next(searched, next(iter(stages), None))


def _mixture_names(stage: Stage) -> tuple[str, str]:
    return f"{stage.name}.code_ratio", f"{stage.name}.schedule"


def planned_code_ratio(sweep: Sweep, stage: Stage) -> float:
    """Share of the stage's tokens that its mixture plans for sources of a code kind, 0 to 1."""
    if stage.code_ratio is not None:
        return stage.code_ratio
    parts = (
        [(1.0, stage.weights)]
        if stage.weights is not None
        else [(phase.share, phase.weights) for phase in stage.phases or ()]
    )
    return sum(
        share * weight
        for share, weights in parts
        for name, weight in weights.items()
        if sweep.sources[name].kind in CODE_KINDS
    )


def shape(stage: Stage) -> str:
    """Name of the schedule; `weights` or `phases` where the mixture is given so."""
    if stage.code_ratio is not None:
        return stage.schedule or "constant"
    return "weights" if stage.weights is not None else "phases"
