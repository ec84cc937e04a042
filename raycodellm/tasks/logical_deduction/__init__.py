"""Ordering puzzles: three or five things in a row, clues that fix their order, and a question for one place.

A puzzle has exactly one solution (checked against every order) and no clue that could be left out. Which thing is asked
for is never told outright: it is not the one whose place a clue names.

Splits share no structure. A puzzle's structure is its set of clues with every thing named by its place in the solution,
so that new words, another story, another order of telling or another question make no new structure.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raycodellm.tasks.item import SPLITS, Item, in_words, lm_eval_dataset

if TYPE_CHECKING:
    import datasets

SIZES = (3, 5)
"""Things per puzzle; items take turns."""
NUM_TEST_ITEMS = 1000
NUM_TRAIN_ITEMS = 200
"""Items of the training split that lm-eval draws few-shot examples from."""
SEED = 6101
"""Fixes the split of the structures and the test items; another seed is another benchmark."""
MAX_PLACES_TOLD = 1
"""Most clues of one puzzle that name a place: more of them leave nothing to deduce."""

ORDINALS = ("first", "second", "third", "fourth", "fifth")


@dataclass(frozen=True)
class Story:
    """How one kind of row is told. In each sentence {a}, {b} and {c} are things and {place} is an ordinal."""

    names: tuple[str, ...]
    opening: str
    clues: dict[str, tuple[str, ...]]
    """Clue kind -> sentences that say it."""
    question: str
    """Ends where the answer begins."""


STORIES = (
    Story(
        names=("kite", "drum", "lamp", "vase", "clock", "mug", "globe", "candle", "radio", "basket"),
        opening="On a shelf stand {things}.",
        clues={
            "before": ("The {a} is to the left of the {b}.", "The {b} is to the right of the {a}."),
            "next": ("The {a} is directly left of the {b}.", "The {b} is directly right of the {a}."),
            "beside": ("The {a} is right beside the {b}.",),
            "between": ("The {b} is somewhere between the {a} and the {c}.",),
            "end": ("The {a} is at one end of the shelf.",),
            "at": ("The {a} is the {place} from the left.",),
        },
        question="The {place} from the left is",
    ),
    Story(
        names=("fox", "goat", "hare", "pony", "otter", "goose", "badger", "camel", "lynx", "mole"),
        opening="In a race ran {things}.",
        clues={
            "before": ("The {a} came in before the {b}.", "The {b} came in after the {a}."),
            "next": ("The {a} came in just before the {b}.", "The {b} came in just after the {a}."),
            "beside": ("Nobody came in between the {a} and the {b}.",),
            "between": ("The {b} came in after one of the {a} and the {c} and before the other.",),
            "end": ("The {a} came in either first or last.",),
            "at": ("The {a} came in {place}.",),
        },
        question="The one that came in {place} is",
    ),
    Story(
        names=("brick", "crate", "trunk", "drawer", "carpet", "book", "tray", "cushion", "barrel", "plank"),
        opening="One on top of the other lie {things}.",
        clues={
            "before": ("The {a} is lower than the {b}.", "The {b} is higher than the {a}."),
            "next": ("The {b} lies directly on the {a}.", "The {a} lies directly under the {b}."),
            "beside": ("The {a} and the {b} touch.",),
            "between": ("The {b} is somewhere between the {a} and the {c}.",),
            "end": ("The {a} is either the lowest or the highest.",),
            "at": ("The {a} is the {place} from below.",),
        },
        question="The {place} from below is",
    ),
    Story(
        names=("nurse", "baker", "pilot", "miner", "tailor", "judge", "farmer", "painter", "singer", "guard"),
        opening="In a queue wait {things}.",
        clues={
            "before": ("The {a} waits ahead of the {b}.", "The {b} waits behind the {a}."),
            "next": ("The {a} waits directly ahead of the {b}.", "The {b} waits directly behind the {a}."),
            "beside": ("Nobody waits between the {a} and the {b}.",),
            "between": ("The {b} waits somewhere between the {a} and the {c}.",),
            "end": ("The {a} waits at one end of the queue.",),
            "at": ("The {a} is {place} in the queue.",),
        },
        question="The one who is {place} in the queue is",
    ),
)

Clue = tuple[str, tuple[int, ...]]
"""Kind, and the things it speaks of: by place in the solution within a structure, by index in a puzzle otherwise."""

_HOLDS = {
    "before": lambda size, a, b: a < b,
    "next": lambda size, a, b: a + 1 == b,
    "beside": lambda size, a, b: abs(a - b) == 1,
    "between": lambda size, a, b, c: a < b < c or c < b < a,
    "end": lambda size, a: a in (0, size - 1),
}


def holds(clue: Clue, places: tuple[int, ...]) -> bool:
    """Whether the clue is true when thing i is at place `places[i]`. What follows the thing in `at` is a place."""
    kind, things = clue
    if kind == "at":
        return places[things[0]] == things[1]
    return _HOLDS[kind](len(places), *(places[thing] for thing in things))


def solutions(clues: tuple[Clue, ...], size: int) -> list[tuple[int, ...]]:
    """Every order (thing -> place) in which all the clues are true."""
    return [places for places in itertools.permutations(range(size)) if all(holds(clue, places) for clue in clues)]


@functools.cache
def _true_clues(size: int) -> tuple[tuple[Clue, int], ...]:
    """Every clue that is true of the solved row 0, 1, 2 ..., with the orders that it allows as bits of an integer."""
    solved, orders = tuple(range(size)), list(itertools.permutations(range(size)))
    clues: list[Clue] = [("at", (thing, thing)) for thing in solved]
    clues += [("end", (thing,)) for thing in solved]
    clues += [(kind, pair) for kind in ("before", "next") for pair in itertools.permutations(solved, 2)]
    clues += [("beside", pair) for pair in itertools.combinations(solved, 2)]
    clues += [("between", triple) for triple in itertools.combinations(solved, 3)]
    true = [clue for clue in clues if holds(clue, solved)]
    return tuple((clue, sum(holds(clue, order) << bit for bit, order in enumerate(orders))) for clue in true)


def structure_split(clues: frozenset[Clue], size: int) -> str:
    """The split a structure belongs to: where its hash falls among the shares of SPLITS."""
    digest = hashlib.blake2b(repr((SEED, size, sorted(clues))).encode(), digest_size=8).digest()
    fraction = int.from_bytes(digest, "big") / 2**64
    for name, end in zip(SPLITS, itertools.accumulate(SPLITS.values()), strict=True):
        if fraction < end:
            return name
    return list(SPLITS)[-1]


def _draw_structure(rng: random.Random, size: int) -> frozenset[Clue]:
    """Clues that fix the order, none of which could be left out: random ones until they do, then the superfluous go."""
    every = (1 << len(list(itertools.permutations(range(size))))) - 1
    chosen: list[tuple[Clue, int]] = []
    left = every
    for clue, allowed in rng.sample(_true_clues(size), len(_true_clues(size))):
        if clue[0] == "at" and sum(other[0] == "at" for other, _ in chosen) == MAX_PLACES_TOLD:
            continue
        if left & allowed != left:  # it rules out something
            chosen.append((clue, allowed))
            left &= allowed
        if left.bit_count() == 1:
            break
    for superfluous in rng.sample(chosen, len(chosen)):
        rest = [other for other in chosen if other is not superfluous]
        if functools.reduce(lambda orders, other: orders & other[1], rest, every) == left:
            chosen = rest
    return frozenset(clue for clue, _ in chosen)


def _tell(rng: random.Random, clue: Clue, story: Story, names: list[str]) -> str:
    """One sentence for the clue; `names` are the things in the order of the solution."""
    kind, things = clue
    if kind == "at":
        said = {"a": names[things[0]], "place": ORDINALS[things[1]]}
    else:
        told = things if kind not in ("beside", "between") or rng.random() < 0.5 else things[::-1]
        said = dict(zip("abc", (names[thing] for thing in told), strict=False))
    return rng.choice(story.clues[kind]).format(**said)


@dataclass(frozen=True)
class Puzzle:
    """What a test needs to check an item without reading its text; clues name things by their place in the solution."""

    structure: frozenset[Clue]
    names: tuple[str, ...]
    """In the order of the solution."""
    asked: int
    """Place, from 0."""


def _draw_item(rng: random.Random, split: str, size: int) -> tuple[Item, Puzzle]:
    structure = _draw_structure(rng, size)
    while structure_split(structure, size) != split:
        structure = _draw_structure(rng, size)
    story = rng.choice(STORIES)
    names = rng.sample(story.names, size)
    told_outright = {things[0] for kind, things in structure if kind == "at"}
    asked = rng.choice([place for place in range(size) if place not in told_outright])
    clues = rng.sample(sorted(structure), len(structure))
    sentences = [
        story.opening.format(things=in_words(rng.sample(names, size))),
        *(_tell(rng, clue, story, names) for clue in clues),
        story.question.format(place=ORDINALS[asked]),
    ]
    choices = rng.sample(names, size)
    item = Item(
        question=" ".join(sentences),
        choices=tuple(f"the {name}." for name in choices),
        gold=choices.index(names[asked]),
        part=f"{size}_things",
        attributes={"num_things": size, "num_clues": len(structure), "place": asked},
    )
    return item, Puzzle(structure, tuple(names), asked)


def generate(split: str, seed: int = SEED) -> Iterator[tuple[Item, Puzzle]]:
    """Items of one split without end, three and five things by turns; no text comes twice."""
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
    rng = random.Random(f"logical_deduction/{split}/{seed}")
    seen: set[str] = set()
    for size in itertools.cycle(SIZES):
        item, puzzle = _draw_item(rng, split, size)
        while item.question in seen:
            item, puzzle = _draw_item(rng, split, size)
        seen.add(item.question)
        yield item, puzzle


@functools.cache
def evaluated_items() -> tuple[Item, ...]:
    """The items that are evaluated."""
    return tuple(item for item, _ in itertools.islice(generate("test"), NUM_TEST_ITEMS))


def dataset(**_: object) -> datasets.DatasetDict:
    """For the task's YAML file; lm-eval calls it with the file's metadata and the model's arguments."""
    train = [item for item, _ in itertools.islice(generate("train"), NUM_TRAIN_ITEMS)]
    return lm_eval_dataset({"train": train, "test": evaluated_items()})
