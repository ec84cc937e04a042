"""The Ray Train run of one slot."""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate

from raycodellm.config import Scaling
from raycodellm.file_systems import for_ray
from raycodellm.files import Folder
from raycodellm.slots.controller import LABEL, News, PlacementIsTheRequest, TrainController
from raycodellm.slots.gpus import gpu_callback
from raycodellm.slots.handle import DispatcherHandle
from raycodellm.slots.head import ON_HEAD
from raycodellm.slots.notice import sigterm_callback
from raycodellm.slots.ray_train import nodes_are_watched
from raycodellm.slots.worker import slot_loop


class SlotTrainer(TorchTrainer):
    """A run whose actors carry the slot's name, whose controller lives on the head node, and which leaves nothing.

    Ray Train's own way leaves a detached actor behind, 213 MB on the head, whenever a controller ends without notice.
    That actor frees the workers' places; without it Ray frees them when the driver has ended, too. Another actor, for
    datasets of which a slot has none, would be started with each group of workers.
    """

    def __init__(self, label: str, **settings: Any) -> None:
        """`label`: the sweep's name and the slot's, unique among the living actors of the driver."""
        super().__init__(**settings)
        self.label = label
        self.controller: Any = None
        """Ray Train's actor, once `fit` has begun."""

    def kill(self) -> None:
        """Ends the run from another thread, at any time; `fit` then raises."""
        if self.controller is not None:
            with contextlib.suppress(ray.exceptions.RayError, ValueError):  # it has ended already
                ray.kill(self.controller)

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [
            callback
            for callback in callbacks
            if not isinstance(callback, PlacementGroupCleanerCallback | DatasetsCallback)
        ]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        variables = {
            "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",  # the controller blocks on purpose
            **get_env_vars_to_propagate(),
            LABEL: self.label,
        }
        actor = ray.remote(num_cpus=0, resources=ON_HEAD, name=self.label, runtime_env={"env_vars": variables})
        policy = PlacementIsTheRequest(self.scaling_config)
        self.controller = actor(TrainController).remote(**{**parts, "scaling_policy": policy})
        ray.get(self.controller.run.remote())
        return ray.get(self.controller.get_result.remote())


def slot_trainer(slot: str, dispatcher: DispatcherHandle, scaling: Scaling, folder: Folder) -> SlotTrainer:
    """The run of the slot with this name. `folder`: the sweep's run folder."""
    gpus = scaling.gpus_per_worker
    resources = {"CPU": scaling.cpus_per_worker, **({"GPU": gpus} if gpus else {})}
    label = f"{folder.name} {slot}"
    return SlotTrainer(
        label,
        train_loop_per_worker=slot_loop,
        train_loop_config={
            "dispatcher": dispatcher,
            "slot": slot,
            "sweep": folder.uri,
            "start_folder": os.getcwd(),
            "cpus_per_worker": scaling.cpus_per_worker,
            "gpus_per_worker": scaling.gpus_per_worker,
            "fresh_workers": scaling.fresh_workers,
            "nodes_are_watched": nodes_are_watched(),
        },
        scaling_config=ScalingConfig(num_workers=scaling.workers, use_gpu=gpus > 0, resources_per_worker=resources),
        run_config=RunConfig(
            name=f"{slot.replace(' ', '-')}-{uuid.uuid4().hex[:8]}",  # Ray Train continues a run of the same name
            **for_ray((folder / "slots").uri),
            # The dispatcher counts how often a job's workers may die. A slot outlives many jobs; -1 means no limit.
            failure_config=FailureConfig(max_failures=scaling.max_failures, max_preemption_failures=-1),
            callbacks=[
                News(slot, dispatcher),
                sigterm_callback(),
                *([gpu_callback(slot, dispatcher)] if gpus else []),
            ],
            worker_runtime_env={"env_vars": {LABEL: label}},
        ),
    )
