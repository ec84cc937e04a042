"""Merges equal branches of a stage tree, so that arms with equal stages take one line and not one each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raycodellm.check.arm_ranges import in_ranges
from raycodellm.tables import StageNode


def merged(nodes: Sequence[StageNode], names: Mapping[str, str], num_seeds: int) -> list[StageNode]:
    """The tree with each group of equal branches as one branch, which says whose it is ("once for each of arms 0–5").

    Branches are equal if their stages have equal names, facts and children: what differs is the mixture or the seed.
    `names`: full name of a stage that stands alone, by key. `num_seeds`: seeds per arm; with 4, trial 7 is of arm 1.
    """
    groups: dict[Any, list[StageNode]] = {}
    for node in nodes:
        groups.setdefault(_shape(node), []).append(node)
    branches = []
    for group in groups.values():
        example = group[0]
        if len(group) == 1:
            children = tuple(merged(example.children, names, num_seeds))
            branches.append(replace(example, name=names[example.key], children=children))
        else:
            facts = f"{example.facts}, {_arms_text(group, num_seeds)}"
            branches.append(replace(example, facts=facts, children=_merged_children(example.children)))
    return branches


def _merged_children(nodes: Sequence[StageNode]) -> tuple[StageNode, ...]:
    """Branches below a merged one: equal ones once, with their number."""
    groups: dict[Any, list[StageNode]] = {}
    for node in nodes:
        groups.setdefault(_shape(node), []).append(node)
    return tuple(
        replace(
            group[0],
            facts=group[0].facts + (f", {len(group)} times" if len(group) > 1 else ""),
            children=_merged_children(group[0].children),
        )
        for group in groups.values()
    )


def _shape(node: StageNode) -> Any:
    """The facts by which two branches look the same."""
    return node.name, node.facts, tuple(sorted(map(_shape, node.children)))


def _arms_text(group: Sequence[StageNode], num_seeds: int) -> str:
    """`once for each of arms 0–5`; with several seeds, or shared stages, how many such branches there are."""
    arms_by_branch = [{trial // num_seeds for trial in node.trials} for node in group]
    arms = set().union(*arms_by_branch)
    one_each = len(group) == len(arms) and all(len(arms_of_one) == 1 for arms_of_one in arms_by_branch)
    if one_each:
        return f"once for each of arms {in_ranges(arms)}"
    return f"{len(group)} times, for arm{'s' * (len(arms) > 1)} {in_ranges(arms)}"
