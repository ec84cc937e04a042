"""The solved examples that tasks' own files ask for, which `evaluation.few_shot` decides here."""

from __future__ import annotations

from pathlib import Path

from raycodellm.config import Evaluation
from raycodellm.evaluation.tasks.names import TaskNames, is_path
from raycodellm.evaluation.tasks.suites import asked_tasks
from raycodellm.evaluation.tasks.trees import merged_tree


def overruled_examples(settings: Evaluation) -> dict[str, int]:
    """Maps each asked task whose file names another number of examples than it is given to that number. A file's 0
    stands, whatever `few_shot` says, as in lm-eval. Members of groups are not looked at. Raises UserError for a file
    that cannot be read. Empty where `few_shot` leaves the number to the tasks."""
    if settings.few_shot is None:
        return {}
    task_names = TaskNames(settings.include)
    overruled = {}
    for name in asked_tasks(settings):
        named_task = None if is_path(name) else task_names.find(name)
        file = Path(name).expanduser() if is_path(name) else named_task and named_task.file
        num_examples = merged_tree(file).get("num_fewshot") if file else None
        if isinstance(num_examples, int) and num_examples not in (0, settings.few_shot):
            overruled[name] = num_examples
    return overruled


def overruled_lines(settings: Evaluation) -> list[str]:
    """A line for each task of `overruled_examples`."""
    return [
        f"{name}: {settings.few_shot} examples before each item, as evaluation.few_shot says; its own file asks for "
        f"{num_examples}, as lm-eval's command would show"
        for name, num_examples in overruled_examples(settings).items()
    ]
