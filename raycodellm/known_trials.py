"""The trials of a sweep as its driver knows them at one moment. Whoever looks at them again and again sees at once how
many have ended, which have not, and which have changed since the last look, however many trials there are."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

from raycodellm.records import ENDED, TrialResult


class KnownTrials(tuple[TrialResult, ...]):
    """The trials in the order of their numbers, as they are at one moment."""

    counts: Mapping[str, int]
    """Trials in each state."""
    open: tuple[TrialResult, ...]
    """The trials that have not ended."""
    _changes: list[int]
    """Numbers of the trials that have changed, in order; shared by all moments of a sweep, and only added to."""
    _num_changes: int
    """Changes until this moment."""

    def of(self, number: int) -> TrialResult | None:
        """The trial with this number; None where it has not begun."""
        return _with_number(self, number)

    def changed_since(self, before: KnownTrials) -> list[TrialResult] | None:
        """The trials that have changed since the moment `before`; None where that is of another sweep."""
        if before._changes is not self._changes:
            return None
        numbers = sorted(set(self._changes[before._num_changes : self._num_changes]))
        return [result for number in numbers if (result := self.of(number)) is not None]


class TrialsSoFar:
    """Keeps the trials of a sweep current; for one thread at a time."""

    def __init__(self, results: Sequence[TrialResult] = ()) -> None:
        self._ordered = sorted(results, key=lambda result: result.number)
        self._open = {result.number: result for result in self._ordered if result.state not in ENDED}
        self._counts = Counter(result.state for result in self._ordered)
        self._changes: list[int] = []
        self._now: KnownTrials | None = None

    def __len__(self) -> int:
        return len(self._ordered)

    def of(self, number: int) -> TrialResult | None:
        """The trial with this number; None where it has not begun."""
        return _with_number(self._ordered, number)

    def put(self, result: TrialResult) -> None:
        """A trial is new, or has changed."""
        index = bisect_left(self._ordered, result.number, key=lambda other: other.number)
        if index < len(self._ordered) and self._ordered[index].number == result.number:
            self._counts[self._ordered[index].state] -= 1
            self._ordered[index] = result
        else:
            self._ordered.insert(index, result)
        self._counts[result.state] += 1
        self._open.pop(result.number, None)
        if result.state not in ENDED:
            self._open[result.number] = result
        self._changes.append(result.number)
        self._now = None

    def now(self) -> KnownTrials:
        """The trials as they are now; the same object until one changes."""
        if self._now is None:
            self._now = KnownTrials(self._ordered)
            self._now.counts = +self._counts  # a copy
            self._now.open = tuple(self._open[number] for number in sorted(self._open))
            self._now._changes, self._now._num_changes = self._changes, len(self._changes)
        return self._now


def _with_number(ordered: Sequence[TrialResult], number: int) -> TrialResult | None:
    index = bisect_left(ordered, number, key=lambda result: result.number)
    return ordered[index] if index < len(ordered) and ordered[index].number == number else None


def state_counts(results: Sequence[TrialResult]) -> Mapping[str, int]:
    """Trials in each state; 0 for a state that no trial has."""
    return results.counts if isinstance(results, KnownTrials) else Counter(result.state for result in results)


def num_ended(results: Sequence[TrialResult]) -> int:
    """Trials that have ended, in whatever way."""
    counts = state_counts(results)
    return sum(counts.get(state, 0) for state in ENDED)


def open_trials(results: Sequence[TrialResult]) -> Sequence[TrialResult]:
    """The trials that have not ended."""
    if isinstance(results, KnownTrials):
        return results.open
    return [result for result in results if result.state not in ENDED]


def changed(results: Sequence[TrialResult], before: Sequence[TrialResult]) -> Sequence[TrialResult]:
    """The trials that are new or other than at the moment `before`, in their order."""
    if isinstance(results, KnownTrials) and isinstance(before, KnownTrials):
        changes = results.changed_since(before)
        if changes is not None:
            return changes
    pairs = itertools.zip_longest(results, before)
    return [result for result, earlier in pairs if result is not None and result is not earlier and result != earlier]
