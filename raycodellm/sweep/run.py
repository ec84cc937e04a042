"""Runs the trials of a sweep that are left, on a cluster that the driver is connected to."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Protocol

from raycodellm import config, stage_store
from raycodellm.config import Scaling
from raycodellm.identity import Contents
from raycodellm.sweep import background_imports, early_stopping
from raycodellm.sweep.folder import Run
from raycodellm.sweep.provenance import fix_data
from raycodellm.sweep.results import Results
from raycodellm.sweep.spending import Account
from raycodellm.sweep.stopper import Stopper
from raycodellm.sweep.timing import Timing
from raycodellm.sweep.trial import TrialContext
from raycodellm.sweep.tuning import tune_trials
from raycodellm.sweep.watchdog import Monitor as TrainingMonitor
from raycodellm.sweep.watchdog import SweepLost, Watchdog

if TYPE_CHECKING:
    from raycodellm.dispatch import Sight
    from raycodellm.slots.pool import SlotPool
    from raycodellm.tokens import SourceProgress

_END_SECONDS = 20.0
"""How long the end of a sweep waits until its worker groups have been given back."""


class Monitor(TrainingMonitor, Protocol):
    """Shows a run: on the terminal, or to a test."""

    def preparing(self, event: SourceProgress) -> None:
        """A source's preparation has come further."""

    def waits_for(self, subject: str) -> None:
        """The run waits for the subject until it tells of something else."""

    def expects(self, num_trials: int, most_trials: int) -> None:
        """The sweep has `num_trials` trials as far as is known now, and may come to `most_trials`."""


class ConnectedCluster(Protocol):
    """The part of a `cluster.Cluster` that a sweep needs."""

    @property
    def address(self) -> str:
        """host:port of the head node's control service (GCS)."""

    @property
    def started_here(self) -> bool: ...

    @property
    def slots_at_once(self) -> int | None: ...

    def look(self, scaling: Scaling) -> Sight: ...


def run_sweep(
    run: Run,
    num_trials: int,
    max_slots: int,
    monitor: Monitor,
    timing: Timing,
    *,
    connected: ConnectedCluster,
    stopper: Stopper,
    contents: Contents,
) -> None:
    """Runs `num_trials` more trials, and those that further looks ask for. `contents`: of the models and tasks that the
    sweep names, from `fix_contents`.

    Raises `SweepLost` when the sweep cannot continue, by no fault of a trial.
    """
    import ray

    monitor.waits_for("the imports of Ray Train and Tune")
    background_imports.wait()
    from raycodellm.slots.dispatcher import start_dispatcher
    from raycodellm.slots.head import settle_ray_data
    from raycodellm.slots.pool import SlotPool

    began = time.monotonic()
    sweep, scaling, end_seconds = run.sweep, run.sweep.scaling, _END_SECONDS
    if line := stage_store.report_older_stages(run.storage):
        monitor.say(line)
    if not connected.started_here:
        settle_ray_data()
    dispatcher = start_dispatcher(sweep.name, scaling)
    pool = SlotPool(dispatcher, scaling, max_slots, run.folder, lambda: connected.look(scaling))
    pool.start(min(max_slots, num_trials), connected.slots_at_once)
    monitor.waits_for("the lists of the sources' files")
    try:
        with timing.part("tokens"):
            materials = _prepare(run, monitor, pool, contents)
        monitor.waits_for("the first trial")
        context = TrialContext(run, materials, dispatcher)
        _check_epochs(run, materials)
        early_stopping.begin(run, dispatcher, monitor.say)
        ray.get(dispatcher.set_keep_idle.remote(False))
        with timing.part("trials"):
            results = Results(run)
            account = Account(run, context.chain, results.all(), began=began)
            watchdog = Watchdog(dispatcher, run, results, monitor, stopper, connected.address, account, timing)
            watchdog.watch(lambda: tune_trials(context, results, account, num_trials, max_slots, stopper, monitor))
        timing.jobs = ray.get(dispatcher.times.remote())
    except SweepLost as lost:
        end_seconds = 1.0 if lost.head_lost else end_seconds
        raise
    finally:
        monitor.waits_for("the worker groups to end")
        pool.close(end_seconds)
        with contextlib.suppress(OSError):
            (run.folder / "slots").delete()


def _check_epochs(run: Run, materials: stage_store.Materials) -> None:
    """Raises UserError where a trial would read a source more often than the sweep file allows."""
    probe_sweeps = (config.resolve(run.file, point) for point in run.file.probe_points())
    stage_store.check_epochs(run.sweep, [stage_store.chain(sweep, run.sweep.seed, materials) for sweep in probe_sweeps])


def _prepare(run: Run, monitor: Monitor, pool: SlotPool, contents: Contents) -> stage_store.Materials:
    """Prepares the token stores and the tokenizer, and keeps in the run folder which ones they are.

    Raises `SweepLost` as soon as the first slot finds that none can work, and UserError for a task of which no item
    fits into a model's context.
    """
    from raycodellm import evaluation, tokens

    def preparing(event: SourceProgress) -> None:
        monitor.preparing(event)
        if pool.abandoned is not None:
            raise SweepLost(pool.abandoned)

    asks = tokens.asks_for_items(run.sweep)
    items = evaluation.items_of_sweep(run.file) if asks else None
    prepared = tokens.prepare(run.sweep, run.storage, preparing, items)
    for line in prepared.warnings:
        monitor.say(line)
    fix_data(run, prepared.tokenizer_fingerprint, prepared.stores)
    if run.sweep.stages:
        counter = evaluation.exact_counter(tokens.open_tokenizer(prepared.tokenizer_folder))
        evaluation.require_fit(evaluation.unfit_tasks(run.file, prepared.vocab_size, counter))
    return stage_store.Materials(
        corpora=prepared.stores,
        tokenizer=prepared.tokenizer_folder,
        tokenizer_fingerprint=prepared.tokenizer_fingerprint,
        vocab_size=prepared.vocab_size,
        storage=run.storage,
        contents=contents,
    )
