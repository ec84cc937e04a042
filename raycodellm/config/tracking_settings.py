"""Other tools that are told of the trials."""

from __future__ import annotations

from raycodellm.config.field_types import Frozen


class Tracking(Frozen):
    """Other tools that are told of each trial's settings, its stages' metrics and its scores when it has ended; never
    part of what is computed. Each works through Ray Tune's own callback for it."""

    mlflow: str | None = None
    """Address of an MLflow tracking server, or `file:` and a folder: the sweep becomes an experiment, each trial a run.
    Needs `pip install mlflow`."""
    wandb: str | None = None
    """Project at Weights & Biases: the sweep becomes a group, each trial a run. Needs `pip install wandb`, and the key
    in WANDB_API_KEY."""
    tensorboard: bool = False
    """Writes event files for TensorBoard into the run folder, `tensorboard/<trial>/`."""
