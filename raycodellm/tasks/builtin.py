"""The generated tasks of this folder, and the training examples that they give."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from raycodellm.tasks.generated import GeneratedTask

FOLDER = Path(__file__).parent
"""lm-eval's `include_path` of these tasks."""


def _generated_tasks() -> tuple[GeneratedTask, ...]:
    """The `TASK` of each folder that has a file `task.py`, in alphabetical order."""
    names = sorted(path.parent.name for path in FOLDER.glob("*/task.py"))
    return tuple(importlib.import_module(f"raycodellm.tasks.{name}.task").TASK for name in names)


TASKS = _generated_tasks()
BUILTIN = tuple(task.name for task in TASKS)
"""Names of the generated tasks."""
PARTS = {task.name: task.parts for task in TASKS}
"""Maps each generated task to its parts."""


def training_examples(seed: int, num_examples: int | None = None) -> Iterator[tuple[str, str]]:
    """(prompt, response) pairs from the tasks' training splits, tasks by turns; endless when `num_examples` is None.

    The prompt is the text that evaluation shows a model, and the response begins with the space between prompt and
    answer, so that prompt + response is the text whose likelihood evaluation measures. What a task deals out to its
    splits (box signatures, structures of puzzles and programs, sums …) is never both in these pairs and evaluated.
    Equal seeds give equal examples on any machine, whatever `num_examples` is.
    """
    items = (task.generate("train", seed) for task in TASKS)
    pairs = (item.training_pair() for turn in zip(*items, strict=True) for item, _ in turn)
    return itertools.islice(pairs, num_examples)
