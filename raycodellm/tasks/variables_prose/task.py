"""The items of the task `variables_prose`: programs told in words; see `raycodellm.tasks.programs`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from raycodellm.tasks.generated import GeneratedTask
from raycodellm.tasks.item import Item
from raycodellm.tasks.programs import PARTS, SEED, Program, paired_items


@dataclass(frozen=True)
class Words:
    """Sentences of one story. {a} and {b} stand for variables and {n} for a number."""

    begin: tuple[str, ...]
    copy: tuple[str, ...]
    """{a} gets the number of {b}."""
    swap: tuple[str, ...]
    ask: str


WORDS = (
    Words(
        begin=("The {a} shows {n}.", "On the {a} stands {n}."),
        copy=("Now the {a} shows what the {b} shows.", "The number of the {b} is copied to the {a}."),
        swap=("The {a} and the {b} swap their numbers.", "The numbers of the {a} and the {b} change places."),
        ask="At the end the {a} shows",
    ),
    Words(
        begin=("The price of the {a} is {n}.", "The {a} costs {n}."),
        copy=("Then the {a} gets the price of the {b}.", "The {a} now costs as much as the {b}."),
        swap=("The {a} and the {b} trade their prices.", "Then the prices of the {a} and the {b} are exchanged."),
        ask="In the end the price of the {a} is",
    ),
    Words(
        begin=("Team {a} has {n} points.", "There are {n} points for team {a}."),
        copy=("Team {a} is given the points of team {b}.", "Now team {a} has as many points as team {b}."),
        swap=("Teams {a} and {b} swap their points.", "The points of team {a} and of team {b} change places."),
        ask="Finally the points of team {a} are",
    ),
)


def tell(rng: random.Random, program: Program) -> str:
    """Draws a telling of the program in words."""
    words, names = rng.choice(WORDS), program.names
    told = [rng.choice(words.begin).format(a=name, n=n) for name, n in zip(names, program.numbers, strict=True)]
    for step in program.steps:
        form = rng.choice(words.swap if step.is_swap else words.copy)
        told.append(form.format(a=names[step.target], b=names[step.source]))
    return " ".join([*told, words.ask.format(a=names[program.asked])])


def generate(split: str, seed: int = SEED) -> Iterator[tuple[Item, Program]]:
    """Endless items of one split, each with its program; item i is the same program as that of `variables_code`."""
    return paired_items(split, seed, "prose", tell)


TASK = GeneratedTask("variables_prose", PARTS, generate, SEED)
dataset = TASK.dataset
"""For the YAML file."""
