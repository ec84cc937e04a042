"""Ordering puzzles: three to six things in a row, clues that fix their order, and a question for one place."""

from raycodellm.tasks.logical_deduction.task import TASK, dataset

__all__ = ["TASK", "dataset"]
