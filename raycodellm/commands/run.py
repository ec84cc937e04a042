"""Runs one sweep, or continues it exactly; `start` decides which sweeps `raycodellm run` runs."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from raycodellm import retrying, run_times, search, storage_files
from raycodellm.commands import win_rates
from raycodellm.commands.connection import ClusterConnection
from raycodellm.commands.request import DONE, FAILED, STOPPED, SweepRequest, log_path
from raycodellm.config import SweepFile, UserError, without_credentials
from raycodellm.evaluation import Stopped
from raycodellm.tables.trials import trial_name

if TYPE_CHECKING:
    from raycodellm.cluster import Cluster
    from raycodellm.config import Objective
    from raycodellm.display import Display, Shown
    from raycodellm.identity import Contents
    from raycodellm.preflight import MemoryFit
    from raycodellm.records import TrialResult
    from raycodellm.report import BestArm
    from raycodellm.sweep import Run, Stopper, Timing

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0005
"""Seconds after which a Python thread gives way to another. A slot starts in a thread, which imports and asks Ray a
hundred small things while the main thread tokenises: with the usual 5 ms the first training step comes 2 s later."""


@dataclass(frozen=True)
class _Task:
    """A run with the trials that are left to do."""

    request: SweepRequest
    run: Run
    num_trials: int
    """Trials of the whole sweep, as far as is known."""
    most_trials: int
    """Trials that the sweep may come to."""
    num_left: int
    contents: Contents
    memory_fit: MemoryFit
    connection: ClusterConnection = field(default_factory=ClusterConnection)


class RunFailed(Exception):
    """The run ended before its trials did, by no fault of a trial. The user was told the cause; the log has more."""


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    """DONE; FAILED, if a trial failed; STOPPED by the user."""
    run: Run


def carry_out_file(
    request: SweepRequest,
    file: SweepFile,
    complain: Callable[[str], None],
    began: float,
    connection: ClusterConnection | None = None,
) -> Ended:
    """Runs the trials of one sweep that are left. `began`: when the command began, monotonic seconds. `connection`: to
    the cluster, where it is kept for other sweeps.

    Raises `RunFailed` where the run ended before its trials did.
    """
    # Only now, since a wrong file is refused sooner than these import.
    from raycodellm import display, preflight, sweep

    assert file.example().ladder is None, "a ladder's sizes are run, each a sweep without one"
    sweep.require_packages(file.example())
    if (request.storage / file.example().name).exists(storage_files.LADDER):
        raise UserError(f"name: {file.example().name} is a ladder in this storage; give the sweep another name")
    # A new run is checked before its folder is made. A finished run is not checked, which would import much.
    is_new = not (request.storage / file.example().name).exists("sweep.yaml")
    with display.LineDisplay(sys.stdout, display.Shown()) as monitor:
        monitor.waits_for("the checks of models, memory and cluster")
        memory_fit = preflight.check_before_start(file, request.address) if is_new else None
        monitor.waits_for("the storage")
        prior = sweep.read_prior(file, request.storage).lines if is_new else ()
        run = sweep.open_run(file, request.storage, complain)
    with contextlib.ExitStack() as stack:
        with display.LineDisplay(sys.stdout, display.Shown()) as monitor:
            monitor.waits_for("the run folder and its study")
            run = stack.enter_context(sweep.lock(run, monitor.say))
            for line in prior:
                monitor.say(line)
            confirmation = sweep.Confirmation(run)
            standing = confirmation.standing(run.results_at_start)
            sweep.require_same_recipe(run, standing.num_trials)
            judgement = sweep.judged(run, standing)
            num_ended = sweep.tell_written_results(run, complain, retry_failed=request.retry_failed)
            standing = confirmation.standing(run.results_at_start)  # anew: trials may have been opened again
            num_left = standing.num_trials - num_ended
            halt = sweep.why_halted(run, run.results_at_start, num_left, complain)
            num_left = num_left if halt is None else halt.num_open
            num_left = 0 if sweep.stays_judged(judgement, run) else num_left
            monitor.waits_for("the models and tasks that the sweep names")
            contents = sweep.fix_contents(run, num_left)
            if num_left > 0 and memory_fit is None:
                memory_fit = preflight.check_before_start(file, request.address)
        if num_left <= 0:
            if judgement.line:
                print(judgement.line)
            print(halt.line if halt else f"all {standing.num_trials} trials are done; nothing to run")
            # A verdict of older rules that stays must not be written over.
            return Ended(_finish_without_trials(request, run, may_report=not judgement.is_kept), run)
        assert contents is not None and memory_fit is not None, "both are known while a trial is left"
        numbers = (standing.num_trials, standing.most_trials, num_left)
        task = _Task(request, run, *numbers, contents, memory_fit, connection or ClusterConnection())
        return Ended(_run_trials(task, began), run)


def _run_trials(task: _Task, began: float) -> int:
    from raycodellm import display, sweep

    imports = time.monotonic() - began
    timing = sweep.Timing(task.run.folder, time.time() - imports, {"imports": imports})
    log = log_path(task.run.folder)
    command = task.request.again()
    with (
        _switching_often(),
        sweep.Stopper().installed() as stopper,
        display.quiet(log) as output,
        display.display_on(output, _display_facts(task)) as monitor,
    ):
        trials_text = f"{task.num_left} of {task.num_trials} trials to run"
        trials_text += f", at most {task.most_trials} in all" if task.most_trials > task.num_trials else ""
        monitor.say(f"{task.run.sweep.name}: {trials_text}; writing to {task.run.folder}")
        if line := search.lacking_points(task.run.file):
            monitor.say(line)
        if line := win_rates.missing_key(task.run.sweep.evaluation.judge):
            monitor.say(line)
        if task.memory_fit.groups is not None:  # else the memory is known only after the cluster is joined
            monitor.say(str(task.memory_fit))
        stop_hint = "" if task.request.is_submitted else "Ctrl-C stops cleanly; "
        monitor.say(f"log: {log}; {stop_hint}continue with: {command}")
        state = run_times.FAILED
        try:
            timing.keep(run_times.RUNNING)
            _run_on_cluster(task, monitor, timing, stopper)
            if not stopper.stopping.is_set():
                with timing.part("judge") if task.run.sweep.evaluation.judge else contextlib.nullcontext():
                    judgement = win_rates.judge(task.run, monitor.say, monitor.waits_for, stopper.stopping.is_set)
            stopper.clean = False  # the code below does not look at `stopping`
            if not stopper.stopping.is_set():
                monitor.waits_for("the table of trials and the report")
                code = _finish(task.run, monitor.say, monitor.columns, judgement, timing)
                state = run_times.DONE
                return code
        except UserError:
            raise
        except (KeyboardInterrupt, Stopped):
            stopper.stopping.set()
        except Exception as error:
            traceback.print_exc()  # goes to the log; the terminal shows the cause alone
            cause = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}"
            monitor.say(f"failed: {cause}")
            monitor.say(f"the log has more: {log}")
            raise RunFailed(f"{cause}; the log has more: {log}") from error
        finally:
            timing.keep(run_times.STOPPED if stopper.stopping.is_set() else state)
        monitor.say(f"stopped; continue with: {command}")
        return STOPPED


def _finish_without_trials(request: SweepRequest, run: Run, may_report: bool) -> int:
    """Ends a run that has no trial left: asks for the missing win rates, writes the report if the run before ended
    without it, and prints the summary. Returns the exit code."""
    from raycodellm import display, sweep

    began, timing = time.time(), None
    with sweep.Stopper().installed() as stopper, display.LineDisplay(sys.stdout, display.Shown()) as monitor:
        try:
            judgement = win_rates.judge(run, monitor.say, monitor.waits_for, stopper.stopping.is_set)
            wrote_report = partial(run_times.wrote_report, run.folder)
            if may_report and not storage_files.attempt(wrote_report, logger.warning, instead=False):
                monitor.waits_for("the report, without which the run before has ended")
                timing = sweep.Timing(run.folder, began)
            code = _finish(run, monitor.say, display.console(sys.stdout).width, judgement, timing)
        except (KeyboardInterrupt, Stopped):
            monitor.say(f"stopped; continue with: {request.again()}")
            return STOPPED
    if timing is not None:
        timing.keep(run_times.DONE)
    return code


def _display_facts(task: _Task) -> Shown:
    """The facts of the sweep that the display shows."""
    from raycodellm import display

    objectives = task.run.sweep.search.objectives

    def best(results: Sequence[TrialResult]) -> str:
        return str(_best_arm(results, objectives, task.run.file) or "")

    metrics = tuple(objective.metric for objective in objectives)
    return display.Shown(task.run.sweep.name, metrics, task.num_trials, task.most_trials, best)


def _best_arm(results: Sequence[TrialResult], objectives: Sequence[Objective], file: SweepFile) -> BestArm | None:
    if not any(result.state == "complete" for result in results):
        return None
    from raycodellm import report  # once a trial has ended: until then nobody waits for these imports

    return report.best_arm_of(results, objectives, file=file)


def _run_on_cluster(task: _Task, monitor: Display, timing: Timing, stopper: Stopper) -> None:
    from raycodellm import cluster, observability, preflight, sweep

    sweep.clear_scratch(task.run)
    scaling = task.run.sweep.scaling
    cluster.prepare_environment()  # Ray reads its variables when it is imported
    sweep.background_imports.start()
    address = task.request.address or os.environ.get("RAY_ADDRESS")
    monitor.waits_for(f"the Ray cluster at {without_credentials(address)}" if address else "Ray to start")
    log = log_path(task.run.folder)

    def connect() -> Cluster:
        return cluster.connect(task.request.address, scaling, log_to=log, say=monitor.say, metadata=_metadata(task))

    with timing.part("ray start"):
        connected = task.connection.get(connect, log)
    try:
        reason = connected.placement_problem(scaling)
        if reason:
            raise UserError(f"scaling: {reason}")
        if not connected.started_here:
            _check_storage(task, connected, monitor)
        if task.memory_fit.groups is None:
            monitor.say(str(preflight.fit_on_cluster(task.memory_fit, connected, scaling)))
        num_fitting = max(1, connected.slots_that_fit(scaling))
        num_fitting = min(num_fitting, task.memory_fit.groups or num_fitting)
        max_slots = num_fitting if scaling.slots == "auto" else min(scaling.slots, num_fitting)
        if connected.dashboard_url:
            monitor.say("; ".join([f"dashboard: {connected.dashboard_url}", *connected.notes]))
        observer = observability.Observer(
            task.run.file,
            task.num_trials,
            gcs_address=connected.address,
            session_folder=connected.session_folder,
            find_best=lambda results, objective: _best_arm(results, [objective], task.run.file),
            metadata=_metadata(task),
        )
        sweep.run_sweep(
            task.run,
            task.num_left,
            max_slots,
            observability.Observed(monitor, observer),
            timing,
            connected=connected,
            stopper=stopper,
            contents=task.contents,
        )
        observer.finish()
    finally:
        monitor.waits_for("Ray to end")
        task.connection.end_sweep()


def _check_storage(task: _Task, connected: Cluster, monitor: Display) -> None:
    """Raises `UserError` where a node of the joined cluster does not see the storage."""
    from raycodellm.cluster import shared_storage

    monitor.waits_for("the nodes to see the storage")
    shared_storage.require_seen(task.request.storage)
    may_grow = bool(connected.autoscaled) or not connected.limits_known
    if warning := shared_storage.warning(task.request.storage, may_grow):
        monitor.say(warning)


def _metadata(task: _Task) -> dict[str, str]:
    """The facts of the run's job that the dashboard tells."""
    name, folder = task.run.sweep.name, task.run.folder
    address = storage_files.report_address(folder)
    return {"job_name": name, "sweep": name, "run folder": folder.uri, "report": address}


@contextlib.contextmanager
def _switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def _finish(
    run: Run, say: Callable[[str], None], num_characters: int, judgement: win_rates.Judged, timing: Timing | None = None
) -> int:
    """Writes the table of trials and, after a run that has `timing` or whose judge has said something new, the report;
    says the summary.

    `num_characters`: of a line that the reader sees whole. Returns the exit code, which tells whether a trial failed,
    or a win rate is missing.
    """
    from raycodellm import report, sweep

    # A folder that cannot be read counts as a trial that waits, so the storage must answer first.
    retrying.patiently(lambda: run.folder.exists("sweep.yaml"), "the run folder")
    # After a run the trials' folders are read once more: they are the truth, and not the results that the driver heard.
    known_results = None if timing is not None else run.results_at_start
    results = retrying.patiently(lambda: sweep.write_table(run, say, known_results), "trials.parquet")
    records = None
    if timing is not None:
        timing.keep(run_times.DONE)
        with timing.part(run_times.REPORT):
            records = report.read_records(run.folder, run.storage)
            retrying.patiently(partial(report.write_pages, records), "the report")
    elif judgement.is_new:
        records = report.read_records(run.folder, run.storage)
        retrying.patiently(partial(report.write_pages, records), "the report")
    say(report.summary_text(run.folder, run.storage, records, num_characters))
    failed = [result for result in results if result.state == "failed"]
    for result in failed:
        say(f"trial {trial_name(result.number)} failed: {result.error}")
    if failed:
        say(f"{len(failed)} of {len(results)} trials failed; the log has more: {log_path(run.folder)}")
    return FAILED if failed or not judgement.is_complete else DONE
