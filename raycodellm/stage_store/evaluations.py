"""The evaluation of a model as a job: the tasks that it is scored on, and the identity of each task's scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raycodellm import identity
from raycodellm.config import Evaluation, Model
from raycodellm.files import Folder
from raycodellm.identity import Contents
from raycodellm.records import EVALUATION, GIVEN_MODELS, EvaluationJob, HeldOutSource, StageJob, task_key

EVALUATION_VERSION = 3
"""Raised whenever a change of the evaluation code changes the score of an equal model."""


def evaluation_of_stage(
    last: StageJob, settings: Evaluation, contents: Contents, held_out: tuple[HeldOutSource, ...] = ()
) -> EvaluationJob:
    """The evaluation of the model that a trial's last stage leaves. `held_out`: the documents of the sweep's sources
    that no stage trains on."""
    stage = Folder(last.folder)
    job = evaluation_job(last.identity, stage / "model", stage / EVALUATION, settings, contents, held_out)
    return replace(job, parent=last.key)


def evaluation_of_given(
    model: Model,
    storage: Folder,
    settings: Evaluation,
    contents: Contents,
    held_out: tuple[HeldOutSource, ...] = (),
) -> EvaluationJob:
    """The evaluation of a model that nothing trains. Its results lie in a folder of the storage that its content names,
    never in the model's own folder: every sweep of the storage finds them, wherever the model lies."""
    name = str(model.pretrained)
    content = contents.models[name]
    model_identity = identity.given_model_identity(content)
    folder = storage / GIVEN_MODELS / model_identity / EVALUATION
    return evaluation_job(model_identity, contents.addresses[name], folder, settings, contents, held_out)


def evaluation_job(
    model_identity: Any,
    model: Folder | str,
    folder: Folder,
    settings: Evaluation,
    contents: Contents,
    held_out: tuple[HeldOutSource, ...] = (),
) -> EvaluationJob:
    """The evaluation of the model at `model`. `model_identity`: identity of the stage that trained the model or of the
    given model, or its content. `folder`: for the tasks' results."""
    from raycodellm import evaluation

    places = evaluation.Places.of(settings, held_out)
    tasks_by_name = {name: contents.units[name] for name in evaluation.asked_tasks(settings)}
    identities = {
        task: identity.task_identity(
            model_identity,
            settings,
            [
                contents.tasks[task],
                *evaluation.held_out_content(task, places.texts),
                *(evaluation.sampling_content(settings) if task in contents.running_code else ()),
            ],
            contents.lm_eval,
            EVALUATION_VERSION,
        )
        for tasks in tasks_by_name.values()
        for task in tasks
    }
    return EvaluationJob(
        identity=identity.evaluation_identity(
            settings, {name: [identities[task] for task in tasks] for name, tasks in tasks_by_name.items()}
        ),
        folder=folder.uri,
        model=str(model),
        evaluation=settings,
        parent="",
        held_out=held_out,
        asked=tasks_by_name,
        keys={task: task_key(task, task_identity) for task, task_identity in identities.items()},
        data_commits=contents.data_commits,
    )
