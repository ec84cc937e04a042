"""A sweep from its first command to its last: Ray Tune asks Optuna, each trial asks the dispatcher. Door to `ray.tune`.

The state of a sweep is what lies on disk: the stage store, the trials' folders and the study's journal. Running the
same command again reads them and goes on: finished trials stay, interrupted ones are taken up under their numbers, and
their stages continue from their newest checkpoints.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from raycodellm import store
from raycodellm.records import TrialResult
from raycodellm.sweep.folder import Run, clear_scratch, lock, open_run, read_results, write_table
from raycodellm.sweep.trial import Context
from raycodellm.sweep.tuning import tell_written_results, tune_trials

__all__ = [
    "Context",
    "Monitor",
    "Run",
    "Stopper",
    "Timing",
    "clear_scratch",
    "lock",
    "open_run",
    "read_results",
    "run_sweep",
    "tell_written_results",
    "write_table",
]

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 120.0
"""How long a stopped sweep waits for its running stages to save their checkpoints."""
END_SECONDS = 20.0
"""How long the end of a sweep waits for its worker groups to be given back."""


class Monitor(Protocol):
    """Who watches a run: the terminal, or a test."""

    def say(self, line: str) -> None: ...

    def preparing(self, event: Any) -> None: ...

    def training(self, snapshot: Any, results: list[TrialResult]) -> None: ...


@dataclass
class Timing:
    """Where the seconds of a run went, by name, in the order in which the parts began."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


@dataclass
class Stopper:
    """The first Ctrl-C (or SIGTERM) asks for a clean stop where trials run, and ends other work; the next ends all."""

    stopping: threading.Event = field(default_factory=threading.Event)
    clean: bool = False
    """Whether whoever runs now looks at `stopping`."""

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        again = self.stopping.is_set()
        self.stopping.set()
        if again or not self.clean:
            raise KeyboardInterrupt


def run_sweep(
    run: Run,
    num_trials: int,
    max_slots: int,
    monitor: Monitor,
    timing: Timing,
    *,
    connected: Any,
    stopper: Stopper,
) -> None:
    """Runs the `num_trials` trials that are left, on the cluster that `connected` describes.

    `connected`: has `why_not(scaling)`, the reason why no worker group fits, or None.
    """
    import ray

    from raycodellm import slots, tokens

    sweep = run.sweep
    dispatcher = slots.start_dispatcher(sweep.name, sweep.scaling)
    pool = slots.SlotPool(dispatcher, sweep.scaling, max_slots, run.folder, lambda: connected.why_not(sweep.scaling))
    pool.start(min(max_slots, num_trials))
    try:
        with timing.part("tokens"):
            prepared = tokens.prepare(sweep, run.storage, monitor.preparing)
        context = Context(
            run,
            prepared.stores,
            prepared.tokenizer_folder,
            prepared.tokenizer_fingerprint,
            prepared.vocab_size,
            dispatcher,
        )
        store.check_epochs(sweep, [context.chain({}, sweep.seed)])
        ray.get(dispatcher.set_keep_idle.remote(False))
        with timing.part("trials"):
            stopping = stopper.stopping
            _watch(lambda: tune_trials(context, num_trials, max_slots, stopping), dispatcher, run, monitor, stopper)
        snapshot = ray.get(dispatcher.snapshot.remote())
        timing.seconds["slots (until the first is ready, beside tokens)"] = snapshot.first_slot_seconds or 0.0
        timing.seconds.update({f"{kind} (slot-seconds)": s for kind, s in snapshot.busy_seconds.items()})
    finally:
        pool.close(END_SECONDS)
        with contextlib.suppress(OSError):
            (run.folder / "slots").delete()


def _watch(work: Callable[[], None], dispatcher: Any, run: Run, monitor: Monitor, stopper: Stopper) -> None:
    """Does `work` in a thread while showing where the trials are; ends it cleanly when asked to stop."""
    import ray

    from raycodellm.slots import THREAD_PREFIX

    failure: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=guarded, name=f"{THREAD_PREFIX}tune", daemon=True)
    thread.start()
    stopper.clean = True
    asked = False
    ended: dict[str, TrialResult] = {}
    while thread.is_alive():
        if stopper.stopping.is_set() and not asked:
            asked = True
            monitor.say("stopping: running stages save their checkpoints")
            ray.get(dispatcher.stop.remote())
        monitor.training(ray.get(dispatcher.snapshot.remote()), read_results(run, ended))
        thread.join(0.5)
    if asked:
        ray.get(dispatcher.drained.remote(DRAIN_SECONDS))
    if failure:
        raise failure[0]
