"""The items of the task `logical_deduction`: clues that fix the order of a row, and a question for one place.

A puzzle has exactly one solution (checked against every order) and no superfluous clue. It asks for a thing whose place
no clue names.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from raycodellm.tasks.generated import GeneratedTask, items_by_turns
from raycodellm.tasks.item import Item, in_words
from raycodellm.tasks.logical_deduction.clues import SEED, Clue, draw_structure, structure_split
from raycodellm.tasks.logical_deduction.stories import ORDINALS, STORIES, Story

SIZES = (3, 4, 5, 6)
"""Things per puzzle; items take turns."""


def _tell(rng: random.Random, clue: Clue, story: Story, names: list[str]) -> str:
    """Draws a sentence for the clue; `names` are the things in the order of the solution."""
    kind, things = clue
    if kind == "at":
        words = {"a": names[things[0]], "place": ORDINALS[things[1]]}
    else:
        told = things if kind not in ("beside", "between") or rng.random() < 0.5 else things[::-1]
        words = dict(zip("abc", (names[thing] for thing in told), strict=False))
    return rng.choice(story.clues[kind]).format(**words)


@dataclass(frozen=True)
class Puzzle:
    """The solution of an item, by which a test checks the item without reading its text."""

    structure: frozenset[Clue]
    names: tuple[str, ...]
    """The things, in the order of the solution."""
    asked: int
    """The place that is asked for, from 0."""


def _draw_item(rng: random.Random, split: str, size: int) -> tuple[Item, Puzzle]:
    structure = draw_structure(rng, size)
    while structure_split(structure, size) != split:
        structure = draw_structure(rng, size)
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
    """Endless items of one split, the sizes by turns; no text comes twice."""
    return items_by_turns("logical_deduction", split, seed, SIZES, _draw_item)


TASK = GeneratedTask("logical_deduction", tuple(f"{size}_things" for size in SIZES), generate, SEED)
dataset = TASK.dataset
"""For the YAML file."""
