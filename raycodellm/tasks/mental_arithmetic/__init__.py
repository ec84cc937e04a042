"""Addition and subtraction of two or three numbers, in signs, in words and in stories."""

from raycodellm.tasks.mental_arithmetic.task import TASK, dataset

__all__ = ["TASK", "dataset"]
