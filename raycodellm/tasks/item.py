"""What the generated tasks share: one multiple-choice item, and its way into lm-eval and into a training corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets

SPLITS = {"train": 0.45, "validation": 0.10, "test": 0.45}
"""Names of the splits and their shares of all signatures (boxes) or structures (logical_deduction)."""


@dataclass(frozen=True)
class Item:
    """One question with its choices, of which exactly one is right.

    The question never ends in a space and no choice begins with one: a single space lies between them, in evaluation
    (the tasks' `target_delimiter`) as in training (`training_pair`), so that both show a model the same text.
    """

    question: str
    choices: tuple[str, ...]
    gold: int
    """Index of the right choice."""
    part: str
    """Which kind of item this is; accuracy is also reported apart for each part of a task."""
    attributes: Mapping[str, int] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        return self.choices[self.gold]

    def training_pair(self) -> tuple[str, str]:
        """(prompt, response); the response carries the space that parts the two."""
        return self.question, " " + self.answer

    def row(self) -> dict[str, object]:
        return {
            "question": self.question,
            "choices": list(self.choices),
            "gold": self.gold,
            "attributes": json.dumps({"part": self.part, **self.attributes}),
        }


def lm_eval_dataset(splits: Mapping[str, Iterable[Item]]) -> datasets.DatasetDict:
    """The items as lm-eval wants them, in memory: nothing is downloaded and nothing is written."""
    import datasets  # here, so that generating needs nothing but Python

    return datasets.DatasetDict(
        {name: datasets.Dataset.from_list([item.row() for item in items]) for name, items in splits.items()}
    )


def in_words(names: Iterable[str]) -> str:
    """`the bell`, `the bell and the rope`, `the bell, the cup and the rope`."""
    parts = [f"the {name}" for name in names]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
