"""Variable tracing in words: what a thing shows after numbers were copied and swapped."""

from raycodellm.tasks.variables_prose.task import TASK, dataset

__all__ = ["TASK", "dataset"]
