"""The items of the task `sorting`: a list of numbers or words, and a question for one place of the sorted list.

Any of the choices stands at the place that is asked for with equal chance, and any place of the list holds it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from raycodellm.tasks.generated import GeneratedTask, items_by_turns
from raycodellm.tasks.item import Item, split_of
from raycodellm.tasks.words import NOUNS

SEED = 5557
"""Fixes the split of the lists and the test items; another seed is another benchmark."""
SIZES = (2, 3, 5, 8, 12)
"""Things per list; items take turns."""
MAX_CHOICES = 5
_FEW_THINGS = 3
"""Lists of up to so many things have too few orders for a split by their orders."""
_PLACES = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
ORDINALS = _PLACES.split()
_UP = {
    "numbers": ("Sorted from small to large, the {place} is", "In rising order the {place} number is"),
    "words": ("In alphabetical order the {place} is", "Sorted from a to z, the {place} word is"),
}
_DOWN = {
    "numbers": ("Sorted from large to small, the {place} is", "In falling order the {place} number is"),
    "words": ("In reversed alphabetical order the {place} is", "Sorted from z to a, the {place} word is"),
}
_OPENINGS = ("Here are {things}.", "The list: {things}.", "Sort {things}.", "We have {things}.")


@dataclass(frozen=True)
class List:
    """A list, and the place of the sorted list that is asked for."""

    things: tuple[str, ...]
    """The list as it is told."""
    kind: str
    """`numbers` or `words`."""
    is_falling: bool
    place: int
    """The place that is asked for, from 0."""

    @property
    def in_order(self) -> list[str]:
        rising = sorted(self.things, key=int) if self.kind == "numbers" else sorted(self.things)
        return rising[::-1] if self.is_falling else rising

    @property
    def structure(self) -> tuple[object, ...]:
        """The order in which the list's things come: with other things in the same order a list is no other one. Of a
        few things, the things themselves."""
        if len(self.things) <= _FEW_THINGS:
            return tuple(sorted(self.things))
        order = self.in_order
        return tuple(order.index(thing) for thing in self.things)


def _draw_list(rng: random.Random, size: int) -> List:
    kind = rng.choice(("numbers", "words"))
    drawn = [str(number) for number in rng.sample(range(10, 100), size)] if kind == "numbers" else []
    return List(tuple(drawn or rng.sample(NOUNS, size)), kind, rng.random() < 0.5, rng.randrange(size))


def _tell(rng: random.Random, asked: List) -> str:
    between = rng.choice((", ", " "))
    question = rng.choice((_DOWN if asked.is_falling else _UP)[asked.kind]).format(place=ORDINALS[asked.place])
    return f"{rng.choice(_OPENINGS).format(things=between.join(asked.things))} {question}"


def _draw_item(rng: random.Random, split: str, size: int) -> tuple[Item, List]:
    asked = _draw_list(rng, size)
    while split_of((SEED, asked.structure)) != split:
        asked = _draw_list(rng, size)
    answer = asked.in_order[asked.place]
    wrong = [thing for thing in asked.things if thing != answer]
    choices = [answer, *rng.sample(wrong, min(size, MAX_CHOICES) - 1)]
    rng.shuffle(choices)
    item = Item(
        question=_tell(rng, asked),
        choices=tuple(f"{thing}." for thing in choices),
        gold=choices.index(answer),
        part=_level(size),
        attributes={"num_things": size, "place": asked.place, "numbers": int(asked.kind == "numbers")},
    )
    return item, asked


def _level(size: int) -> str:
    return f"{size}_things"


def generate(split: str, seed: int = SEED) -> Iterator[tuple[Item, List]]:
    """Endless items of one split, the sizes by turns, each with its list; no order of a list is in two splits."""
    return items_by_turns("sorting", split, seed, SIZES, _draw_item)


TASK = GeneratedTask("sorting", tuple(_level(size) for size in SIZES), generate, SEED)
dataset = TASK.dataset
"""For the YAML file."""
