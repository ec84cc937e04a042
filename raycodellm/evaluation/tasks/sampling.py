"""How many programs a model writes for each task that runs code, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from raycodellm.config import Evaluation

if TYPE_CHECKING:
    from lm_eval.api.task import Task

TOP_P = 0.95
"""Nucleus of the sampled tokens, as in Chen et al. (2021)."""
ALL_TOKENS = 0
"""`top_k` that leaves no token of the nucleus out; transformers would take the 50 likeliest alone."""
USUAL_TEMPERATURE = 0.8
"""Temperature of several samples where the settings name none: that of Chen et al. (2021) for pass@100."""


class Sampling(NamedTuple):
    """The programs per item of a task that runs code."""

    samples: int = 1
    temperature: float = 0.0
    """0 for greedy decoding."""

    @classmethod
    def of(cls, settings: Evaluation) -> Sampling:
        usual = USUAL_TEMPERATURE if settings.samples > 1 else 0.0
        return cls(settings.samples, usual if settings.temperature is None else settings.temperature)


GREEDY = Sampling()


def runs_code(task: Task) -> bool:
    """True if the task's file says that it runs the model's code in the sandbox."""
    metadata = task.config.metadata
    return isinstance(metadata, Mapping) and metadata.get("runs_code") is True


def item_limit(task: Task, limit: int | None) -> int | None:
    """The number of items of the task to evaluate under the settings' `limit`; None for all, also of a task whose file
    says that its own settings decide how many it has."""
    metadata = task.config.metadata
    return None if isinstance(metadata, Mapping) and metadata.get("own_length") is True else limit


def set_sampling(task: Task, sampling: Sampling) -> None:
    """Lets a task that runs code ask for that many programs per item. The greedy default leaves a task as its file
    has it."""
    if runs_code(task) and sampling != GREEDY:
        sampled_settings = {"do_sample": True, "temperature": sampling.temperature, "top_p": TOP_P, "top_k": ALL_TOKENS}
        greedy_settings = {"do_sample": False}
        task.config.generation_kwargs = {
            **task.config.generation_kwargs,
            **(sampled_settings if sampling.temperature > 0 else greedy_settings),
        }
        task.set_config("repeats", sampling.samples)
