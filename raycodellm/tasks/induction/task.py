"""The items of the task `induction`: a row of words begins again somewhere, and its next word is asked for.

The answer follows from the row alone: the word that came after the last word when it came first. With `two_back` the
last word came twice, after different words, so that two words decide. No pair of last word and answer is in two splits,
and each wrong choice makes a pair of the same split with the last word: pairs that were trained on tell nothing.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from raycodellm.tasks.generated import GeneratedTask, items_by_turns
from raycodellm.tasks.item import Item, split_of
from raycodellm.tasks.words import NOUNS

SEED = 2749
"""Fixes the split of the pairs of words and the test items; another seed is another benchmark."""
MAX_REPEATED = 4
"""Most words of the row that are repeated before the answer."""
_OPENINGS = (
    ("The row is {row}.", "The row again: {again}"),
    ("They came in this order: {row}.", "They left in the same order: {again}"),
    ("{row} and so on,", "then once more {again}"),
    ("Say {row}.", "Now say it again from here: {again}"),
    ("{row}...", "{again}"),
)
_BETWEEN = (" ", ", ", " then ", " - ")


@dataclass(frozen=True)
class Level:
    """The difficulty of a row."""

    name: str
    num_words: int
    num_choices: int
    is_two_back: bool = False
    """True if the last word alone does not decide."""

    @property
    def least_repeated(self) -> int:
        return 2 if self.is_two_back else 1


LEVELS = (
    Level("4_words", 4, 2),
    Level("8_words", 8, 3),
    Level("12_words", 12, 5),
    Level("24_words", 24, 5),
    Level("two_back", 20, 5, is_two_back=True),
)


@functools.cache
def _followers(split: str, cue: str) -> tuple[str, ...]:
    """The words that make a pair of the split with the word before them."""
    return tuple(word for word in NOUNS if word != cue and split_of((SEED, cue, word)) == split)


@dataclass(frozen=True)
class Row:
    """The words of an item."""

    words: tuple[str, ...]
    answer: int
    """Place of the answer in `words`."""
    num_repeated: int
    """Words that come again before the answer."""

    @property
    def again(self) -> tuple[str, ...]:
        return self.words[self.answer - self.num_repeated : self.answer]


def _draw_item(rng: random.Random, split: str, level: Level) -> tuple[Item, Row]:
    cue = rng.choice([noun for noun in NOUNS if len(_followers(split, noun)) >= level.num_choices])
    choices = rng.sample(_followers(split, cue), level.num_choices)
    least = level.least_repeated
    # No choice is among the `least` words before another, so that these words can be repeated before any of them. The
    # place of the right choice is as likely as any other choice's place.
    drawn = rng.sample(range(least, level.num_words - least * (level.num_choices - 1)), level.num_choices)
    places = [place + least * number for number, place in enumerate(sorted(drawn))]
    rng.shuffle(places)
    words = rng.sample([word for word in NOUNS if word not in choices and word != cue], level.num_words)
    for word, place in zip(choices, places, strict=True):
        words[place] = word
    for place in places[:least]:
        words[place - 1] = cue
    # A choice that is repeated as well would be known to be wrong.
    before = max((place for place in places if place < places[0]), default=-1)
    row = Row(tuple(words), places[0], rng.randint(least, min(MAX_REPEATED, places[0] - before - 1)))
    return _item(rng, level, row, choices), row


def _item(rng: random.Random, level: Level, row: Row, choices: list[str]) -> Item:
    answer = row.words[row.answer]
    between = rng.choice(_BETWEEN)
    told = " ".join(rng.choice(_OPENINGS)).format(row=between.join(row.words), again=between.join(row.again))
    shown = rng.sample(choices, len(choices))
    return Item(
        question=told + between.rstrip(),
        choices=tuple(f"{word}." for word in shown),
        gold=shown.index(answer),
        part=level.name,
        attributes={"num_words": level.num_words, "num_repeated": row.num_repeated, "place": row.answer},
    )


def generate(split: str, seed: int = SEED) -> Iterator[tuple[Item, Row]]:
    """Endless items of one split, the levels by turns, each with its row of words; no text comes twice."""
    return items_by_turns("induction", split, seed, LEVELS, _draw_item)


TASK = GeneratedTask("induction", tuple(level.name for level in LEVELS), generate, SEED)
dataset = TASK.dataset
"""For the YAML file."""
