"""The items of the task `variables_code`: programs in Python; see `raycodellm.tasks.programs`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from raycodellm.tasks.generated import GeneratedTask
from raycodellm.tasks.item import Item
from raycodellm.tasks.programs import PARTS, SEED, Program, paired_items


@dataclass(frozen=True)
class Style:
    """Lines of Python. {a} and {b} stand for variables and {n} for a number."""

    opening: str
    begin: str
    copy: tuple[str, ...]
    """{a} gets the number of {b}."""
    swap: tuple[str, ...]
    ask: str


_PLAIN_SWAPS = ("{a}, {b} = {b}, {a}", "old = {a}\n{a} = {b}\n{b} = old")
STYLES = (
    Style("", "{a} = {n}", ("{a} = {b}",), _PLAIN_SWAPS, "print({a})  # prints"),
    Style("", "{a}: int = {n}", ("{a} = {b}",), _PLAIN_SWAPS, "# The value of {a} is"),
    Style(
        "d = {}\n",
        'd["{a}"] = {n}',
        ('d["{a}"] = d["{b}"]', 'd.update({a}=d["{b}"])'),
        ('d["{a}"], d["{b}"] = d["{b}"], d["{a}"]', 'd.update({a}=d["{b}"], {b}=d["{a}"])'),
        'print(d["{a}"])  # prints',
    ),
)


def tell(rng: random.Random, program: Program) -> str:
    """Draws a telling of the program in Python."""
    style, names = rng.choice(STYLES), program.names
    lines = [style.begin.format(a=name, n=n) for name, n in zip(names, program.numbers, strict=True)]
    for step in program.steps:
        form = rng.choice(style.swap if step.is_swap else style.copy)
        lines.append(form.format(a=names[step.target], b=names[step.source]))
    return style.opening + "\n".join([*lines, style.ask.format(a=names[program.asked])])


def generate(split: str, seed: int = SEED) -> Iterator[tuple[Item, Program]]:
    """Endless items of one split, each with its program; item i is the same program as that of `variables_prose`."""
    return paired_items(split, seed, "code", tell)


TASK = GeneratedTask("variables_code", PARTS, generate, SEED)
dataset = TASK.dataset
"""For the YAML file."""
