"""Matching brackets: which of the open brackets closes next."""

from raycodellm.tasks.brackets.task import TASK, dataset

__all__ = ["TASK", "dataset"]
