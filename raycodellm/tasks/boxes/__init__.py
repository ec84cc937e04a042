"""Entity tracking: what is in a box after things were moved, removed and put."""

from raycodellm.tasks.boxes.task import TASK

__all__ = ["TASK", "dataset"]

dataset = TASK.dataset
