"""Boxes, the things in them, and the operations that move things; scenarios are drawn at random.

World, operations and splits follow the rules of Kim and Schuster (2023), section 3; nouns and sentences are our own. In
the paper's world, the default, seven boxes hold at most three of a hundred distinct things each, and a scenario is an
initial state and twelve operations. Splits share no signature: the signature of a scenario is the number of things that
each box holds at first.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from dataclasses import dataclass

from raycodellm.tasks.item import SPLITS, unknown_split
from raycodellm.tasks.words import NOUNS

SEED = 7919
"""Fixes the split of the signatures and the test items; another seed is another benchmark."""

State = tuple[frozenset[str], ...]
"""The things that each box holds."""


@dataclass(frozen=True)
class Operation:
    """Moves `objects` from box `source` (None: from outside all boxes) to box `target` (None: out of all boxes)."""

    objects: frozenset[str]
    source: int | None
    target: int | None

    def apply(self, state: State) -> State:
        boxes = list(state)
        if self.source is not None:
            boxes[self.source] -= self.objects
        if self.target is not None:
            boxes[self.target] |= self.objects
        return tuple(boxes)


def contents(objects: frozenset[str]) -> str:
    """A box's content in words, in alphabetical order; `nothing` for an empty box."""
    return " and ".join(f"the {name}" for name in sorted(objects)) or "nothing"


def signature(state: State) -> tuple[int, ...]:
    """Number of things in each box."""
    return tuple(len(box) for box in state)


@dataclass(frozen=True)
class Scenario:
    """An initial state, and the operations that change it."""

    initial: State
    operations: tuple[Operation, ...]

    @functools.cached_property
    def states(self) -> tuple[State, ...]:
        """The state before the first operation and after each one."""
        return tuple(itertools.accumulate(self.operations, lambda state, done: done.apply(state), initial=self.initial))

    @functools.cached_property
    def num_changes(self) -> tuple[tuple[int, ...], ...]:
        """For the state before the first operation and after each one: how many operations changed each box so far."""
        counts = [tuple(0 for _ in self.initial)]
        for before, after in itertools.pairwise(self.states):
            changed = (old != new for old, new in zip(before, after, strict=True))
            counts.append(tuple(count + one for count, one in zip(counts[-1], changed, strict=True)))
        return tuple(counts)

    def history(self, box: int, moment: int) -> list[frozenset[str]]:
        """Contents of the box from the initial one to that after `moment` operations, without immediate repetitions."""
        seen = [state[box] for state in self.states[: moment + 1]]
        return [content for content, _ in itertools.groupby(seen)]

    def changed_last(self, box: int, moment: int) -> list[int]:
        """The boxes that the last operation up to `moment` that changed any box but `box` changed, without `box`."""
        for done in reversed(self.operations[:moment]):
            if others := [other for other in (done.source, done.target) if other not in (None, box)]:
                return others
        return []

    def mentioned(self, moment: int) -> list[str]:
        """Sorted names of all things that the text mentions up to `moment`."""
        return sorted({name for state in self.states[: moment + 1] for box in state for name in box})


@dataclass(frozen=True)
class World:
    """The size of a world and the rules by which scenarios are drawn in it; the defaults are those of the paper."""

    num_boxes: int = 7
    """Boxes, numbered from 0."""
    max_objects: int = 3
    """Most things that one box can hold."""
    mean_objects: int = 2
    """Mean of the Poisson distribution of a box's initial number of things; at most `max_objects` are kept."""
    num_operations: int = 12
    """Operations of a scenario."""
    nouns: tuple[str, ...] = NOUNS
    """All things; each exists once, in a box or outside all boxes."""
    seed: int = SEED
    """Fixes which signatures belong to which split."""

    def signatures(self, split: str) -> frozenset[tuple[int, ...]]:
        """The signatures of one split: all (max_objects + 1)^num_boxes signatures are shuffled once and divided in the
        shares of SPLITS. Raises ValueError for an unknown split."""
        return _signatures(self.num_boxes, self.max_objects, self.seed, split)

    def draw_scenario(self, rng: random.Random, split: str) -> Scenario:
        """Draws an initial state with a signature of `split`, and operations that are possible one after the other."""
        state = initial = self._initial_state(rng, self.signatures(split))
        operations = []
        for _ in range(self.num_operations):
            operations.append(self._draw_operation(rng, state))
            state = operations[-1].apply(state)
        return Scenario(initial, tuple(operations))

    def _initial_state(self, rng: random.Random, allowed: frozenset[tuple[int, ...]]) -> State:
        while True:
            counts = tuple(min(self.max_objects, _poisson(rng, self.mean_objects)) for _ in range(self.num_boxes))
            if counts in allowed and sum(counts) <= len(self.nouns):
                objects = iter(rng.sample(self.nouns, sum(counts)))
                return tuple(frozenset(itertools.islice(objects, count)) for count in counts)

    def _draw_operation(self, rng: random.Random, state: State) -> Operation:
        """Draws kind and box together, and both again while the operation is impossible."""
        while True:
            kind, box = rng.choice(("move", "remove", "put")), rng.randrange(self.num_boxes)
            if kind == "put":
                count = _poisson(rng, max(1, self.mean_objects // 2))
                if 1 <= count <= self.max_objects - len(state[box]):
                    inside = frozenset().union(*state)
                    outside = [name for name in self.nouns if name not in inside]
                    if count <= len(outside):
                        return Operation(frozenset(rng.sample(outside, count)), None, box)
            elif state[box]:
                objects = _some_of(rng, state[box])
                if kind == "remove":
                    return Operation(objects, box, None)
                target = rng.choice([other for other in range(self.num_boxes) if other != box])
                if len(state[target]) + len(objects) <= self.max_objects:
                    return Operation(objects, box, target)


@functools.cache
def _signatures(num_boxes: int, max_objects: int, seed: int, split: str) -> frozenset[tuple[int, ...]]:
    everything = list(itertools.product(range(max_objects + 1), repeat=num_boxes))
    random.Random(seed).shuffle(everything)
    start = 0
    for name, share in SPLITS.items():
        stop = start + round(share * len(everything))
        if name == split:
            return frozenset(everything[start:stop])
        start = stop
    raise unknown_split(split)


def _poisson(rng: random.Random, mean: float) -> int:
    """Knuth's method: multiplies uniform draws until their product falls below exp(-mean)."""
    count, product, limit = 0, rng.random(), math.exp(-mean)
    while product > limit:
        count += 1
        product *= rng.random()
    return count


def _some_of(rng: random.Random, objects: frozenset[str]) -> frozenset[str]:
    """Draws a non-empty part of `objects`, each thing by a fair coin."""
    chosen: list[str] = []
    while not chosen:  # sorted, since a set's order differs between processes
        chosen = [name for name in sorted(objects) if rng.random() < 0.5]
    return frozenset(chosen)
