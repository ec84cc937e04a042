"""A generated corpus of abstract data: formal languages and simple algorithms, without a word of natural language.

The rules are those of Jiang et al. 2026 (Procedural Pretraining: Warming Up Language Models with Abstract Data, arXiv
2601.21725), written as text. Each document follows one rule; the rules take turns:

* `nested`: a word of balanced brackets of 1 to 16 kinds, properly nested (k-Dyck);
* `shuffled`: the same, but each kind is balanced by itself, across the others (k-Dyck shuffle);
* `identity`, `reverse`, `sort`, `set`, `union`, `delete`, `stack`: lines of `input | output` over whole numbers from 0
  to 99. `set` keeps the first of equal numbers; `union` does so over two lists `a ; b`; `delete` leaves out the number
  behind the `;`; `stack` pushes each number, pops at each `-`, and tells the remaining numbers, from the bottom;
* `automaton`: rows of a ring of cells under Wolfram's rule 110, each made of the row before.

Brackets are written `()[]{}<>`, or a capital letter that its small letter closes where a word has more than four kinds.
The documents depend on nothing but this file: equal on every machine, for every seed of a sweep.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import lru_cache

from raycodellm.files import fingerprint

GENERATOR_VERSION = 1
"""To be raised whenever these functions give other documents."""
NUM_DOCUMENTS = 7_000
"""About 4 MB."""
_SEED = 2_601_21725
_SIGNS = (("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"))
_LETTERS = tuple((letter.upper(), letter) for letter in "abcdefghijklmnop")
_PAIRS = range(40, 361)
"""Pairs of brackets in a word."""
_DEEPEST = 24
"""Brackets that are open at once."""
_LINES = range(6, 17)
_LENGTHS = range(4, 17)
"""Numbers in an input."""
_CELLS = range(24, 49)
_RULE = 110

Row = tuple[str, str]
_Draw = Callable[[random.Random], str]


def documents() -> Iterator[Row]:
    """(id, text) of every document; no text occurs twice."""
    seen: set[str] = set()
    for number in range(NUM_DOCUMENTS):
        name, draw = _RULES[number % len(_RULES)]
        chance = random.Random(f"{_SEED}/{name}/{number}")
        text = draw(chance)
        while text in seen:
            text = draw(chance)
        seen.add(text)
        yield f"{name}:{number // len(_RULES)}", text


@lru_cache(maxsize=1)
def digest() -> str:
    """16 hex digits that change with the version and with the documents that this Python draws, by those of one turn
    through the rules."""
    sample = [draw(random.Random(f"{_SEED}/{name}")) for name, draw in _RULES]
    return fingerprint([GENERATOR_VERSION, NUM_DOCUMENTS, sample])


# ------------------------------------------------------------------------------------------------------ brackets


def _kinds(chance: random.Random) -> tuple[tuple[str, str], ...]:
    """Draws the bracket kinds of a word."""
    number = chance.choice((1, 2, 4, 8, 16))
    return tuple(chance.sample(_SIGNS, number)) if number <= len(_SIGNS) else _LETTERS[:number]


def _word(close: Callable[[random.Random, list[str]], str]) -> _Draw:
    """Words of balanced brackets. `close` takes one of the signs that close the open brackets, the newest last."""

    def draw(chance: random.Random) -> str:
        kinds, pairs = _kinds(chance), chance.choice(_PAIRS)
        closers: list[str] = []
        word: list[str] = []
        unopened = chance.choices(kinds, k=pairs)
        while unopened or closers:
            if unopened and len(closers) < _DEEPEST and (not closers or chance.random() < 0.5):
                opening, closing = unopened.pop()
                closers.append(closing)
                word.append(opening)
            else:
                word.append(close(chance, closers))
        return "".join(word)

    return draw


def _close_any(chance: random.Random, closers: list[str]) -> str:
    place = int(chance.random() * len(closers))
    closers[place], closers[-1] = closers[-1], closers[place]
    return closers.pop()


# ------------------------------------------------------------------------------------------------------- numbers

Numbers = list[int]


def _numbers(chance: random.Random) -> Numbers:
    """Draws an input. Half of the inputs have few different numbers, so that some occur again."""
    largest = chance.choice((9, 99))
    return [int(chance.random() * (largest + 1)) for _ in range(chance.choice(_LENGTHS))]


def _text(numbers: Numbers) -> str:
    return " ".join(map(str, numbers))


def _lines(draw: _Draw) -> _Draw:
    """A document of several examples of one rule, one a line."""
    return lambda chance: "\n".join(draw(chance) for _ in range(chance.choice(_LINES)))


def _mapped(rule: Callable[[Numbers], Numbers]) -> _Draw:
    def draw(chance: random.Random) -> str:
        numbers = _numbers(chance)
        return f"{_text(numbers)} | {_text(rule(numbers))}"

    return _lines(draw)


def _first_of_each(numbers: Numbers) -> Numbers:
    return list(dict.fromkeys(numbers))


def _union(chance: random.Random) -> str:
    first, second = _numbers(chance), _numbers(chance)
    return f"{_text(first)} ; {_text(second)} | {_text(_first_of_each(first + second))}"


def _delete(chance: random.Random) -> str:
    numbers = _numbers(chance)
    deleted = chance.choice(numbers)
    return f"{_text(numbers)} ; {deleted} | {_text([number for number in numbers if number != deleted])}"


def _stack(chance: random.Random) -> str:
    operations: list[str] = []
    stack: Numbers = []
    for number in _numbers(chance) + _numbers(chance):
        if stack and chance.random() < 0.4:
            stack.pop()
            operations.append("-")
        else:
            stack.append(number)
            operations.append(str(number))
    return f"{' '.join(operations)} | {_text(stack)}".rstrip()


def _automaton(chance: random.Random) -> str:
    cells = [int(chance.random() < 0.5) for _ in range(chance.choice(_CELLS))]
    rows = []
    for _ in range(chance.choice(_LINES)):
        rows.append("".join(map(str, cells)))
        around = zip(cells[-1:] + cells[:-1], cells, cells[1:] + cells[:1], strict=True)
        cells = [_RULE >> (4 * left + 2 * middle + right) & 1 for left, middle, right in around]
    return "\n".join(rows)


_RULES: tuple[tuple[str, _Draw], ...] = (
    ("nested", _word(lambda chance, closers: closers.pop())),
    ("identity", _mapped(list)),
    ("shuffled", _word(_close_any)),
    ("reverse", _mapped(lambda numbers: numbers[::-1])),
    ("stack", _lines(_stack)),
    ("sort", _mapped(sorted)),
    ("automaton", _automaton),
    ("set", _mapped(_first_of_each)),
    ("union", _lines(_union)),
    ("delete", _lines(_delete)),
)
RULES = tuple(name for name, _ in _RULES)
