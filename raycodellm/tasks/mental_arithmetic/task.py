"""The items of the task `mental_arithmetic`: sums and differences, graded by digits and by how many numbers they have.

The choices are drawn before the question: five numbers near one another, each of which is right with equal chance. So
neither the choices alone nor their order say anything about the answer.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from raycodellm.tasks.generated import GeneratedTask, items_by_turns
from raycodellm.tasks.item import Item, split_of

SEED = 4391
"""Fixes the split of the sums and the test items; another seed is another benchmark."""
NUM_CHOICES = 5
_THINGS = """
    apples badges beads beans bells books bottles buttons cards chairs clocks coins cups drums eggs flags hats jars keys
    kites lamps leaves lemons letters melons nails onions pencils pillows plates rings ropes shells spoons tickets trays
"""
_PLURALS = _THINGS.split()
_STORIES = (
    (
        "On the table lie {first} {things}.",
        "Then come {number} more.",
        "Then {number} are taken away.",
        "Now there are",
    ),
    ("A box holds {first} {things}.", "Somebody adds {number}.", "Somebody removes {number}.", "The box now holds"),
    ("The shop has {first} {things}.", "It gets {number} more.", "It sells {number}.", "Now the shop has"),
    ("Ann owns {first} {things}.", "She finds {number}.", "She gives {number} to Ben.", "Now Ann owns"),
)
_SIGNED = ("{sum} =", "Find {sum} =", "The result of {sum} is")


@dataclass(frozen=True)
class Level:
    """The difficulty of a sum."""

    digits: int
    """Digits of each number."""
    numbers: int
    """How many numbers are added and subtracted."""

    @property
    def name(self) -> str:
        return f"{self.digits}_digit{'s' if self.digits > 1 else ''}_{self.numbers}_numbers"


LEVELS = (Level(1, 2), Level(1, 3), Level(2, 2), Level(2, 3), Level(3, 2))

Sum = tuple[int, ...]
"""Numbers whose sum is asked for; all but the first may be negative, which stands for a subtraction."""


def _is_of(split: str, terms: Sum) -> bool:
    """True if the sum is of the split; sums that differ in the order of what is added are of the same split."""
    return split_of((SEED, sorted(terms))) == split


@functools.cache
def _short_sums(split: str, level: Level) -> dict[int, list[Sum]]:
    """Maps each result to all sums of one-digit numbers that have it."""
    found: dict[int, list[Sum]] = {}
    for first, *others in itertools.product(range(1, 10), *[[*range(-9, 0), *range(1, 10)]] * (level.numbers - 1)):
        terms = (first, *others)
        if min(itertools.accumulate(terms)) >= 0 and _is_of(split, terms):
            found.setdefault(sum(terms), []).append(terms)
    return found


def _draw_results(rng: random.Random, split: str, level: Level) -> list[int]:
    """Draws different numbers near one another that sums of the split can have as their results."""
    if level.digits == 1:
        known = sorted(_short_sums(split, level))
        middle = rng.choice(known)
        return rng.sample(sorted(known, key=lambda one: abs(one - middle))[: NUM_CHOICES + 2], NUM_CHOICES)
    smallest, end = 10 ** (level.digits - 1), 10**level.digits
    middle = rng.randrange(smallest // 2, end + end // 2)
    steps = [sign * (tens * end // 10 + ones) for sign in (1, -1) for tens in (0, 1) for ones in (-2, -1, 0, 1, 2)]
    steps += [10, -10, 20, -20]
    near = sorted({middle + step for step in steps if middle + step >= 0})
    return rng.sample(near, NUM_CHOICES)


def _draw_sum(rng: random.Random, split: str, level: Level, result: int) -> Sum | None:
    """Draws a sum of the split with that result; no partial sum is negative. None where such sums are rare."""
    if level.digits == 1:
        return rng.choice(_short_sums(split, level)[result])
    smallest, end = 10 ** (level.digits - 1), 10**level.digits
    for _ in range(1000):
        others = [rng.choice((1, -1)) * rng.randrange(smallest, end) for _ in range(level.numbers - 1)]
        terms = (result - sum(others), *others)
        if smallest <= terms[0] < end and min(itertools.accumulate(terms)) >= 0 and _is_of(split, terms):
            return terms
    return None


def _tell(rng: random.Random, terms: Sum) -> str:
    first, *others = terms
    style = rng.randrange(3)
    if style == 0:
        signed = "".join(f" {'+' if number > 0 else '-'} {abs(number)}" for number in others)
        return rng.choice(_SIGNED).format(sum=f"{first}{signed}")
    if style == 1:
        worded = "".join(f" {'plus' if number > 0 else 'minus'} {abs(number)}" for number in others)
        return f"{first}{worded} {rng.choice(('is', 'makes', 'equals'))}"
    opening, more, less, question = rng.choice(_STORIES)
    steps = ((more if number > 0 else less).format(number=abs(number)) for number in others)
    return " ".join([opening.format(first=first, things=rng.choice(_PLURALS)), *steps, question])


def _draw_item(rng: random.Random, split: str, level: Level) -> tuple[Item, Sum]:
    terms = None
    while terms is None:
        results, gold = _draw_results(rng, split, level), rng.randrange(NUM_CHOICES)
        terms = _draw_sum(rng, split, level, results[gold])
    item = Item(
        question=_tell(rng, terms),
        choices=tuple(f"{result}." for result in results),
        gold=gold,
        part=level.name,
        attributes={"digits": level.digits, "numbers": level.numbers},
    )
    return item, terms


def generate(split: str, seed: int = SEED) -> Iterator[tuple[Item, Sum]]:
    """Endless items of one split, the levels by turns, each with its sum; no sum of one split is in another."""
    return items_by_turns("mental_arithmetic", split, seed, LEVELS, _draw_item)


TASK = GeneratedTask("mental_arithmetic", tuple(level.name for level in LEVELS), generate, SEED)
dataset = TASK.dataset
"""For the YAML file."""
