"""Which tasks run code that a model wrote, and whether this machine can run it; for those who ask beforehand."""

from __future__ import annotations

from collections.abc import Iterable

from raycodellm.evaluation import sandbox
from raycodellm.evaluation.task_data import task_trees
from raycodellm.evaluation.task_names import Places, TaskNames


def tasks_running_code(names: Iterable[str], places: Places) -> tuple[str, ...]:
    """The tasks, and members of named groups, whose files say that they run the model's code."""
    known = TaskNames(places.include)
    trees = (found for name in names for found in task_trees(name, known))
    running = (name for name, tree in trees if (tree.get("metadata") or {}).get("runs_code") is True)
    return tuple(dict.fromkeys(running))


def isolation_here() -> str:
    """The isolation that this machine gives, for a sentence; or that it gives none, and what becomes of the items."""
    try:
        return f"isolated by {sandbox.find_isolation().kind} on this machine"
    except sandbox.SandboxUnavailable as error:
        return f"not on this machine, where its items would be not_run: {error}"
