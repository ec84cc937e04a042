"""Prompts and answers of the splits that are not evaluated, to tune a model on the task as Kim and Schuster (2023) do.

`python -m raycodellm.tasks.kim2024.training > train.jsonl` writes what a source of kind `instruct_text` reads.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from raycodellm.tasks.kim2024.prompt import SHOT_OPERATIONS, question
from raycodellm.tasks.kim2024.scenarios import NUM_SCENARIOS, SEED, scenarios
from raycodellm.tasks.kim2024.wording import WORDINGS


def pairs(split: str, variant: str = "base", seed: int = SEED) -> Iterator[tuple[str, str]]:
    """(prompt, response) after each operation of each scenario of a split: one pair for all boxes, seven of `query`.

    The response begins with the space between the two. The training split of `numops` ends after two operations.
    """
    wording = WORDINGS[variant]
    for scenario in scenarios(split, seed):
        num_operations = (
            SHOT_OPERATIONS.get(variant, len(scenario.operations)) if split == "train" else len(scenario.operations)
        )
        for num_told, state in enumerate(scenario.states[: num_operations + 1]):
            description = wording.description(scenario, num_told)
            if variant != "query":
                yield question(description), f" {wording.statement(state)}"
                continue
            for box, things in enumerate(state):
                yield f"{description} {wording.place(box)}", f" {wording.content_clause(things)}."


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes pairs of prompt and completion as jsonl to standard output.")
    parser.add_argument("--split", choices=[name for name in NUM_SCENARIOS if name != "test"], default="train")
    parser.add_argument("--variant", choices=[*WORDINGS], default="base")
    options = parser.parse_args()
    for prompt, response in pairs(options.split, options.variant):
        sys.stdout.write(json.dumps({"prompt": prompt, "completion": response}) + "\n")


if __name__ == "__main__":
    main()
