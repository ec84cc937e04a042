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
    """A trial that early stopping compares, or ends with another of its arm."""

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
    stopped_by: int | None = None
    """Number of the trial, another seed of the same arm, whose comparison stopped this one; None for its own."""
    error: str | None = None
    """Why the trial failed: its value at a rung is not finite."""


@dataclass(frozen=True)
class Decision:
    """The consequences of a rung; they are kept first, and then applied."""

    comparisons: Mapping[int, tuple[Rung, ...]]
    """Maps each trial that was compared to all its comparisons."""
    stops: tuple[Stop, ...] = ()


class EarlyStopping:
    """The contenders and their comparisons. `enter` and `reach` decide; `apply` makes a decision count."""

    def __init__(self, keep: float, earlier_rungs: Iterable[Rung], stopped_arms: Mapping[int, int]) -> None:
        """`earlier_rungs`: the comparisons of earlier drivers. `stopped_arms`: maps each arm that earlier drivers
        stopped to the number of the trial that decided."""
        self._halving = Halving(keep, earlier_rungs)
        self._stopped_arms = dict(stopped_arms)
        self._contenders: dict[int, Contender] = {}
        self._rungs: dict[int, tuple[Rung, ...]] = {}
        """Maps each trial to its comparisons, in order."""
        self._reached: dict[str, dict[int, Mapping[str, float]]] = {}
        """Maps each stage's key, and the step of each rung that the stage has reached, to the bits per byte of each
        source."""

    def folder_of(self, trial: int) -> str:
        return self._contenders[trial].folder

    def rungs_of(self, trial: int) -> tuple[Rung, ...]:
        """The comparisons of a trial, in order."""
        return self._rungs.get(trial, ())

    def enter(self, trial: int, contender: Contender) -> Decision:
        """Notes that the trial asks for its jobs. Returns the decision at all rungs that its stage has reached."""
        self._contenders[trial] = contender
        self._reached.setdefault(contender.stage, {}).update(contender.reached)
        return self._decide({trial: contender})

    def reach(self, stage: str, step: int, bits_per_byte: Mapping[str, float]) -> Decision:
        """Notes that the stage with the key `stage` has reached the rung at `step`. Returns the decision for all trials
        that need the stage. `bits_per_byte`: maps each source to its value."""
        self._reached.setdefault(stage, {}).setdefault(step, bits_per_byte)
        return self._decide(
            {trial: contender for trial, contender in sorted(self._contenders.items()) if contender.stage == stage}
        )

    def _decide(self, contenders: Mapping[int, Contender]) -> Decision:
        comparisons: dict[int, tuple[Rung, ...]] = {}
        stops: list[Stop] = []
        halving = self._halving.copy()
        stopped_arms = dict(self._stopped_arms)
        for trial, contender in contenders.items():
            rungs: list[Rung] = []
            stop = self._compare_all(halving, trial, contender, rungs) if contender.is_compared else None
            if tuple(rungs) != self.rungs_of(trial):
                comparisons[trial] = tuple(rungs)
            if stop is not None:
                stops.append(stop)
                if stop.error is None:
                    stopped_arms.setdefault(contender.arm, trial)
        stopped_trials = {stop.trial for stop in stops}
        for trial, contender in sorted(self._contenders.items()):
            deciding_trial = stopped_arms.get(contender.arm)
            if (
                deciding_trial not in (None, trial)
                and contender.is_stopped
                and not contender.is_compared
                and trial not in stopped_trials
            ):
                stops.append(Stop(trial, deciding_trial))
        return Decision(comparisons, tuple(stops))

    def _compare_all(self, halving: Halving, trial: int, contender: Contender, rungs: list[Rung]) -> Stop | None:
        """Appends the trial's comparisons at the rungs that its stage has reached, until one stops it."""
        for step, share in contender.shares.items():
            rung = halving.of(contender.stage, share)
            if rung is None:
                bits_per_byte = self._reached.get(contender.stage, {}).get(step)
                if bits_per_byte is None:
                    continue
                value = bits_per_byte.get(contender.source, float("nan"))
                try:
                    rung = halving.compare(contender.stage, share, step, value)
                except ValueError as error:
                    return Stop(
                        trial, error=f"bits per byte of held-out {contender.source} after {step} steps: {error}"
                    )
            rungs.append(rung)
            halving.note(rung)
            if contender.is_stopped and not rung.goes_on:
                return Stop(trial)
        return None

    def apply(self, decision: Decision) -> None:
        """Makes a decision, whose comparisons have been written, count from now on."""
        for trial, rungs in decision.comparisons.items():
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
