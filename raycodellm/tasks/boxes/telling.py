"""Scenarios of boxes in words."""

from __future__ import annotations

import random

from raycodellm.tasks.boxes.world import Operation, Scenario, contents

_PUT = ("Put {things} into Box {target}.", "Into Box {target} we put {things}.", "Add {things} to Box {target}.")
_TAKEN = (
    "Take {things} out of Box {source}.",
    "Out of Box {source} we take {things}.",
    "Throw away {things} from Box {source}.",
)
_CARRIED = (
    "Carry {things} from Box {source} to Box {target}.",
    "From Box {source} bring {things} to Box {target}.",
    "Box {target} gets {things} from Box {source}.",
)
_OPENINGS = ("At first,", "To begin with,", "In the morning,")
_QUESTIONS = ("Now Box {box} contains", "In the end Box {box} contains", "After that Box {box} contains")


def tell_operation(rng: random.Random, operation: Operation) -> str:
    """Draws a sentence for the operation."""
    forms = _PUT if operation.source is None else _TAKEN if operation.target is None else _CARRIED
    form = rng.choice(forms)
    return form.format(things=contents(operation.objects), source=operation.source, target=operation.target)


def tell(rng: random.Random, scenario: Scenario, box: int, moment: int) -> str:
    """Draws a story up to `moment` that ends where the content of `box` follows."""
    boxes = ", ".join(f"Box {index} contains {contents(objects)}" for index, objects in enumerate(scenario.initial))
    told = [tell_operation(rng, operation) for operation in scenario.operations[:moment]]
    return " ".join([f"{rng.choice(_OPENINGS)} {boxes}.", *told, rng.choice(_QUESTIONS).format(box=box)])
