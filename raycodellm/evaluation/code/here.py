"""Which tasks run code of the model, how its programs are drawn, and whether this machine can run them; known without
loading a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raycodellm.config import Evaluation
from raycodellm.evaluation import sandbox
from raycodellm.evaluation.tasks.data_of_tasks import task_trees
from raycodellm.evaluation.tasks.names import Places, TaskNames
from raycodellm.evaluation.tasks.sampling import GREEDY, Sampling


def tasks_running_code(names: Iterable[str], places: Places) -> tuple[str, ...]:
    """The tasks, and members of named groups, whose files say that they run the model's code."""
    task_names = TaskNames(places.include)
    trees = (name_and_tree for name in names for name_and_tree in task_trees(name, task_names))
    running = (name for name, tree in trees if _runs_code(tree.get("metadata")))
    return tuple(dict.fromkeys(running))


def _runs_code(metadata: Any) -> bool:
    """`metadata`: of a task's file; a list in files of older versions of lm-eval."""
    return isinstance(metadata, Mapping) and metadata.get("runs_code") is True


def units_running_code(units: Iterable[str], settings: Evaluation) -> tuple[str, ...]:
    """The tasks of `units` that run the model's code, themselves or in a member; none where the settings ask for one
    greedy program, since then no task's identity says how programs are drawn."""
    if Sampling.of(settings) == GREEDY:
        return ()
    places = Places.of(settings)
    return tuple(unit for unit in units if tasks_running_code([unit], places))


def sampling_content(settings: Evaluation) -> list[Any]:
    """JSON values that identify how programs are drawn; empty for one greedy program."""
    sampling = Sampling.of(settings)
    return [] if sampling == GREEDY else [["programs", *sampling]]


def isolation_here() -> str:
    """The isolation that this machine gives, for a sentence; or that it gives none, and what becomes of the items."""
    try:
        return f"isolated by {sandbox.find_isolation().kind} on this machine"
    except sandbox.SandboxUnavailable as error:
        return f"not on this machine, where its items would be not_run: {error}"
