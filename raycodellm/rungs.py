"""Early stopping's comparisons: asynchronous successive halving of the stages that reach a rung, as plain values.

A rung is a share of one stage. Each comparison is final and has a place in the order of all of them. A driver that
takes a sweep over replays them from the trials' folders, so it compares the next stage with the same values as the
driver before would have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rung:
    """A stage at one rung of early stopping, compared with the stages that had reached the rung before."""

    place: int
    """Place among all comparisons of the sweep, in the order in which they were made, from 0."""
    stage: str
    """Key of the stage's job."""
    share: float
    """The rung, as a share of the stage's steps."""
    step: int
    """Steps trained."""
    value: float
    """Bits per byte of the held-out text."""
    rank: int
    """Place by value among the stages that had reached the rung, this one included; 1 is the best."""
    num_reached: int
    """Stages that had reached the rung, this one included."""
    cut: float | None
    """The worst value with which a stage goes on; None for the first ones, which go on whatever their values are."""

    @property
    def goes_on(self) -> bool:
        return self.cut is None or self.value <= self.cut


class Halving:
    """The comparisons that were made, and what they say of the next stage (Li et al. 2020, arXiv 1810.05934)."""

    def __init__(self, keep: float, earlier_rungs: Iterable[Rung] = ()) -> None:
        """`keep`: share of the stages at a rung that go on; `earlier_rungs`: the comparisons of earlier drivers."""
        self._keep = keep
        self._compared: dict[tuple[str, float], Rung] = {}
        """Maps (stage, share) to the comparison of the stage at the rung."""
        for rung in earlier_rungs:
            self.note(rung)

    def copy(self) -> Halving:
        return Halving(self._keep, self._compared.values())

    def note(self, rung: Rung) -> None:
        """Counts a comparison. The first of a stage at a rung stands: trials with equal stages share it."""
        self._compared.setdefault((rung.stage, rung.share), rung)

    def of(self, stage: str, share: float) -> Rung | None:
        """The comparison of the stage (by key) at the rung; None where none was made."""
        return self._compared.get((stage, share))

    def compare(self, stage: str, share: float, step: int, value: float) -> Rung:
        """The stage's comparison at the rung: the one that was made, or else the next one, which is not counted yet.

        Raises ValueError for a value that is not finite: no order has a place for it.
        """
        earlier = self.of(stage, share)
        if earlier is not None:
            return earlier
        if not math.isfinite(value):
            raise ValueError(f"found {value}, which cannot be compared")
        others = [rung.value for rung in self._compared.values() if rung.share == share]
        place = 1 + max((rung.place for rung in self._compared.values()), default=-1)
        rank = 1 + sum(other < value for other in others)
        return Rung(place, stage, share, step, value, rank, 1 + len(others), cut([*others, value], self._keep))


def cut(values: Sequence[float], keep: float) -> float | None:
    """The worst of `values` with which a stage goes on, where lower is better: `keep` of them go on, rounded up.

    None for up to 1 / `keep` values, rounded up: so few do not tell a good value from a bad one.
    """
    if len(values) <= math.ceil(1 / keep - 1e-9):
        return None
    return sorted(values)[math.ceil(keep * len(values) - 1e-9) - 1]


def stopping_columns(
    state: str, rungs: Sequence[Rung], stopped_by: int | None, counts: Mapping[str, float]
) -> dict[str, Any]:
    """Columns of `trials.parquet`: the value at each rung; of a trial that was stopped early also where and why, and
    its further `counts` by their names. Of a failed one the counts that are not 0."""
    columns: dict[str, Any] = {f"rungs.{rung.share:g}": rung.value for rung in rungs}
    if state == "pruned":
        last = rungs[-1] if rungs and stopped_by is None else None
        columns["stopped.by"] = stopped_by
        columns.update({f"stopped.{name}": count for name, count in counts.items()})
        for name in ("stage", "share", "step", "value", "rank", "num_reached", "cut"):
            columns[f"stopped.{name}"] = getattr(last, name, None)
    elif state == "failed":
        columns.update({f"stopped.{name}": count for name, count in counts.items() if count})
    return columns
