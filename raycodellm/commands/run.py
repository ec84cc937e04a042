"""`raycodellm run`: runs a sweep, or continues it exactly."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raycodellm import STARTED, search, storage_files
from raycodellm.commands.request import DONE, FAILED, STOPPED, SweepRequest, log_path
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.slots.threads import threads_left
from raycodellm.tables.trials import trial_name

if TYPE_CHECKING:
    from raycodellm.display import Display
    from raycodellm.identity import Contents
    from raycodellm.preflight import MemoryFit
    from raycodellm.sweep import Run, Stopper, Timing

SWITCH_SECONDS = 0.0005
"""Seconds after which a Python thread gives way to another. A slot starts in a thread, which imports and asks Ray a
hundred small things while the main thread tokenises: with the usual 5 ms the first training step comes 2 s later."""


@dataclass(frozen=True)
class _Task:
    """A run with the trials that are left to do."""

    request: SweepRequest
    run: Run
    num_trials: int
    num_left: int
    contents: Contents
    memory_fit: MemoryFit


def run(request: SweepRequest, complain: Callable[[str], None]) -> int:
    """Runs the trials that are left; returns the exit code. `complain` receives lines about damaged files."""
    file = request.load()

    from raycodellm import preflight, sweep  # after `load`, which refuses a wrong file sooner than these import

    sweep.require_packages(file.example())
    num_trials = search.num_trials(file)
    # A new run is checked before its folder is made. A finished run is not checked, which would import much.
    is_new = not (request.storage / file.example().name).exists("sweep.yaml")
    memory_fit = preflight.check_before_start(file, request.address) if is_new else None
    opened = sweep.open_run(file, request.storage, complain)
    with sweep.lock(opened) as opened:
        sweep.require_same_recipe(opened, num_trials)
        num_left = num_trials - sweep.tell_written_results(opened, complain)
        contents = sweep.fix_contents(opened, num_left)
        if num_left <= 0:
            print(f"all {num_trials} trials are done; nothing to run")
            return _finish(opened, print)
        assert contents is not None, "the contents are known while a trial is left"
        memory_fit = memory_fit or preflight.check_before_start(file, request.address)
        return _run_left(_Task(request, opened, num_trials, num_left, contents, memory_fit))


def _run_left(task: _Task) -> int:
    from raycodellm import display, sweep

    timing = sweep.Timing({"imports": time.monotonic() - STARTED})
    stopper = sweep.Stopper()
    stopper.install()
    log = log_path(task.run.folder)
    again = task.request.command_line("run")
    settings = task.run.sweep
    with (
        display.quiet(log) as output,
        display.Display(output, [one.metric for one in settings.search.objectives], task.num_trials) as shown,
    ):
        shown.say(f"{settings.name}: {task.num_left} of {task.num_trials} trials to run; writing to {task.run.folder}")
        if task.memory_fit.groups is not None:  # else the memory is known only after the cluster is joined
            shown.say(str(task.memory_fit))
        shown.say(f"log: {log}; Ctrl-C stops cleanly; continue with: {again}")
        try:
            _run_on_cluster(task, shown, timing, stopper)
        except UserError:
            raise
        except KeyboardInterrupt:
            stopper.stopping.set()
        except Exception as error:
            traceback.print_exc()  # goes to the log; the terminal shows the cause alone
            shown.say(f"failed: {type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}")
            shown.say(f"the log has more: {log}")
            return FAILED
        if stopper.stopping.is_set():
            shown.say(f"stopped; continue with: {again}")
            return STOPPED
        shown.__exit__(None, None, None)
        return _finish(task.run, shown.say, timing)


def _run_on_cluster(task: _Task, shown: Display, timing: Timing, stopper: Stopper) -> None:
    from raycodellm import cluster, observability, preflight, sweep

    sweep.clear_scratch(task.run)
    sys.setswitchinterval(SWITCH_SECONDS)
    scaling = task.run.sweep.scaling
    cluster.prepare_environment()  # Ray reads its variables when it is imported
    sweep.background_imports.start()
    with timing.part("ray start"):
        connected = cluster.connect(
            task.request.address, scaling, log_to=log_path(task.run.folder), say=shown.say, metadata=_metadata(task)
        )
    try:
        reason = connected.placement_problem(scaling)
        if reason:
            raise UserError(f"scaling: {reason}")
        if task.memory_fit.groups is None:
            shown.say(str(preflight.fit_on_cluster(task.memory_fit, connected, scaling)))
        fitting = max(1, connected.slots_that_fit(scaling))
        fitting = min(fitting, task.memory_fit.groups or fitting)
        max_slots = fitting if scaling.slots == "auto" else min(scaling.slots, fitting)
        if connected.dashboard_url:
            shown.say("; ".join([f"dashboard: {connected.dashboard_url}", *connected.notes]))
        observer = observability.Observer(
            task.run.file,
            task.num_trials,
            gcs_address=connected.address,
            session_folder=connected.session_folder,
            metadata=_metadata(task),
        )
        sweep.run_sweep(
            task.run,
            task.num_left,
            max_slots,
            observability.Observed(shown, observer),
            timing,
            connected=connected,
            stopper=stopper,
            contents=task.contents,
        )
    finally:
        if not threads_left():  # to disconnect would crash a thread that waits for Ray
            cluster.disconnect()


def _metadata(task: _Task) -> dict[str, str]:
    """What the dashboard tells of the run's job."""
    name, folder = task.run.sweep.name, task.run.folder.uri
    return {"job_name": name, "sweep": name, "run folder": folder, "report": f"{folder}/report/index.html"}


def _finish(run: Run, say: Callable[[str], None], timing: Timing | None = None) -> int:
    """Writes the table of trials and, after a run that has `timing`, the report; says the summary.

    Returns the exit code, which tells whether a trial failed.
    """
    from raycodellm import report, sweep

    # After a run the trials' folders are read once more: they are the truth, and what it told the driver is not.
    results = sweep.write_table(run, say, None if timing is not None else run.results_at_start)
    records = None
    if timing is not None:
        before = storage_files.attempt(lambda: storage_files.read_timing(run.folder), say) or {}
        _write_timing(run.folder, before, timing.seconds)
        with timing.part("report"):
            records = report.read_records(run.folder, run.storage)
            report.write_pages(records)
        _write_timing(run.folder, before, timing.seconds)
    say(report.summary_text(run.folder, run.storage, records))
    failed = [result for result in results if result.state == "failed"]
    for result in failed:
        say(f"trial {trial_name(result.number)} failed: {result.error}")
    if failed:
        say(f"{len(failed)} of {len(results)} trials failed; the log has more: {log_path(run.folder)}")
    return FAILED if failed else DONE


def _write_timing(folder: Folder, before: dict[str, float], seconds: dict[str, float]) -> None:
    """Adds this run's seconds to those `before`; keeps the fields that a newer version wrote."""
    kept = storage_files.attempt(lambda: folder.read_json("timing.json"), lambda line: None) or {}
    added = {name: before.get(name, 0.0) + seconds.get(name, 0.0) for name in {**before, **seconds}}
    folder.write_json("timing.json", {**kept, **added})
