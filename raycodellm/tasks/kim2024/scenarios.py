"""Scenarios of the task by split, and the moments in them at which a model is asked.

World, operations and splits are those of `tasks/boxes/world.py`, which follows Kim and Schuster (2023). A scenario is
an initial state and twelve operations. After each of 0 to 12 operations all seven boxes are asked for.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from raycodellm.tasks.boxes.world import Scenario, State, World
from raycodellm.tasks.item import unknown_split

WORLD = World()
"""The world of the papers."""

NUM_SCENARIOS = {"train": 990, "validation": 220, "test": 990}
"""Maps each split to its number of scenarios."""
SEED = 2408
"""Fixes the scenarios of all splits; another seed is another benchmark."""


@functools.cache
def scenarios(split: str, seed: int = SEED) -> tuple[Scenario, ...]:
    """The split's scenarios; no initial state comes twice, and no signature is in two splits. Raises ValueError for an
    unknown split. Equal seeds give equal scenarios on any machine."""
    if split not in NUM_SCENARIOS:
        raise unknown_split(split)
    rng = random.Random(f"kim2024/{split}/{seed}")
    found: dict[State, Scenario] = {}
    while len(found) < NUM_SCENARIOS[split]:
        scenario = WORLD.draw_scenario(rng, split)
        found.setdefault(scenario.initial, scenario)
    return tuple(found.values())


@dataclass(frozen=True)
class Moment:
    """A scenario after some of its operations."""

    scenario: int
    """Index in `scenarios(split)`."""
    num_told: int
    """Operations told so far, 0 to 12."""
    changes: tuple[int, ...]
    """Number of the operations told that changed each box: the item's number of operations."""


def moments(split: str, seed: int = SEED) -> Iterator[Moment]:
    """All moments of the split's scenarios in order, 13 per scenario."""
    for index, scenario in enumerate(scenarios(split, seed)):
        for num_told, changes in enumerate(scenario.num_changes):
            yield Moment(index, num_told, changes)
