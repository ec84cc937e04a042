"""The prompt of two shots: an instruction, two solved examples, and the description to solve.

As in Kim et al. (2024) the first example has no operations, the second the same initial state and six operations, and a
model writes the contents of all seven boxes. The instruction is our own.
"""

from __future__ import annotations

import functools

from raycodellm.tasks.boxes.world import Scenario
from raycodellm.tasks.kim2024.scenarios import SEED, scenarios
from raycodellm.tasks.kim2024.wording import WORDINGS, Wording

SHOT_OPERATIONS = {"numops": 2}
"""Operations in the second example of a variant; six where a variant is not named. `numops` shows two, as many as its
training split has, and asks about up to twelve."""
SHOTS_FROM = {"other_nouns": "base"}
"""The variant whose wording the examples of another have: its test has nouns that the examples do not show."""


@functools.cache
def shots(variant: str, seed: int = SEED) -> str:
    """The instruction and both examples, ending before the description to solve."""
    wording = WORDINGS[SHOTS_FROM.get(variant, variant)]
    num_told = SHOT_OPERATIONS.get(variant, 6)
    scenario = next(one for one in scenarios("train", seed) if _shows_all(one, num_told))
    place = wording.place_word.lower()
    instruction = (
        f"Read each description of {place}es" if place == "box" else f"Read each description of {place}s"
    ) + f" and of what is done with the things in them, then state what every {place} contains in the end."
    return "\n\n".join([instruction, *(_solved(wording, scenario, told) for told in (0, num_told))]) + "\n\n"


def question(description: str) -> str:
    """The description to solve, ending where the statement follows after a space."""
    return f"Description: {description}\nStatement:"


def _solved(wording: Wording, scenario: Scenario, num_told: int) -> str:
    description = wording.description(scenario, num_told)
    return f"{question(description)} {wording.statement(scenario.states[num_told])}"


def _shows_all(scenario: Scenario, num_told: int) -> bool:
    """True if the example shows every kind of operation that its length allows, a move of all of a box's things, an
    empty box in the end, and a box with several things."""
    told = scenario.operations[:num_told]
    kinds = {(done.source is None, done.target is None) for done in told}
    emptied = any(
        None not in (done.source, done.target) and done.objects == before[done.source or 0]
        for done, before in zip(told, scenario.states, strict=False)
    )
    sizes = {len(things) for things in scenario.states[num_told]}
    return len(kinds) == min(3, num_told) and emptied and 0 in sizes and max(sizes) > 1
