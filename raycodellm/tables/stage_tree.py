"""The prefix tree of the trials' chains of stages, in which a stage that several trials share stands once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StageNode:
    """A stage in the stage tree."""

    name: str
    facts: str
    children: tuple[StageNode, ...]
    key: str = ""
    """The stage's key, as in the chains that the tree was made of."""
    trials: tuple[int, ...] = ()
    """Numbers of the trials that share the stage."""


@dataclass
class _Branch:
    trials: list[int] = field(default_factory=list)
    below: dict[str, _Branch] = field(default_factory=dict)


def stage_tree(
    chains: Iterable[tuple[int, Sequence[str]]], describe: Callable[[str, Sequence[int]], tuple[str, str]]
) -> tuple[StageNode, ...]:
    """The tree of `chains`, each a trial's number with its stages' keys in order.

    `describe` gives the name and the facts of a stage from its key and the numbers of the trials that share it.
    """
    root = _Branch()
    for trial, keys in chains:
        branch = root
        for key in keys:
            branch = branch.below.setdefault(key, _Branch())
            branch.trials.append(trial)
    return _nodes(root, describe)


def _nodes(branch: _Branch, describe: Callable[[str, Sequence[int]], tuple[str, str]]) -> tuple[StageNode, ...]:
    return tuple(
        StageNode(*describe(key, below.trials), _nodes(below, describe), key, tuple(below.trials))
        for key, below in branch.below.items()
    )
