"""Ray Train's controller and workers of a slot, which carry the slot's name.

The controller's process imports this file, so it imports nothing heavy.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.v2._internal.callbacks.preemption_callback import PreemptionCallback
from ray.train.v2._internal.execution import controller, worker_group
from ray.train.v2._internal.execution.preemption import PreemptionWatcher
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from raycodellm.slots.handle import DispatcherHandle
from raycodellm.slots.head import ON_HEAD

LABEL = "RAYCODELLM_SLOT"
"""Variable of a slot's processes: its sweep and its name, as Ray's dashboard shows them."""
_CAUSE_LENGTH = 300
"""Characters. Ray's account of a dead actor is a page long."""


class RayTrainWorker(worker_group.RayTrainWorker):
    """A worker that Ray's dashboard shows with its slot's name. The class keeps the name that people know it by.

    The list of tasks does not show that Ray Train asks each worker for its state, twice a second.
    """

    def __repr__(self) -> str:
        return os.environ.get(LABEL, "slot")

    @ray.method(enable_task_events=False)
    def poll_status(self) -> Any:
        return super().poll_status()


class SlotWorkerGroup(worker_group.WorkerGroup):
    _worker_cls = RayTrainWorker


class NodesWatchedFromHead(PreemptionCallback):
    """Watches the nodes of a worker group from the head.

    Ray Train places its watcher on any node: with that node a slot elsewhere would lose its notice.
    """

    def after_worker_group_start(self, worker_group: Any) -> None:
        self._stop_watcher()
        ranks: dict[str, list[int]] = {}
        actors: dict[int, Any] = {}
        for worker in worker_group.get_workers():
            rank = worker.distributed_context.world_rank
            ranks.setdefault(worker.metadata.node_id, []).append(rank)
            actors[rank] = worker.actor
        watcher = ray.remote(num_cpus=0, resources=ON_HEAD, max_restarts=-1)(PreemptionWatcher)
        self._watcher = watcher.remote(ranks, self._poll_interval_s, actors)


class TrainController(controller.TrainController):
    worker_group_cls = SlotWorkerGroup

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        callbacks: list[Any] = vars(self)["_worker_group_callbacks_to_propagate"]
        callbacks[:] = [
            NodesWatchedFromHead() if isinstance(callback, PreemptionCallback) else callback for callback in callbacks
        ]

    def __repr__(self) -> str:
        return f"{os.environ.get(LABEL, 'slot')} controller"


class PlacementIsTheRequest(FixedScalingPolicy):
    """Asks no autoscaler for nodes beside the worker group's own placement, which an autoscaler hears of, too.

    Ray Train's further request outlives a run that was killed by 180 s, and together with the requests of the run that
    continues it would start twice the nodes.
    """

    def after_controller_start(self, train_run_context: Any) -> None: ...

    def _maybe_send_resource_request(self) -> None: ...


class News(UserCallback):
    """Tells the dispatcher of dead workers at once, with the cause that Ray knows, and writes reported metrics into the
    controller's log, which the dashboard shows."""

    def __init__(self, slot: str, dispatcher: DispatcherHandle) -> None:
        self.slot, self.dispatcher = slot, dispatcher

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        values = (f"{name} {value:.6g}" for name, value in metrics[0].items() if isinstance(value, int | float))
        logging.getLogger("ray.train").info("%s: %s", metrics[0].get("stage"), ", ".join(values))

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = min(worker_exceptions.items())
        causes = [getattr(exception, "health_check_failure", exception) for exception in worker_exceptions.values()]
        preempted = any(getattr(cause, "preempted", False) for cause in causes)
        self.dispatcher.workers_died.remote(self.slot, f"worker {rank}: {short_cause(error)}", preempted)


def short_cause(error: BaseException) -> str:
    """The error's class and its last line, where Ray names the cause."""
    error = getattr(error, "health_check_failure", error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = f"{type(error).__name__}: {lines[-1]}"
    return text if len(text) <= _CAUSE_LENGTH else f"{text[:_CAUSE_LENGTH]}…"
