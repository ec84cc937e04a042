"""Samples of scored items: mappings from an item to its value, kept in arrays where a task has thousands of items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Sample = Mapping[Any, float]
"""Maps each scored item, by a hashable name, to its value."""


class TaskSample(Mapping[tuple[str, int], float]):
    """The values of items of one or several tasks, by (task, item's number)."""

    def __init__(self, tasks: Sequence[tuple[str, np.ndarray]], numbers: np.ndarray) -> None:
        """`tasks`: each task with its items' numbers, each item once; `numbers`: the values of all items, in order."""
        self.tasks, self.numbers = tuple(tasks), numbers
        self._by_item: dict[tuple[str, int], float] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return ((task, item) for task, items in self.tasks for item in items.tolist())

    def __getitem__(self, item: tuple[str, int]) -> float:
        if not self._by_item:
            self._by_item = dict(zip(self, self.numbers.tolist(), strict=True))
        return self._by_item[item]

    def has_items_of(self, other: TaskSample) -> bool:
        """True if both have the same items in the same order."""
        if len(self.tasks) != len(other.tasks):
            return False
        pairs = zip(self.tasks, other.tasks, strict=True)
        return all(a is b or (a[0] == b[0] and np.array_equal(a[1], b[1])) for a, b in pairs)


def numbers_of(sample: Sample) -> np.ndarray:
    """The sample's values, in its own order."""
    if isinstance(sample, TaskSample):
        return sample.numbers
    return np.fromiter(sample.values(), dtype=float, count=len(sample))


def numbers_like(sample: Sample, other: Sample) -> np.ndarray | None:
    """The sample's values in the order of the other's items; None unless both have the same items."""
    if isinstance(sample, TaskSample) and isinstance(other, TaskSample) and sample.has_items_of(other):
        return sample.numbers
    if sample.keys() != other.keys():
        return None
    return np.fromiter((sample[item] for item in other), dtype=float, count=len(other))


def with_numbers(sample: Sample, numbers: np.ndarray) -> Sample:
    """The sample's items with other values, in the sample's order."""
    if isinstance(sample, TaskSample):
        return TaskSample(sample.tasks, numbers)
    return dict(zip(sample, numbers.tolist(), strict=True))


def share_an_item(one: Sample, other: Sample) -> bool:
    """True if an item is in both samples."""
    if isinstance(one, TaskSample) and isinstance(other, TaskSample):
        tasks = {task for task, _ in other.tasks}
        if not any(task in tasks for task, _ in one.tasks):
            return False
    return not one.keys().isdisjoint(other.keys())
