"""Reasoning tasks made by programs: an lm-eval task folder, and the training split of the same tasks.

`lm_eval --include_path <this folder> --tasks boxes,logical_deduction` evaluates them without raycodellm's help. Each
task is a folder with a YAML file, and a `task.py` that defines its `TASK`.
"""

from raycodellm.tasks.builtin import BUILTIN, FOLDER, PARTS, TASKS, training_examples

__all__ = ["BUILTIN", "FOLDER", "PARTS", "TASKS", "training_examples"]
