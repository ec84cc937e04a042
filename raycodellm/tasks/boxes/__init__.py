"""Entity tracking: what is in a box after things were moved, removed and put.

The world, its operations and the splits follow the rules of Kim and Schuster (2023); nouns and sentences are our own.
Seven boxes hold at most three of a hundred distinct things each. A scenario is an initial state and up to twelve
operations; every item has a scenario of its own and asks for one box, so that items are independent.

An item's `num_operations` is how many operations changed the box it asks for, not how many its text tells. With none,
the answer is copied from the initial description: such items are `trivial` and reported apart.

Splits share no signature: the signature of a scenario is the tuple of how many things each box holds at first.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raycodellm.tasks.item import SPLITS, Item, lm_eval_dataset

if TYPE_CHECKING:
    import datasets

NUM_BOXES = 7
MAX_OBJECTS = 3
"""Most things one box can hold."""
MEAN_OBJECTS = 2
"""Mean of the Poisson distribution of a box's initial number of things, before it is clipped at MAX_OBJECTS."""
MAX_OPERATIONS = 12
NUM_CHOICES = 5
NUM_TEST_ITEMS = 1000
NUM_TRAIN_ITEMS = 200
"""Items of the training split that lm-eval draws few-shot examples from."""
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

# Shares of items by num_operations. Drawn from all boxes and moments alike, 39 % would be trivial and 1.2 % would have
# five or more; the hard ones are drawn more often so that a thousand items can tell something about them.
OPERATION_SHARES = {0: 0.25, 1: 0.25, 2: 0.20, 3: 0.13, 4: 0.09, 5: 0.05, 6: 0.03}

State = tuple[frozenset[str], ...]
"""What each box holds."""


@dataclass(frozen=True)
class Operation:
    """`objects` leave box `source` (None: they were in no box) for box `target` (None: for no box)."""

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
    """How a box's content is said: alphabetical, or `nothing`."""
    return " and ".join(f"the {name}" for name in sorted(objects)) or "nothing"


def signature(state: State) -> tuple[int, ...]:
    return tuple(len(box) for box in state)


@functools.cache
def signatures(split: str) -> frozenset[tuple[int, ...]]:
    """The signatures of one split: all 4^7 of them, shuffled once and cut in the shares of SPLITS."""
    everything = list(itertools.product(range(MAX_OBJECTS + 1), repeat=NUM_BOXES))
    random.Random(SEED).shuffle(everything)
    start = 0
    for name, share in SPLITS.items():
        stop = start + round(share * len(everything))
        if name == split:
            return frozenset(everything[start:stop])
        start = stop
    raise ValueError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")


def _poisson(rng: random.Random, mean: float) -> int:
    """Knuth's method: uniform draws multiplied until they fall below exp(-mean)."""
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
    """A non-empty part of `objects`, each with a fair coin. Sorted first: a set's order changes between processes."""
    chosen: list[str] = []
    while not chosen:
        chosen = [name for name in sorted(objects) if rng.random() < 0.5]
    return frozenset(chosen)


def _draw_operation(rng: random.Random, state: State) -> Operation:
    """Kind and box are drawn together and drawn again together whenever the operation is not possible."""
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
    initial: State
    operations: tuple[Operation, ...]

    @functools.cached_property
    def states(self) -> tuple[State, ...]:
        """The state before the first operation and after each one."""
        return tuple(itertools.accumulate(self.operations, lambda state, done: done.apply(state), initial=self.initial))

    def history(self, box: int, moment: int) -> list[frozenset[str]]:
        """The contents the box had, each change once, from the initial one to that after `moment` operations."""
        seen = [state[box] for state in self.states[: moment + 1]]
        return [content for content, _ in itertools.groupby(seen)]

    def mentioned(self, moment: int) -> list[str]:
        """All that the text names up to `moment`, sorted."""
        return sorted({name for state in self.states[: moment + 1] for box in state for name in box})

    def text(self, box: int, moment: int) -> str:
        boxes = ", ".join(f"Box {index} contains {contents(objects)}" for index, objects in enumerate(self.initial))
        told = [f"At first, {boxes}.", *(done.sentence() for done in self.operations[:moment])]
        return f"{' '.join(told)} Now Box {box} contains"


def _draw_scenario(rng: random.Random, allowed: frozenset[tuple[int, ...]]) -> Scenario:
    state = initial = _initial_state(rng, allowed)
    operations = []
    for _ in range(MAX_OPERATIONS):
        operations.append(_draw_operation(rng, state))
        state = operations[-1].apply(state)
    return Scenario(initial, tuple(operations))


def _draw_question(
    rng: random.Random, allowed: frozenset[tuple[int, ...]], num_operations: int, size: int
) -> tuple[Scenario, int, int]:
    """A scenario, a box and a moment: `num_operations` operations have changed the box, and it holds `size` things."""
    while True:
        scenario = _draw_scenario(rng, allowed)
        if len(scenario.mentioned(0)) < 2 * MAX_OBJECTS:
            continue  # too few things to make wrong choices of
        by_moment: dict[int, list[int]] = {}
        changes = [0] * NUM_BOXES
        for moment, state in enumerate(scenario.states):
            if moment:
                before = scenario.states[moment - 1]
                changes = [count + (state[box] != before[box]) for box, count in enumerate(changes)]
            if found := [box for box in range(NUM_BOXES) if changes[box] == num_operations and len(state[box]) == size]:
                by_moment[moment] = found
        if by_moment:
            moment = rng.choice(list(by_moment))
            return scenario, rng.choice(by_moment[moment]), moment


def _draw_sizes(rng: random.Random) -> tuple[int, list[int]]:
    """How many things the right choice holds, and each of the wrong ones.

    Every item offers an empty box, one of each size 1, 2 and 3, and one more of a size drawn from these three; the
    right choice is any of the five with equal chance. So to prefer short answers, long ones or `nothing` gains nothing.
    """
    sizes = [*range(MAX_OBJECTS + 1), rng.randint(1, MAX_OBJECTS)]
    return sizes.pop(rng.randrange(len(sizes))), sizes


def _altered(rng: random.Random, gold: frozenset[str], size: int, mentioned: list[str]) -> frozenset[str]:
    """`gold` with things left out, added or, at its own size, one exchanged for another."""
    kept = rng.sample(sorted(gold), min(size, len(gold) - (size == len(gold))))
    strangers = [name for name in mentioned if name not in gold]
    return frozenset(kept + rng.sample(strangers, size - len(kept)))


def _wrong_choices(
    rng: random.Random, scenario: Scenario, box: int, moment: int, sizes: list[int]
) -> list[frozenset[str]]:
    """One content of each size in `sizes`, no two alike as sets, none right.

    Preferred are what the box held at first and what it held before its last change: what a model says that copies, or
    that misses an operation. Then comes what other boxes hold, or the right content altered.
    """
    history, now = scenario.history(box, moment), scenario.states[moment]
    mentioned = scenario.mentioned(moment)
    taken = [history[-1]]
    for size in sizes:
        stale = {history[0], history[-2]} if len(history) > 1 else set()
        options = [content for content in stale if len(content) == size and content not in taken]
        if not options:
            others = [now[other] for other in range(NUM_BOXES) if len(now[other]) == size]
            options = [content for content in others if content not in taken]
            while not options:
                altered = _altered(rng, history[-1], size, mentioned)
                options = [altered] if altered not in taken else []
        taken.append(rng.choice(sorted(options, key=sorted)))
    return taken[1:]


def _draw_item(rng: random.Random, allowed: frozenset[tuple[int, ...]]) -> tuple[Item, Scenario]:
    num_operations = rng.choices(list(OPERATION_SHARES), list(OPERATION_SHARES.values()))[0]
    size, other_sizes = _draw_sizes(rng)
    scenario, box, moment = _draw_question(rng, allowed, num_operations, size)
    gold = scenario.states[moment][box]
    choices = [gold, *_wrong_choices(rng, scenario, box, moment, other_sizes)]
    rng.shuffle(choices)
    item = Item(
        question=scenario.text(box, moment),
        # The full stop belongs to the answer: without it `the bell` would begin, so outscore, `the bell and the rope`.
        choices=tuple(f"{contents(objects)}." for objects in choices),
        gold=choices.index(gold),
        part="nontrivial" if num_operations else "trivial",
        attributes={"num_operations": num_operations, "operations_told": moment, "box": box},
    )
    return item, scenario


def generate(split: str, seed: int = SEED) -> Iterator[tuple[Item, Scenario]]:
    """Items of one split without end, each with its scenario; no initial state comes twice."""
    rng = random.Random(f"boxes/{split}/{seed}")
    allowed = signatures(split)
    seen: set[State] = set()
    while True:
        item, scenario = _draw_item(rng, allowed)
        if scenario.initial not in seen:
            seen.add(scenario.initial)
            yield item, scenario


@functools.cache
def evaluated_items() -> tuple[Item, ...]:
    """The items that are evaluated."""
    return tuple(item for item, _ in itertools.islice(generate("test"), NUM_TEST_ITEMS))


def dataset(**_: object) -> datasets.DatasetDict:
    """For the task's YAML file; lm-eval calls it with the file's metadata and the model's arguments."""
    train = [item for item, _ in itertools.islice(generate("train"), NUM_TRAIN_ITEMS)]
    return lm_eval_dataset({"train": train, "test": evaluated_items()})
