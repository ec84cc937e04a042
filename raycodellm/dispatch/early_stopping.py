"""Early stopping in a running sweep: which trials a stage's rung stops, as pure logic.

A stage is compared once at each rung, whoever needs it (`rungs.Halving`). Of an arm's replicates the first decides; the
others are stopped with it, and never compared: their noise would choose among seeds of one arm. The reference and the
confirmation are never stopped. The reference is compared, so that its value counts for the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from raycodellm.rungs import Halving, Rung


@dataclass(frozen=True)
class Contender:
    """A trial as early stopping sees it."""

    arm: int
    is_compared: bool
    """True for the first replicate of an arm of the search."""
    is_stopped: bool
    """False for a trial that goes on whatever the comparisons say."""
    stage: str
    """Key of the stage whose rungs are compared."""
    shares: Mapping[int, float]
    """Maps the steps of the rungs to their shares of the stage, in order."""
    source: str
    """The source whose held-out text is measured."""
    folder: str
    """URI of the trial's folder, which keeps its comparisons."""
    reached: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Maps the steps of rungs that the stage store has already to the bits per byte of each source."""


@dataclass(frozen=True)
class Stop:
    """The end of a trial by early stopping."""

    trial: int
    by: int | None = None
    """Number of the trial, another seed of the same arm, whose comparison stopped this one; None for its own."""
    error: str | None = None
    """Why the trial failed: its value at a rung is not finite."""


@dataclass(frozen=True)
class Decision:
    """The consequences of a rung; they are kept first, and then applied."""

    kept: Mapping[int, tuple[Rung, ...]]
    """Maps each trial that was compared to all its comparisons."""
    stops: tuple[Stop, ...] = ()


class EarlyStopping:
    """The contenders and their comparisons. `decide` changes nothing; `apply` makes its decision count."""

    def __init__(self, keep: float, made: Iterable[Rung], stopped: Mapping[int, int]) -> None:
        """`made`: the comparisons of earlier drivers; `stopped`: the arms that these stopped, with the number of the
        trial that decided."""
        self._halving = Halving(keep, made)
        self._stopped_arms = dict(stopped)
        self._contenders: dict[int, Contender] = {}
        self._rungs: dict[int, tuple[Rung, ...]] = {}
        self._reached: dict[str, dict[int, Mapping[str, float]]] = {}

    def folder_of(self, trial: int) -> str:
        return self._contenders[trial].folder

    def rungs_of(self, trial: int) -> tuple[Rung, ...]:
        """The comparisons of a trial, in order."""
        return self._rungs.get(trial, ())

    def enter(self, trial: int, contender: Contender) -> Decision:
        """A trial asks for its jobs. Its decision at all rungs that its stage has reached before."""
        self._contenders[trial] = contender
        self._reached.setdefault(contender.stage, {}).update(contender.reached)
        return self._decide({trial: contender})

    def reach(self, stage: str, step: int, measured: Mapping[str, float]) -> Decision:
        """A stage (by key) has reached the rung at `step`. `measured`: bits per byte of each source. The decision for
        all trials that need the stage."""
        self._reached.setdefault(stage, {}).setdefault(step, measured)
        return self._decide({trial: one for trial, one in sorted(self._contenders.items()) if one.stage == stage})

    def _decide(self, contenders: Mapping[int, Contender]) -> Decision:
        kept: dict[int, tuple[Rung, ...]] = {}
        stops: list[Stop] = []
        halving = self._halving.copy()
        stopped_arms = dict(self._stopped_arms)
        for trial, one in contenders.items():
            rungs: list[Rung] = []
            stop = self._compare_all(halving, trial, one, rungs) if one.is_compared else None
            if tuple(rungs) != self.rungs_of(trial):
                kept[trial] = tuple(rungs)
            if stop is not None:
                stops.append(stop)
                if stop.error is None:
                    stopped_arms.setdefault(one.arm, trial)
        told = {stop.trial for stop in stops}
        for trial, one in sorted(self._contenders.items()):
            by = stopped_arms.get(one.arm)
            if by not in (None, trial) and one.is_stopped and not one.is_compared and trial not in told:
                stops.append(Stop(trial, by))
        return Decision(kept, tuple(stops))

    def _compare_all(self, halving: Halving, trial: int, one: Contender, rungs: list[Rung]) -> Stop | None:
        """Appends the trial's comparisons at the rungs that its stage has reached, until one stops it."""
        for step, share in one.shares.items():
            rung = halving.of(one.stage, share)
            if rung is None:
                measured = self._reached.get(one.stage, {}).get(step)
                if measured is None:
                    continue
                value = measured.get(one.source, float("nan"))
                try:
                    rung = halving.compare(one.stage, share, step, value)
                except ValueError as error:
                    return Stop(trial, error=f"bits per byte of held-out {one.source} after {step} steps: {error}")
            rungs.append(rung)
            halving.note(rung)
            if one.is_stopped and not rung.goes_on:
                return Stop(trial)
        return None

    def apply(self, decision: Decision) -> None:
        """The decision is kept, and counts from now on."""
        for trial, rungs in decision.kept.items():
            self._rungs[trial] = rungs
            for rung in rungs:
                self._halving.note(rung)
        for stop in decision.stops:
            contender = self._contenders.pop(stop.trial, None)
            if contender is not None and contender.is_compared and stop.error is None:
                self._stopped_arms.setdefault(contender.arm, stop.trial)

    def leave(self, trial: int) -> None:
        """The trial needs nothing more."""
        self._contenders.pop(trial, None)
