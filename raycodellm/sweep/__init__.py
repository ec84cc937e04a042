"""A sweep from its first command to its last: Ray Tune asks Optuna, each trial asks the dispatcher. Door to `ray.tune`.

The state of a sweep is what lies on disk: the stage store, the trials' folders and the study's journal. Running the
same command again reads them and goes on: finished trials stay, interrupted ones are taken up under their numbers, and
their stages continue from their newest checkpoints.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from raycodellm import stage_store
from raycodellm.identity import Contents
from raycodellm.records import TrialResult
from raycodellm.sweep import background_imports
from raycodellm.sweep.folder import Run, clear_scratch, open_run, read_results, write_table
from raycodellm.sweep.ownership import lock
from raycodellm.sweep.provenance import fix_contents, fix_data
from raycodellm.sweep.trial import Context
from raycodellm.sweep.tuning import tell_written_results, tune_trials
from raycodellm.sweep.watchdog import SweepLost, Watchdog

__all__ = [
    "Context",
    "Run",
    "Stopper",
    "SweepLost",
    "Timing",
    "Watchdog",
    "background_imports",
    "clear_scratch",
    "fix_contents",
    "lock",
    "open_run",
    "read_results",
    "run_sweep",
    "tell_written_results",
    "write_table",
]

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
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Beginning and end of each part, Unix seconds."""

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        began, at = time.monotonic(), time.time()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
            self.spans[name] = (at, time.time())


@dataclass
class Stopper:
    """The first Ctrl-C, SIGTERM or SIGHUP stops trials cleanly where they run, and ends other work; the next ends all.

    SIGHUP, of a terminal that was closed, is left ignored where it is: so `nohup` goes on.
    """

    stopping: threading.Event = field(default_factory=threading.Event)
    clean: bool = False
    """Whether whoever runs now looks at `stopping`."""
    lost: threading.Event = field(default_factory=threading.Event)
    """Set when the sweep cannot go on, by no fault of a trial."""

    def is_set(self) -> bool:
        """Whether no more trials should begin, and those that end without a result stay open."""
        return self.stopping.is_set() or self.lost.is_set()

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
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
    contents: Contents,
) -> None:
    """Runs the `num_trials` trials that are left, on the cluster that `connected` describes.

    `connected`: a `cluster.Cluster`. `contents`: what `fix_contents` found.
    """
    import ray

    from raycodellm import evaluation, slots, tokens

    background_imports.wait()
    sweep, scaling, end_seconds = run.sweep, run.sweep.scaling, END_SECONDS
    if said := stage_store.older_stages(run.storage):
        monitor.say(said)
    dispatcher = slots.start_dispatcher(sweep.name, scaling)
    pool = slots.SlotPool(dispatcher, scaling, max_slots, run.folder, lambda: connected.placement_problem(scaling))
    pool.start(min(max_slots, num_trials), connected.slots_at_once)
    try:
        with timing.part("tokens"):
            wanted = tokens.asks_for_items(sweep)
            items = evaluation.item_texts(evaluation.evaluated_tasks(run.file)) if wanted else None
            prepared = tokens.prepare(sweep, run.storage, monitor.preparing, items)
            for line in prepared.warnings:
                monitor.say(line)
        fix_data(run, prepared.tokenizer_fingerprint, prepared.stores)
        context = Context(
            run,
            prepared.stores,
            prepared.tokenizer_folder,
            prepared.tokenizer_fingerprint,
            prepared.vocab_size,
            dispatcher,
            contents,
        )
        stage_store.check_epochs(sweep, [context.chain(point, sweep.seed) for point in run.file.corner_points()])
        ray.get(dispatcher.set_keep_idle.remote(False))
        with timing.part("trials"):
            watchdog = Watchdog(dispatcher, run, monitor, stopper, connected.address)
            watchdog.watch(lambda: tune_trials(context, num_trials, max_slots, stopper))
        snapshot = ray.get(dispatcher.snapshot.remote())
        timing.seconds["slots (until the first is ready, beside tokens)"] = snapshot.first_slot_seconds or 0.0
        timing.seconds.update({f"{kind} (slot-seconds)": s for kind, s in snapshot.busy_seconds.items()})
        jobs = ray.get(dispatcher.times.remote())
        run.folder.write_json("timeline.json", {"parts": timing.spans, "jobs": jobs})
    except SweepLost as lost:
        end_seconds = 1.0 if lost.head_lost else end_seconds
        raise
    finally:
        pool.close(end_seconds)
        with contextlib.suppress(OSError):
            (run.folder / "slots").delete()
