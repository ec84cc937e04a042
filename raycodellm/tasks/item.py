"""A multiple-choice item of a generated task, as lm-eval and a training corpus need it."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets

SPLITS = {"train": 0.45, "validation": 0.10, "test": 0.45}
"""Maps each split to its share of what a task deals out to splits, such as signatures of boxes."""


def unknown_split(split: str) -> ValueError:
    """The error of a generator that is asked for a split that no task has."""
    return ValueError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")


def split_of(structure: object) -> str:
    """The split of a structure: the one in whose share of SPLITS the hash of the structure's `repr` falls."""
    digest = hashlib.blake2b(repr(structure).encode(), digest_size=8).digest()
    fraction = int.from_bytes(digest, "big") / 2**64
    ends = itertools.accumulate(SPLITS.values())
    return next((name for name, end in zip(SPLITS, ends, strict=True) if fraction < end), list(SPLITS)[-1])


@dataclass(frozen=True)
class Item:
    """One question with its choices, of which exactly one is right.

    The question never ends in a space and no choice begins with one. Evaluation (by the tasks' `target_delimiter`) and
    training (by `training_pair`) put a single space between them, so that both show a model the same text.
    """

    question: str
    choices: tuple[str, ...]
    gold: int
    """Index of the right choice."""
    part: str | list[str]
    """The kind of the item, such as its level of difficulty, or several kinds; each part of a task has metrics of its
    own."""
    attributes: Mapping[str, int] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        return self.choices[self.gold]

    def training_pair(self) -> tuple[str, str]:
        """(prompt, response); the response begins with the space between the two."""
        return self.question, " " + self.answer

    def row(self) -> dict[str, object]:
        """The item in the columns that the tasks' YAML files name."""
        return {
            "question": self.question,
            "choices": list(self.choices),
            "gold": self.gold,
            "attributes": json.dumps({"part": self.part, **self.attributes}),
        }


def lm_eval_dataset(splits: Mapping[str, Iterable[Item]]) -> datasets.DatasetDict:
    """The items as lm-eval takes them, in memory: nothing is downloaded and nothing is written."""
    import datasets  # imported here, so that generating needs no library

    return datasets.DatasetDict(
        {name: datasets.Dataset.from_list([item.row() for item in items]) for name, items in splits.items()}
    )


def in_words(names: Iterable[str]) -> str:
    """`the bell`, `the bell and the rope`, `the bell, the cup and the rope`."""
    parts = [f"the {name}" for name in names]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
