"""The contents of the pretrained models and evaluation tasks that a sweep names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from raycodellm import config, identity
from raycodellm import model as models
from raycodellm.config import Model, Sweep, SweepFile
from raycodellm.identity import Contents


def contents_of(sweeps: Iterable[Sweep]) -> Contents:
    """The content of every pretrained model and every evaluation task that the sweeps name.

    Raises UserError for a model or a task file that does not exist. lm-eval's own tasks are looked up in its index.
    """
    from raycodellm import evaluation

    sweeps = list(sweeps)
    pretrained = dict.fromkeys(sweep.model.pretrained for sweep in sweeps if sweep.model.pretrained is not None)
    asked: dict[evaluation.Places, dict[str, None]] = {}
    for settings in (sweep.evaluation for sweep in sweeps):
        asked.setdefault(evaluation.Places.of(settings), {}).update(dict.fromkeys(evaluation.asked_tasks(settings)))
    return Contents(
        models={name: identity.pretrained_content(name) for name in pretrained},
        tasks={
            name: content
            for places, names in asked.items()
            for name, content in evaluation.task_contents(names, places).items()
        },
        lm_eval=evaluation.lm_eval_version(),
    )


def contents_of_file(file: SweepFile) -> Contents:
    """The contents of everything that any trial of the sweep may name."""
    return contents_of(config.resolve(file, point) for point in file.probe_points())


def model_content(model: Model, contents: Contents) -> list[Any]:
    """The identity of a model: a preset's shape, a configuration, or the content of a pretrained model."""
    if model.pretrained is not None:
        return ["pretrained", contents.models[model.pretrained]]
    if model.preset is not None:
        return ["preset", asdict(models.PRESETS[model.preset])]
    return ["config", model.config]


def pinned_model(model: Model, contents: Contents) -> Model:
    """The model as workers load it: a model of the hub at the commit that the driver found."""
    kind, *found = contents.models[model.pretrained] if model.pretrained is not None else ("folder",)
    return model.model_copy(update={"pretrained": "@".join(found)}) if kind == "hub" else model
