"""MLflow, Weights & Biases and TensorBoard, through Ray Tune's own callbacks for them."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from raycodellm.config import Sweep, Tracking, UserError
from raycodellm.files import Folder
from raycodellm.stage_store import Chain
from raycodellm.tables.trials import trial_name

logger = logging.getLogger(__name__)

PACKAGES = {"mlflow": "mlflow", "wandb": "wandb", "tensorboard": "tensorboardX"}
"""Setting under `tracking` to the package that it needs."""
_HOOKS = ("setup", "on_trial_start", "on_trial_result", "on_trial_complete", "on_trial_error", "on_experiment_end")


def is_tracked(tracking: Tracking) -> bool:
    return any(getattr(tracking, tool) for tool in PACKAGES)


def require_packages(sweep: Sweep) -> None:
    """Raises `UserError` where a tool of `tracking` is not installed."""
    for tool, package in PACKAGES.items():
        if getattr(sweep.tracking, tool) and importlib.util.find_spec(package) is None:
            raise UserError(f"tracking.{tool}: needs the package {package}; run: pip install {package}")


def callbacks(sweep: Sweep, folder: Folder) -> list[Any]:
    """Ray Tune's callbacks for the sweep's tools. `folder`: the run folder."""
    tool_callbacks = []
    if sweep.tracking.mlflow:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        tool_callbacks.append(MLflowLoggerCallback(tracking_uri=sweep.tracking.mlflow, experiment_name=sweep.name))
    if sweep.tracking.wandb:
        from ray.air.integrations.wandb import WandbLoggerCallback

        # In an actor, which has the environment of its node and not this process's.
        mode = os.environ.get("WANDB_MODE")
        tool_callbacks.append(WandbLoggerCallback(project=sweep.tracking.wandb, group=sweep.name, mode=mode))
    if sweep.tracking.tensorboard:
        tool_callbacks.append(_tensorboard(folder / "tensorboard"))
    return [_harmless(callback) for callback in tool_callbacks]


def _tensorboard(folder: Folder) -> Any:
    from ray.tune.logger import TBXLoggerCallback

    class IntoRunFolder(TBXLoggerCallback):
        """Writes into the run folder. Ray Tune's own folder, where the files would lie, ends with the run."""

        def log_trial_start(self, trial: Any) -> None:
            trial_folder = folder / trial_name(trial.config["number"])
            path = trial_folder.uri if trial_folder.local is None else str(trial_folder.local)
            self._trial_writer[trial] = self._summary_writer_cls(path, flush_secs=10)
            self._trial_result[trial] = {}

    return IntoRunFolder()


def _harmless(callback: Any) -> Any:
    """The callback, whose failures (a server that does not answer, say) are logged and end no sweep."""
    from ray import tune

    class Harmless(tune.Callback):
        def __getattribute__(self, name: str) -> Any:
            if name in _HOOKS:
                return _logged(getattr(callback, name))
            return super().__getattribute__(name)

    return Harmless()


def _logged(hook: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> None:
        try:
            hook(*arguments, **keywords)
        except Exception:
            logger.warning("tracking: %s failed", getattr(hook, "__qualname__", hook), exc_info=True)

    return call


def curves(chain: Chain) -> Iterator[dict[str, float]]:
    """The rows of the metrics of a trial's finished stages, in order: `pretrain/loss`, `pretrain/tokens`, …"""
    for job in chain.stages:
        folder = Folder(job.folder)
        if folder.exists("metrics.parquet"):
            for row in folder.read_table("metrics.parquet").to_pylist():
                yield {f"{job.stage.name}/{name}": value for name, value in row.items() if value is not None}
