"""Sorting: which number or word of a list stands at a place of the sorted list."""

from raycodellm.tasks.sorting.task import TASK, dataset

__all__ = ["TASK", "dataset"]
