"""The items of the task `boxes`: questions about a box's content, with wrong choices that are hard to guess.

An item's `num_operations` counts the operations that changed the box it asks for, not those in its text. With none the
answer is copied from the initial description: such items are the part `trivial`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from raycodellm.tasks.boxes.world import (
    MAX_OBJECTS,
    NUM_BOXES,
    SEED,
    Scenario,
    State,
    contents,
    draw_scenario,
    signatures,
)
from raycodellm.tasks.generated import GeneratedTask
from raycodellm.tasks.item import Item

# Shares of items by num_operations. Drawn from all boxes and moments alike, 39 % would be trivial and 1.2 % would have
# five or more; the hard ones are drawn more often so that a thousand items can tell something about them.
OPERATION_SHARES = {0: 0.25, 1: 0.25, 2: 0.20, 3: 0.13, 4: 0.09, 5: 0.05, 6: 0.03}


def _draw_question(
    rng: random.Random, allowed: frozenset[tuple[int, ...]], num_operations: int, size: int
) -> tuple[Scenario, int, int]:
    """Draws a scenario, a box and a moment at which `num_operations` operations have changed the box, which holds
    `size` things."""
    while True:
        scenario = draw_scenario(rng, allowed)
        if len(scenario.mentioned(0)) < 2 * MAX_OBJECTS:
            continue  # too few things for the wrong choices
        by_moment: dict[int, list[int]] = {}
        changes = [0] * NUM_BOXES
        for moment, state in enumerate(scenario.states):
            if moment:
                before = scenario.states[moment - 1]
                changes = [count + (state[box] != before[box]) for box, count in enumerate(changes)]
            if found := [box for box in range(NUM_BOXES) if changes[box] == num_operations and len(state[box]) == size]:
                by_moment[moment] = found
        if by_moment:
            moment = rng.choice(list(by_moment))
            return scenario, rng.choice(by_moment[moment]), moment


def _draw_sizes(rng: random.Random) -> tuple[int, list[int]]:
    """Number of things in the right choice, and in each wrong choice.

    Every item offers an empty box, one choice of each size 1, 2 and 3, and one more of a size drawn from these three;
    each of the five is right with equal chance. So preferring short answers, long answers or `nothing` gains nothing.
    """
    sizes = [*range(MAX_OBJECTS + 1), rng.randint(1, MAX_OBJECTS)]
    return sizes.pop(rng.randrange(len(sizes))), sizes


def _altered(rng: random.Random, gold: frozenset[str], size: int, mentioned: list[str]) -> frozenset[str]:
    """Changes `gold` to `size` things: leaves things out or adds some; at its own size it exchanges one for another."""
    kept = rng.sample(sorted(gold), min(size, len(gold) - (size == len(gold))))
    strangers = [name for name in mentioned if name not in gold]
    return frozenset(kept + rng.sample(strangers, size - len(kept)))


def _wrong_choices(
    rng: random.Random, scenario: Scenario, box: int, moment: int, sizes: list[int]
) -> list[frozenset[str]]:
    """Draws one wrong content of each size in `sizes`, all different as sets.

    First come the box's initial content and its content before the last change: the answers of a model that copies, or
    that misses an operation. Then come the contents of other boxes, and alterations of the right content.
    """
    history, now = scenario.history(box, moment), scenario.states[moment]
    mentioned = scenario.mentioned(moment)
    taken = [history[-1]]
    for size in sizes:
        stale = {history[0], history[-2]} if len(history) > 1 else set()
        options = [content for content in stale if len(content) == size and content not in taken]
        if not options:
            others = [now[other] for other in range(NUM_BOXES) if len(now[other]) == size]
            options = [content for content in others if content not in taken]
            while not options:
                altered = _altered(rng, history[-1], size, mentioned)
                options = [altered] if altered not in taken else []
        taken.append(rng.choice(sorted(options, key=sorted)))
    return taken[1:]


def _draw_item(rng: random.Random, allowed: frozenset[tuple[int, ...]]) -> tuple[Item, Scenario]:
    num_operations = rng.choices(list(OPERATION_SHARES), list(OPERATION_SHARES.values()))[0]
    size, other_sizes = _draw_sizes(rng)
    scenario, box, moment = _draw_question(rng, allowed, num_operations, size)
    gold = scenario.states[moment][box]
    choices = [gold, *_wrong_choices(rng, scenario, box, moment, other_sizes)]
    rng.shuffle(choices)
    item = Item(
        question=scenario.text(box, moment),
        # With the full stop no answer is a prefix of another: `the bell` would outscore `the bell and the rope`.
        choices=tuple(f"{contents(objects)}." for objects in choices),
        gold=choices.index(gold),
        part="nontrivial" if num_operations else "trivial",
        attributes={"num_operations": num_operations, "operations_told": moment, "box": box},
    )
    return item, scenario


def generate(split: str, seed: int = SEED) -> Iterator[tuple[Item, Scenario]]:
    """Endless items of one split, each with its scenario; no initial state comes twice."""
    rng = random.Random(f"boxes/{split}/{seed}")
    allowed = signatures(split)
    seen: set[State] = set()
    while True:
        item, scenario = _draw_item(rng, allowed)
        if scenario.initial not in seen:
            seen.add(scenario.initial)
            yield item, scenario


TASK = GeneratedTask("boxes", ("trivial", "nontrivial"), generate, SEED)
dataset = TASK.dataset
"""For the YAML file."""
