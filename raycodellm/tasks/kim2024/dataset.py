"""The items of the task for lm-eval: seven per state, which share their prompt, so that one answer serves all seven."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raycodellm.tasks.boxes.world import Scenario
from raycodellm.tasks.kim2024.guessing import chance, mentions
from raycodellm.tasks.kim2024.prompt import question, shots
from raycodellm.tasks.kim2024.scenarios import SEED, Moment, scenarios
from raycodellm.tasks.kim2024.subset import evaluated_moments
from raycodellm.tasks.kim2024.wording import WORDINGS, Wording

if TYPE_CHECKING:
    import datasets


def dataset(variant: str = "base", **_: object) -> datasets.DatasetDict:
    """The evaluated items of a variant, by the YAML file's metadata; nothing is downloaded and nothing is written."""
    import datasets  # imported here, so that generating needs no library

    return datasets.DatasetDict({"test": datasets.Dataset.from_list(list(items(variant)))})


def items(variant: str = "base", seed: int = SEED) -> Iterator[dict[str, Any]]:
    """The items of a variant, state by state; the seven boxes of a state in order. Equal in all but the wording."""
    wording, told = WORDINGS[variant], scenarios("test", seed)
    for number, moment in enumerate(evaluated_moments(seed)):
        scenario = told[moment.scenario]
        state = scenario.states[moment.num_told]
        description = wording.description(scenario, moment.num_told)
        shared = {
            "shots": "" if variant == "query" else shots(variant, seed),
            "question": question(description),
            "statement": wording.statement(state),
            "places": [wording.place(box) for box in range(len(state))],
            "initial": [_names(wording, things) for things in scenario.initial],
            "state": [_names(wording, things) for things in state],
        }
        for box, things in enumerate(state):
            attributes = _attributes(scenario, moment, box) | {"state": number}
            own: dict[str, Any] = {"box": box, "attributes": json.dumps(attributes)}
            if variant == "query":
                own["question"] = f"{description} {wording.place(box)}"
                own["statement"] = f"{wording.content_clause(things)}."
            yield shared | own


def _names(wording: Wording, things: frozenset[str]) -> list[str]:
    return sorted(map(wording.name, things))


def _attributes(scenario: Scenario, moment: Moment, box: int) -> dict[str, Any]:
    """Facts about the item beside its text. Items of one scenario are one `cluster`: they share a description."""
    number, gold, first = moment.changes[box], scenario.states[moment.num_told][box], scenario.initial[box]
    return {
        "part": ["nontrivial" if number else "trivial", f"{number}_operations"],
        "cluster": moment.scenario,
        "chance": chance(mentions(scenario, box, moment.num_told), gold),
        "box": box,
        "num_operations": number,
        "operations_told": moment.num_told,
        "eq_initial": gold == first,
    }
