"""A task whose items a program generates: its generator, and the splits for evaluation and training."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from raycodellm.tasks.item import SPLITS, Item, lm_eval_dataset, unknown_split

if TYPE_CHECKING:
    import datasets

NUM_TEST_ITEMS = 1000
"""Items that are evaluated."""
NUM_TRAIN_ITEMS = 200
"""Items of the training split that lm-eval draws few-shot examples from."""

MAX_DRAWS = 50
"""Draws of an item until it may be one that came before."""
Level = TypeVar("Level")
Solution = TypeVar("Solution")


def items_by_turns(
    name: str,
    split: str,
    seed: int,
    levels: Sequence[Level],
    draw: Callable[[random.Random, str, Level], tuple[Item, Solution]],
) -> Iterator[tuple[Item, Solution]]:
    """Endless items that `draw(rng, split, level)` gives, the levels by turns. Raises ValueError for an unknown split.

    No question comes twice, until a level has nearly run out of questions: the easiest sums have some 8,000."""
    if split not in SPLITS:
        raise unknown_split(split)
    rng = random.Random(f"{name}/{split}/{seed}")
    seen: set[str] = set()
    for level in itertools.cycle(levels):
        for _ in range(MAX_DRAWS):
            item, solution = draw(rng, split, level)
            if item.question not in seen:
                break
        seen.add(item.question)
        yield item, solution


@dataclass(frozen=True)
class GeneratedTask:
    """A task whose items a program makes: nothing is downloaded and no file of items exists."""

    name: str
    """The name of the task's folder and of the YAML file in it."""
    parts: tuple[str, ...]
    """Values of `Item.part`, mostly levels of difficulty from easy to hard; each part has metrics of its own."""
    generate: Callable[[str, int], Iterator[tuple[Item, Any]]]
    """Endless items of a split by its name and a seed, each with its solution for tests. Equal arguments give equal
    items on any machine; no item of one split is in another. Raises ValueError for an unknown split."""
    seed: int
    """Seed of the items that are evaluated."""

    @functools.cached_property
    def evaluated_items(self) -> tuple[Item, ...]:
        """The items of the test split that are evaluated."""
        return self._first("test", NUM_TEST_ITEMS)

    def dataset(self, **_: object) -> datasets.DatasetDict:
        """The task's data for lm-eval, which passes the YAML file's metadata and the model's arguments."""
        return lm_eval_dataset({"train": self._first("train", NUM_TRAIN_ITEMS), "test": self.evaluated_items})

    def _first(self, split: str, num_items: int) -> tuple[Item, ...]:
        return tuple(item for item, _ in itertools.islice(self.generate(split, self.seed), num_items))
