"""Variable tracing in Python: what a variable holds after assignments and swaps."""

from raycodellm.tasks.variables_code.task import TASK, dataset

__all__ = ["TASK", "dataset"]
