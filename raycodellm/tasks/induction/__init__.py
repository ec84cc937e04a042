"""Copying a pattern: a row of words begins again, and the next word follows."""

from raycodellm.tasks.induction.task import TASK, dataset

__all__ = ["TASK", "dataset"]
