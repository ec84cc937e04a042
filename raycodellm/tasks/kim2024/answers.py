"""The things that a model says are in each box, and how good that is.

As in Kim and Schuster (2023) an answer is right if its set of things is: order, articles and commas do not count.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

_SEPARATOR = re.compile(r",|\band\b|\bthe\b", re.I)
_CLAUSE = re.compile(r"(\w+)\s+(contains|is)\b(.*)", re.S)


def said_contents(response: str, places: Sequence[str]) -> list[frozenset[str] | None]:
    """The things said to be in each of `places`, such as `Box 0`; None where the response says nothing of the place.

    The response ends at its first full stop. Of two clauses on one place the first counts.
    """
    word = places[0].split()[0]
    found: dict[str, frozenset[str] | None] = {}
    for clause in re.split(rf"(?:,|\band\b)?\s*\b{word}\b\s*", response.split(".")[0]):
        if match := _CLAUSE.fullmatch(clause.strip()):
            found.setdefault(f"{word} {match[1]}", _things(match[3]))
    return [found.get(place) for place in places]


def _things(text: str) -> frozenset[str] | None:
    """The things that a clause lists; None for no words at all, which is not how an empty box is said."""
    names = frozenset(" ".join(part.split()) for part in _SEPARATOR.split(text)) - {""}
    if names in ({"nothing"}, {"empty"}):
        return frozenset()
    return names or None


def box_scores(said: Collection[str] | None, gold: Collection[str], initial: Collection[str]) -> dict[str, float]:
    """Scores of one box. `said`: the things that the model says, or None; `initial`: those at first.

    `acc`: 1 if the sets are equal. `missing`: 1 if the model says nothing of the box. `copied`: 1 if it says the
    initial content. `precision` and `hallucination` (precision below 1) have a value where the model names a thing,
    `recall` where the box holds one.
    """
    named, held = frozenset(said or ()), frozenset(gold)
    found = {"acc": float(said is not None and named == held), "missing": float(said is None)}
    found["copied"] = float(said is not None and named == frozenset(initial))
    if named:
        found["precision"] = len(named & held) / len(named)
        found["hallucination"] = float(found["precision"] < 1)
    if held:
        found["recall"] = len(named & held) / len(held)
    return found


def item_scores(doc: Mapping[str, object], response: str) -> dict[str, float]:
    """Scores of the box that the item asks for, and `state_acc`: 1 if the response is right on all boxes."""
    places, state, initial = (list(doc[key]) for key in ("places", "state", "initial"))  # type: ignore[call-overload]
    said, box = said_contents(response, places), int(doc["box"])  # type: ignore[call-overload]
    whole = all(one is not None and one == frozenset(gold) for one, gold in zip(said, state, strict=True))
    return {**box_scores(said[box], state[box], initial[box]), "state_acc": float(whole)}


def process_results(doc: Mapping[str, object], results: Sequence[str]) -> dict[str, float]:
    """See `item_scores`; the function that the YAML files name."""
    return item_scores(doc, results[0])
