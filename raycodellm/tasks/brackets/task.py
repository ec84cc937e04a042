"""The items of the task `brackets`: a text opens brackets of four kinds, and the one that closes next is asked for.

Exactly one bracket of each kind is open at the end, and all four closing brackets are the choices. So neither the
choices, nor which kinds are open, nor how often each kind occurs says anything: the order of the text alone decides.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from raycodellm.tasks.generated import GeneratedTask, items_by_turns
from raycodellm.tasks.item import Item, split_of
from raycodellm.tasks.words import NOUNS

SEED = 8233
"""Fixes the split of the structures and the test items; another seed is another benchmark."""
NUM_KINDS = 4

Bracket = tuple[bool, int]
"""True for an opening bracket, and the bracket's kind."""


@dataclass(frozen=True)
class Level:
    """The difficulty of a text."""

    num_pairs_after: int
    """Pairs that open and close after the last bracket that stays open."""

    @property
    def name(self) -> str:
        return f"{NUM_KINDS + 2 * (NUM_KINDS + 1 + self.num_pairs_after)}_brackets"


LEVELS = (Level(0), Level(1), Level(3), Level(6))

_SIGNS = (("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"))
_OPENINGS = ("Brackets:", "In order:", "So far:", "The text is", "")
_QUESTIONS = ("Next closes", "The next one to close is", "To be closed next:")


def _balanced(rng: random.Random, kinds: list[int]) -> list[Bracket]:
    """Draws a text that opens brackets of these kinds in this order, and closes all of them."""
    found: list[Bracket] = []
    opened: list[int] = []
    waiting = kinds[::-1]
    while waiting or opened:
        if waiting and (not opened or rng.random() < 0.5):
            opened.append(waiting.pop())
            found.append((True, opened[-1]))
        else:
            found.append((False, opened.pop()))
    return found


def _draw_text(rng: random.Random, level: Level) -> tuple[Bracket, ...]:
    """Draws a text that leaves one bracket of each kind open.

    Brackets of each kind open and close at first: else the kind that comes last into the text would be right often.
    """
    found = _balanced(rng, rng.sample(range(NUM_KINDS), NUM_KINDS))
    pair_before = rng.randrange(NUM_KINDS)
    for place, kind in enumerate(rng.sample(range(NUM_KINDS), NUM_KINDS)):
        if place == pair_before:
            found += _balanced(rng, [rng.randrange(NUM_KINDS)])
        found.append((True, kind))
    return tuple(found + _balanced(rng, [rng.randrange(NUM_KINDS) for _ in range(level.num_pairs_after)]))


def structure(text: tuple[Bracket, ...]) -> tuple[Bracket, ...]:
    """The text with its kinds numbered by their first place in it: other signs for the kinds make no new structure."""
    numbers: dict[int, int] = {}
    return tuple((is_opening, numbers.setdefault(kind, len(numbers))) for is_opening, kind in text)


def _tell(rng: random.Random, text: tuple[Bracket, ...]) -> tuple[str, list[str]]:
    """Draws a telling of the text, and gives the closing bracket of each kind in it."""
    style = rng.choice(("signs", "tags", "words"))
    names = rng.sample(NOUNS, NUM_KINDS)
    if style == "signs":
        signs = rng.sample(_SIGNS, NUM_KINDS)
        opening, closing = [sign for sign, _ in signs], [sign for _, sign in signs]
    elif style == "tags":
        opening, closing = [f"<{name}>" for name in names], [f"</{name}>" for name in names]
    else:
        opening, closing = [f"open {name}" for name in names], [f"close {name}" for name in names]
    between = ", " if style == "words" else " "
    told = between.join((opening if is_opening else closing)[kind] for is_opening, kind in text)
    return f"{rng.choice(_OPENINGS)} {told}. {rng.choice(_QUESTIONS)}".lstrip(), closing


def _draw_item(rng: random.Random, split: str, level: Level) -> tuple[Item, tuple[Bracket, ...]]:
    text = _draw_text(rng, level)
    while split_of((SEED, structure(text))) != split:
        text = _draw_text(rng, level)
    question, closing = _tell(rng, text)
    kinds = rng.sample(range(NUM_KINDS), NUM_KINDS)
    item = Item(
        question=question,
        choices=tuple(f"{closing[kind]}." for kind in kinds),
        gold=kinds.index(_open_at_the_end(text)[-1]),
        part=level.name,
        attributes={"num_brackets": len(text), "num_pairs_after": level.num_pairs_after},
    )
    return item, text


def _open_at_the_end(text: tuple[Bracket, ...]) -> list[int]:
    opened: list[int] = []
    for is_opening, kind in text:
        if is_opening:
            opened.append(kind)
        else:
            opened.pop()
    return opened


def generate(split: str, seed: int = SEED) -> Iterator[tuple[Item, tuple[Bracket, ...]]]:
    """Endless items of one split, the levels by turns, each with its brackets; no structure is in two splits."""
    return items_by_turns("brackets", split, seed, LEVELS, _draw_item)


TASK = GeneratedTask("brackets", tuple(level.name for level in LEVELS), generate, SEED)
dataset = TASK.dataset
"""For the YAML file."""
