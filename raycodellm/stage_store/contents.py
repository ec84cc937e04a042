"""The contents of the pretrained models and evaluation tasks that a sweep names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from raycodellm import config, identity
from raycodellm import model as models
from raycodellm.config import Evaluation, Model, Sweep, SweepFile, Unreachable
from raycodellm.identity import Contents


def contents_of(sweeps: Iterable[Sweep], *, elsewhere: bool = False) -> Contents:
    """The content of every pretrained model and every evaluation task that the sweeps name.

    `elsewhere`: the sweeps are for another machine, so that what this one does not reach counts as being there.

    Raises UserError for a model or a task file that does not exist. lm-eval's own tasks are looked up in its index.
    """
    sweeps = list(sweeps)
    contents = contents_of_tasks((sweep.evaluation for sweep in sweeps), elsewhere=elsewhere)
    models = {name: _content_of(name, look, elsewhere) for name, look in _pretrained(sweeps).items()}
    addresses = {name: identity.address_of(name, content) for name, content in models.items()}
    return replace(contents, models=models, addresses=addresses)


_Look = Callable[[str], list[Any]]


def _pretrained(sweeps: Iterable[Sweep]) -> dict[str, _Look]:
    """Maps each pretrained model to what looks up its content: a tokenizer is part of it only where a model is given to
    be evaluated, since a stage has the sweep's."""
    look_up_given = partial(identity.evaluated_content, key="model.pretrained")
    return {
        sweep.model.pretrained: identity.pretrained_content if sweep.stages else look_up_given
        for sweep in sweeps
        if sweep.model.pretrained is not None
    }


def _content_of(name: str, look: _Look, elsewhere: bool) -> list[Any]:
    """The content of a pretrained model; for one that only another machine may reach, its name."""
    try:
        return look(name)
    except Unreachable:
        if not elsewhere:
            raise
        return ["hub", name]


def contents_of_tasks(settings: Iterable[Evaluation], *, elsewhere: bool = False) -> Contents:
    """The content of every task that the settings ask for. They look for tasks in the same places: these cannot be
    searched."""
    from raycodellm import evaluation

    units: dict[str, tuple[str, ...]] = {}
    tasks: dict[str, Any] = {}
    running_code: dict[str, None] = {}
    commits: dict[str, str] = {}
    for evaluation_settings in dict.fromkeys(settings):
        tasks_by_unit = evaluation.asked_units(evaluation_settings)
        units |= tasks_by_unit
        new_tasks = dict.fromkeys(
            task for unit_tasks in tasks_by_unit.values() for task in unit_tasks if task not in tasks
        )
        tasks |= evaluation.task_contents(new_tasks, evaluation.Places.of(evaluation_settings), elsewhere=elsewhere)
        commits |= evaluation.data_commits(new_tasks, evaluation.Places.of(evaluation_settings), elsewhere=elsewhere)
        # Read here: a trial's process works in another folder, or on a node without the user's files of tasks.
        running_code |= dict.fromkeys(
            evaluation.units_running_code(
                (task for unit_tasks in tasks_by_unit.values() for task in unit_tasks), evaluation_settings
            )
        )
    return Contents(
        tasks=tasks,
        units=units,
        lm_eval=evaluation.lm_eval_version(),
        running_code=tuple(running_code),
        data_commits=commits,
    )


def contents_of_file(file: SweepFile, *, elsewhere: bool = False) -> Contents:
    """The contents of everything that any trial of the sweep may name; `elsewhere` as in `contents_of`."""
    return contents_of((config.resolve(file, point) for point in file.probe_points()), elsewhere=elsewhere)


def model_content(model: Model, contents: Contents) -> list[Any]:
    """The identity of a model: a preset's shape, a configuration, or the content of a pretrained model."""
    if model.pretrained is not None:
        return ["pretrained", contents.models[model.pretrained]]
    if model.preset is not None:
        return ["preset", asdict(models.PRESETS[model.preset]), *models.parametrization_content(model)]
    return ["config", model.config]


def pinned_model(model: Model, contents: Contents) -> Model:
    """The model as workers load it: a model of the hub at the commit that the driver found, a folder by its URI."""
    if model.pretrained is None:
        return model
    address = contents.addresses.get(model.pretrained, model.pretrained)
    return model.model_copy(update={"pretrained": address})
