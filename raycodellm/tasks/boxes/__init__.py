"""Entity tracking: what is in a box after things were moved, removed and put."""

from raycodellm.tasks.boxes.task import TASK, dataset

__all__ = ["TASK", "dataset"]
