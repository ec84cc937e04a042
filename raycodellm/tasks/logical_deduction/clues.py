"""Clues about the order of a row, and structures: minimal sets of clues that leave exactly one order.

Splits share no structure. A structure names every thing by its place in the solution, so that new words, another story,
another order of telling or another question make no new structure.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable

from raycodellm.tasks.item import split_of

SEED = 6101
"""Fixes the split of the structures and the test items; another seed is another benchmark."""
MAX_PLACES_TOLD = 1
"""Most clues of one puzzle that name a place: with more of them nothing is left to deduce."""

Clue = tuple[str, tuple[int, ...]]
"""Kind and things. A structure names things by their place in the solution; elsewhere things are numbered freely."""

_HOLDS: dict[str, Callable[..., bool]] = {
    "before": lambda size, a, b: a < b,
    "next": lambda size, a, b: a + 1 == b,
    "beside": lambda size, a, b: abs(a - b) == 1,
    "between": lambda size, a, b, c: a < b < c or c < b < a,
    "end": lambda size, a: a in (0, size - 1),
}


def holds(clue: Clue, places: tuple[int, ...]) -> bool:
    """True if the clue is true when thing i is at place `places[i]`. The second number of an `at` clue is a place."""
    kind, things = clue
    if kind == "at":
        return places[things[0]] == things[1]
    return _HOLDS[kind](len(places), *(places[thing] for thing in things))


@functools.cache
def _true_clues(size: int) -> tuple[tuple[Clue, int], ...]:
    """Every clue that is true of the solved row 0, 1, 2, ..., with the orders that it allows as bits of an integer."""
    solved, orders = tuple(range(size)), list(itertools.permutations(range(size)))
    clues: list[Clue] = [("at", (thing, thing)) for thing in solved]
    clues += [("end", (thing,)) for thing in solved]
    clues += [(kind, pair) for kind in ("before", "next") for pair in itertools.permutations(solved, 2)]
    clues += [("beside", pair) for pair in itertools.combinations(solved, 2)]
    clues += [("between", triple) for triple in itertools.combinations(solved, 3)]
    true = [clue for clue in clues if holds(clue, solved)]
    return tuple((clue, sum(holds(clue, order) << bit for bit, order in enumerate(orders))) for clue in true)


def structure_split(clues: frozenset[Clue], size: int) -> str:
    """The split that a structure belongs to."""
    return split_of((SEED, size, sorted(clues)))


def draw_structure(rng: random.Random, size: int) -> frozenset[Clue]:
    """Draws clues that fix the order, each of them necessary: adds random clues until one order is left, then drops the
    superfluous ones."""
    every = (1 << len(list(itertools.permutations(range(size))))) - 1
    chosen: list[tuple[Clue, int]] = []
    left = every
    for clue, allowed in rng.sample(_true_clues(size), len(_true_clues(size))):
        if clue[0] == "at" and sum(other[0] == "at" for other, _ in chosen) == MAX_PLACES_TOLD:
            continue
        if left & allowed != left:  # the clue rules out an order
            chosen.append((clue, allowed))
            left &= allowed
        if left.bit_count() == 1:
            break
    for superfluous in rng.sample(chosen, len(chosen)):
        rest = [other for other in chosen if other is not superfluous]
        if functools.reduce(lambda orders, other: orders & other[1], rest, every) == left:
            chosen = rest
    return frozenset(clue for clue, _ in chosen)
