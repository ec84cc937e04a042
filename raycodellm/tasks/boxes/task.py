"""The items of the task `boxes`: questions about a box's content, with wrong choices that are hard to guess.

Two to seven boxes by turns: the more boxes, the longer the text and the more operations that do not matter. An item's
`num_operations` counts the operations that changed the box it asks for, not those in its text. With none the answer is
copied from the initial description: such items are the part `trivial`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from raycodellm.tasks.boxes.telling import tell
from raycodellm.tasks.boxes.world import SEED, Scenario, State, World, contents
from raycodellm.tasks.generated import GeneratedTask
from raycodellm.tasks.item import Item

WORLDS = tuple(World(num_boxes=number) for number in range(2, 8))
"""Items are drawn in these worlds by turns."""
MAX_OBJECTS = WORLDS[0].max_objects

# Shares of items by num_operations. Drawn from all boxes and moments alike, 39 % would be trivial and 1.2 % would have
# five or more; the hard ones are drawn more often so that a thousand items can tell something about them.
OPERATION_SHARES = {0: 0.25, 1: 0.25, 2: 0.20, 3: 0.15, 4: 0.10, 5: 0.05}


Question = tuple[int, int]
"""A box, and the number of operations told before the question for its content."""


def _questions(rng: random.Random, scenario: Scenario) -> dict[tuple[int, int], list[Question]]:
    """Maps (operations that changed the box, things that it holds) to the questions of a scenario.

    Left out are moments at which the text has mentioned too few things for the wrong choices, and most moments right
    after a change of the box: with all of them the right things would be those mentioned last in every third item.
    """
    found: dict[tuple[int, int], list[Question]] = {}
    mentioned: set[str] = set()
    for moment, (state, changes) in enumerate(zip(scenario.states, scenario.num_changes, strict=True)):
        mentioned.update(*state)
        if len(mentioned) <= MAX_OBJECTS:
            continue
        before = changes if moment == 0 else scenario.num_changes[moment - 1]
        for box, num_operations in enumerate(changes):
            if num_operations == before[box] or rng.random() < 0.3:
                found.setdefault((num_operations, len(state[box])), []).append((box, moment))
    return found


class _Scenarios:
    """Draws scenarios of one world. A scenario that does not have the wanted question waits for another question."""

    def __init__(self, rng: random.Random, world: World, split: str) -> None:
        self._rng, self._world, self._split = rng, world, split
        self._waiting: list[tuple[Scenario, dict[tuple[int, int], list[Question]]]] = []

    def draw(self, num_operations: int, size: int) -> tuple[Scenario, Question]:
        """A scenario, and a question for a box that `num_operations` operations have changed and that holds `size`
        things. No scenario is given twice."""
        wanted = (num_operations, size)
        for place, (scenario, questions) in enumerate(self._waiting):
            if wanted in questions:
                del self._waiting[place]
                return scenario, self._rng.choice(questions[wanted])
        while True:
            scenario = self._world.draw_scenario(self._rng, self._split)
            questions = _questions(self._rng, scenario)
            if wanted in questions:
                return scenario, self._rng.choice(questions[wanted])
            self._waiting.append((scenario, questions))


def _draw_sizes(rng: random.Random) -> tuple[int, list[int]]:
    """Number of things in the right choice, and in each wrong choice.

    Every item offers an empty box, one choice of each size 1, 2 and 3, and one more of a size drawn from these three;
    each of the five is right with equal chance. So preferring short answers, long answers or `nothing` gains nothing.
    """
    sizes = [*range(MAX_OBJECTS + 1), rng.randint(1, MAX_OBJECTS)]
    return sizes.pop(rng.randrange(len(sizes))), sizes


def _altered(rng: random.Random, content: frozenset[str], size: int, mentioned: list[str]) -> frozenset[str]:
    """Changes `content` to `size` things: leaves things out or adds some; at its own size it exchanges one thing."""
    kept = rng.sample(sorted(content), min(size, len(content) - (size == len(content))))
    strangers = [name for name in mentioned if name not in content]
    return frozenset(kept + rng.sample(strangers, size - len(kept)))


def _wrong_choices(
    rng: random.Random, scenario: Scenario, box: int, moment: int, sizes: list[int]
) -> list[frozenset[str]]:
    """Draws one wrong content of each size in `sizes`, all different as sets.

    First come the box's initial content and its content before the last change: the answers of a model that copies, or
    that misses an operation. Then come the contents of other boxes, that of the box changed last before others: the
    answer of a model that names the things mentioned last. Then come alterations of other choices: were they all
    alterations of the right one, it would be the choice that shares most things with the others.
    """
    history, now = scenario.history(box, moment), scenario.states[moment]
    mentioned = scenario.mentioned(moment)
    preferred = (
        {history[0], history[-2]} if len(history) > 1 else set(),
        {now[other] for other in scenario.changed_last(box, moment)},
        {content for other, content in enumerate(now) if other != box},
    )
    taken = [history[-1]]
    for size in sizes:
        for several in preferred:
            if options := [content for content in several if len(content) == size and content not in taken]:
                break
        while not options:
            base = rng.choice(taken if len(history) == 1 else taken[1:] or taken)
            altered = _altered(rng, base, size, mentioned)
            options = [altered] if altered not in taken else []
        taken.append(rng.choice(sorted(options, key=sorted)))
    return taken[1:]


def _draw_item(rng: random.Random, world: World, scenarios: _Scenarios) -> tuple[Item, Scenario]:
    num_operations = rng.choices(list(OPERATION_SHARES), list(OPERATION_SHARES.values()))[0]
    size, other_sizes = _draw_sizes(rng)
    scenario, (box, moment) = scenarios.draw(num_operations, size)
    gold = scenario.states[moment][box]
    choices = [gold, *_wrong_choices(rng, scenario, box, moment, other_sizes)]
    rng.shuffle(choices)
    item = Item(
        question=tell(rng, scenario, box, moment),
        # With the full stop no answer is a prefix of another: `the bell` would outscore `the bell and the rope`.
        choices=tuple(f"{contents(objects)}." for objects in choices),
        gold=choices.index(gold),
        part=["nontrivial" if num_operations else "trivial", _level(world)],
        attributes={"num_operations": num_operations, "operations_told": moment, "box": box},
    )
    return item, scenario


def _level(world: World) -> str:
    return f"{world.num_boxes}_boxes"


def generate(split: str, seed: int = SEED) -> Iterator[tuple[Item, Scenario]]:
    """Endless items of one split, each with its scenario; no initial state comes twice."""
    rng = random.Random(f"boxes/{split}/{seed}")
    scenarios = {world: _Scenarios(rng, world, split) for world in WORLDS}
    seen: set[State] = set()
    for world in itertools.cycle(WORLDS):
        item, scenario = _draw_item(rng, world, scenarios[world])
        while scenario.initial in seen:
            item, scenario = _draw_item(rng, world, scenarios[world])
        seen.add(scenario.initial)
        yield item, scenario


TASK = GeneratedTask("boxes", ("trivial", "nontrivial", *map(_level, WORLDS)), generate, SEED)
dataset = TASK.dataset
"""For the YAML file."""
