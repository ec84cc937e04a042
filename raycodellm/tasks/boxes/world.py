"""Seven boxes, the things in them, and the operations that move things; scenarios are drawn at random.

World, operations and splits follow the rules of Kim and Schuster (2023); nouns and sentences are our own. Seven boxes
hold at most three of a hundred distinct things each. A scenario is an initial state and twelve operations. Splits share
no signature: the signature of a scenario is the number of things that each box holds at first.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from dataclasses import dataclass

from raycodellm.tasks.item import SPLITS, unknown_split

NUM_BOXES = 7
MAX_OBJECTS = 3
"""Most things that one box can hold."""
MEAN_OBJECTS = 2
"""Mean of the Poisson distribution of a box's initial number of things; at most MAX_OBJECTS are kept."""
MAX_OPERATIONS = 12
SEED = 7919
"""Fixes the split of the signatures and the test items; another seed is another benchmark."""

# Common short words, none of which is a part of another.
_WORDS = """
    acorn anchor apple arrow badge bagel banner basin basket bead bean bell belt bottle bowl branch bread brick broom
    brush bucket bugle button cable candle canvas card carrot chain chalk clock coat coin comb compass cookie cork
    cotton crayon crown cup dagger dice dish doll drum fan feather flag flute fork gem ginger glass glove hammer harp
    hat helmet honey hook jacket jar jewel kettle kite ladder lamp leaf lemon letter magnet marble mask medal melon
    mirror nail needle onion paper pearl pebble pencil pepper pillow plate puzzle ribbon ring robe rope ruler saddle
    saucer scarf shell spoon ticket tray
"""
NOUNS = tuple(_WORDS.split())

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

    def sentence(self) -> str:
        things = contents(self.objects)
        if self.source is None:
            return f"Put {things} into Box {self.target}."
        if self.target is None:
            return f"Take {things} out of Box {self.source}."
        return f"Carry {things} from Box {self.source} to Box {self.target}."


def contents(objects: frozenset[str]) -> str:
    """A box's content in words, in alphabetical order; `nothing` for an empty box."""
    return " and ".join(f"the {name}" for name in sorted(objects)) or "nothing"


def signature(state: State) -> tuple[int, ...]:
    """Number of things in each box."""
    return tuple(len(box) for box in state)


@functools.cache
def signatures(split: str) -> frozenset[tuple[int, ...]]:
    """The signatures of one split: all 4^7 signatures are shuffled once and divided in the shares of SPLITS."""
    everything = list(itertools.product(range(MAX_OBJECTS + 1), repeat=NUM_BOXES))
    random.Random(SEED).shuffle(everything)
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


def _initial_state(rng: random.Random, allowed: frozenset[tuple[int, ...]]) -> State:
    while True:
        counts = tuple(min(MAX_OBJECTS, _poisson(rng, MEAN_OBJECTS)) for _ in range(NUM_BOXES))
        if counts in allowed:
            objects = iter(rng.sample(NOUNS, sum(counts)))
            return tuple(frozenset(itertools.islice(objects, count)) for count in counts)


def _some_of(rng: random.Random, objects: frozenset[str]) -> frozenset[str]:
    """Draws a non-empty part of `objects`, each thing by a fair coin."""
    chosen: list[str] = []
    while not chosen:  # sorted, since a set's order differs between processes
        chosen = [name for name in sorted(objects) if rng.random() < 0.5]
    return frozenset(chosen)


def _draw_operation(rng: random.Random, state: State) -> Operation:
    """Draws kind and box together, and both again while the operation is impossible."""
    while True:
        kind, box = rng.choice(("move", "remove", "put")), rng.randrange(NUM_BOXES)
        if kind == "put":
            count = _poisson(rng, max(1, MEAN_OBJECTS // 2))
            if 1 <= count <= MAX_OBJECTS - len(state[box]):
                outside = sorted(set(NOUNS).difference(*state))
                return Operation(frozenset(rng.sample(outside, count)), None, box)
        elif state[box]:
            objects = _some_of(rng, state[box])
            if kind == "remove":
                return Operation(objects, box, None)
            target = rng.choice([other for other in range(NUM_BOXES) if other != box])
            if len(state[target]) + len(objects) <= MAX_OBJECTS:
                return Operation(objects, box, target)


@dataclass(frozen=True)
class Scenario:
    """An initial state, and the operations that change it."""

    initial: State
    operations: tuple[Operation, ...]

    @functools.cached_property
    def states(self) -> tuple[State, ...]:
        """The state before the first operation and after each one."""
        return tuple(itertools.accumulate(self.operations, lambda state, done: done.apply(state), initial=self.initial))

    def history(self, box: int, moment: int) -> list[frozenset[str]]:
        """Contents of the box from the initial one to that after `moment` operations, without immediate repetitions."""
        seen = [state[box] for state in self.states[: moment + 1]]
        return [content for content, _ in itertools.groupby(seen)]

    def mentioned(self, moment: int) -> list[str]:
        """Sorted names of all things that the text mentions up to `moment`."""
        return sorted({name for state in self.states[: moment + 1] for box in state for name in box})

    def text(self, box: int, moment: int) -> str:
        """The story up to `moment`, ending where the content of `box` follows."""
        boxes = ", ".join(f"Box {index} contains {contents(objects)}" for index, objects in enumerate(self.initial))
        told = [f"At first, {boxes}.", *(done.sentence() for done in self.operations[:moment])]
        return f"{' '.join(told)} Now Box {box} contains"


def draw_scenario(rng: random.Random, allowed: frozenset[tuple[int, ...]]) -> Scenario:
    state = initial = _initial_state(rng, allowed)
    operations = []
    for _ in range(MAX_OPERATIONS):
        operations.append(_draw_operation(rng, state))
        state = operations[-1].apply(state)
    return Scenario(initial, tuple(operations))
