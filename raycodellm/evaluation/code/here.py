"""Which tasks run code of the model, how its programs are drawn, and whether this machine can run them; known without
loading a task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raycodellm.config import Evaluation
from raycodellm.evaluation import sandbox
from raycodellm.evaluation.tasks.data_of_tasks import task_trees
from raycodellm.evaluation.tasks.names import Places, TaskNames
from raycodellm.evaluation.tasks.sampling import GREEDY, Sampling


def tasks_running_code(names: Iterable[str], places: Places) -> tuple[str, ...]:
    """The tasks, and members of named groups, whose files say that they run the model's code."""
    known = TaskNames(places.include)
    trees = (found for name in names for found in task_trees(name, known))
    running = (name for name, tree in trees if (tree.get("metadata") or {}).get("runs_code") is True)
    return tuple(dict.fromkeys(running))


def sampling_content(task: str, settings: Evaluation, places: Places) -> list[Any]:
    """JSON values that identify how programs are drawn; empty for one greedy program, and for a task without code."""
    sampling = Sampling.of(settings)
    return [] if sampling == GREEDY or not tasks_running_code([task], places) else [["programs", *sampling]]


def isolation_here() -> str:
    """The isolation that this machine gives, for a sentence; or that it gives none, and what becomes of the items."""
    try:
        return f"isolated by {sandbox.find_isolation().kind} on this machine"
    except sandbox.SandboxUnavailable as error:
        return f"not on this machine, where its items would be not_run: {error}"
