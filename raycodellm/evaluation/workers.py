"""The workers that evaluate one model together, and what they tell each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The evaluation was told to stop. What it has scored is kept."""


@dataclass(frozen=True)
class Workers:
    """A worker's place in its group of workers. Its methods are collectives: every worker calls them."""

    rank: int = 0
    size: int = 1
    gather: Callable[[Any], list[Any]] | None = None
    """Returns every rank's object on every rank; None for a single worker."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or (self.size > 1 and self.gather is None):
            raise ValueError(
                f"rank {self.rank} of {self.size} workers, gather={self.gather}; several workers need a gather"
            )

    def all(self, own_value: T) -> list[T]:
        """The value of each worker, in the order of ranks."""
        if self.gather is None:
            return [own_value]
        values = self.gather(own_value)
        if len(values) != self.size:
            raise ValueError(f"gather returned {len(values)} objects from {self.size} workers")
        return values

    def first(self, own_value: T) -> T:
        """The value of rank 0."""
        return self.all(own_value)[0]


ONE_WORKER = Workers()
