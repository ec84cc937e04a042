"""Programs that copy and swap the numbers of four variables: the items of `variables_prose` and `variables_code`.

Item i of both tasks is the same program with the same names, numbers, question and choices, once told in words and once
as Python; so the difference of the two scores is that of the telling alone.

The choices are the four numbers that the program begins with. Each number is mentioned once; any of the four, and any
place in the text, is right with equal chance, and in every fourth item with steps the asked variable's first number.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from raycodellm.tasks.generated import items_by_turns
from raycodellm.tasks.item import Item, split_of
from raycodellm.tasks.words import NOUNS

SEED = 3163
"""Fixes the split of the programs and the test items; another seed is another benchmark."""
NUM_VARIABLES = 4
STEPS = (0, 1, 2, 4, 8)
"""Copies and swaps per program; items take turns."""
PARTS = tuple(f"{steps}_step{'' if steps == 1 else 's'}" for steps in STEPS)
_FEW_STEPS = 2
"""Programs of up to so many steps are too few for a split by their steps."""


@dataclass(frozen=True)
class Step:
    """Copies the number of variable `source` to variable `target`, or swaps the two numbers."""

    target: int
    source: int
    is_swap: bool


def last_numbers(numbers: Sequence[int], steps: Iterable[Step]) -> list[int]:
    """The numbers of all variables after the steps."""
    now = list(numbers)
    for step in steps:
        old = now[step.target]
        now[step.target] = now[step.source]
        if step.is_swap:
            now[step.source] = old
    return now


@dataclass(frozen=True)
class Program:
    """Variables with their first numbers, what happens to them, and the variable that is asked for."""

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    """The variables' first numbers."""
    steps: tuple[Step, ...]
    asked: int

    @property
    def answer(self) -> int:
        """The asked variable's number at the end."""
        return last_numbers(self.numbers, self.steps)[self.asked]

    @property
    def structure(self) -> tuple[object, ...]:
        """The steps and the question, with the variables numbered by their first step: other names, numbers and orders
        of beginning make no new structure. For a few steps, the numbers alone."""
        if len(self.steps) <= _FEW_STEPS:
            return tuple(sorted(self.numbers))
        numbered: dict[int, int] = {}
        steps = [
            (step.is_swap, *(numbered.setdefault(one, len(numbered)) for one in (step.target, step.source)))
            for step in self.steps
        ]
        return (*steps, numbered.get(self.asked))


def _draw_step(rng: random.Random) -> Step:
    target, source = rng.sample(range(NUM_VARIABLES), 2)
    return Step(target, source, rng.random() < 0.5)


def draw_program(rng: random.Random, split: str, num_steps: int) -> Program:
    """Draws a program of the split. The answer is any variable's first number with equal chance, and that of the asked
    variable itself, unless there are no steps, with a chance of one in four."""
    names = tuple(rng.sample(NOUNS, NUM_VARIABLES))
    is_first_number = num_steps == 0 or rng.randrange(NUM_VARIABLES) == 0
    while True:
        numbers = tuple(rng.sample(range(10, 100), NUM_VARIABLES))
        steps = tuple(_draw_step(rng) for _ in range(num_steps))
        last = last_numbers(numbers, steps)
        fitting = [one for one in range(NUM_VARIABLES) if (last[one] == numbers[one]) == is_first_number]
        if fitting:
            program = Program(names, numbers, steps, rng.choice(fitting))
            if split_of((SEED, num_steps, program.structure)) == split:
                return program


def paired_items(
    split: str, seed: int, telling: str, tell: Callable[[random.Random, Program], str]
) -> Iterator[tuple[Item, Program]]:
    """Endless items of one split, the numbers of steps by turns; `tell(rng, program)` gives the question.

    The programs are the same for every `telling`, which names the words' own random numbers. No program of one split is
    in another.
    """

    def draw(rng: random.Random, split: str, num_steps: int) -> tuple[Item, Program]:
        program = draw_program(rng, split, num_steps)
        choices = rng.sample(program.numbers, NUM_VARIABLES)
        return Item(
            # A seed of its own: the words take nothing from the numbers that the next program is drawn with.
            question=tell(random.Random(f"{telling}/{rng.random()}"), program),
            choices=tuple(f"{number}." for number in choices),
            gold=choices.index(program.answer),
            part=PARTS[STEPS.index(num_steps)],
            attributes={
                "num_steps": num_steps,
                "is_first_number": int(program.answer == program.numbers[program.asked]),
            },
        ), program

    return items_by_turns("variables", split, seed, STEPS, draw)
