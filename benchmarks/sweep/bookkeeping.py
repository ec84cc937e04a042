"""The bookkeeping of a sweep of many trials, whose stages and evaluations do nothing: what its driver spends on a trial
as their number grows, how long the commands take on its run folder, and what Ray Tune alone spends on as many trials.

    python benchmarks/sweep/bookkeeping.py --trials 1000 [--parts driver,commands,ray] [--kinds tpe,grid]

`driver`: the driver's process without Ray: a suggestion, a trial's end, a look at the sweep after it, with display,
dashboard and gauges, and the table of trials; CPU milliseconds per trial, the mean of the last ten or fifty trials at
each size, of the table that of all trials since the size before; how much of it is Optuna's own; and the process's
memory. A trial ends every two seconds.
`commands`: `status`, `report` and others on the folder of a sweep whose trials have all ended; wall and CPU seconds of
the whole command. `run` has nothing to do there.
`ray`: the same trials through Ray Tune, each finding its jobs finished, beside plain Ray Tune with a function that
returns at once, as many trials at once.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import inspect
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import _many_trials as many

SIZES = (10, 100, 1_000, 10_000)
MOST_EVENTS = 50
"""Trials that are measured before each size."""
MOST_CARRIED_OUT = 1_000
"""Trials of a run folder that have stages and items of their own; later ones have those of an earlier trial."""
SECONDS = 2.0
"""Between the ends of two trials, by the driver's clock."""


# ------------------------------------------------------------------------------------------------- the driver alone


class OptunasShare:
    """The CPU seconds that are spent in Optuna: in what our code calls there, less what that calls of ours."""

    def __init__(self) -> None:
        import optuna
        from optuna.storages import JournalStorage

        from raycodellm.search.distinct import DistinctSampler

        self.seconds = 0.0
        self._is_inside = [False]
        self._since = time.process_time()
        samplers = (optuna.samplers.RandomSampler, optuna.samplers.TPESampler, optuna.samplers.GPSampler)
        for kind in (optuna.Study, optuna.trial.Trial, JournalStorage, *samplers):
            self._watch(kind, True)
        self._watch(DistinctSampler, False)

    def _watch(self, kind: type, is_optunas: bool) -> None:
        for name, member in list(vars(kind).items()):
            if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
                setattr(kind, name, self._watched(member, is_optunas))

    def _watched(self, work: Callable[..., Any], is_optunas: bool) -> Callable[..., Any]:
        @functools.wraps(work)
        def watched(*arguments: Any, **options: Any) -> Any:
            if self._is_inside[-1] == is_optunas:
                return work(*arguments, **options)
            self._count()
            self._is_inside.append(is_optunas)
            try:
                return work(*arguments, **options)
            finally:
                self._count()
                self._is_inside.pop()

        return watched

    def _count(self) -> None:
        now = time.process_time()
        self.seconds += now - self._since if self._is_inside[-1] else 0.0
        self._since = now


class Driver:
    """A sweep's driver without Ray: its searcher, its table, its display, its dashboard."""

    def __init__(self, run: Any, folder: Path) -> None:
        from raycodellm import display, observability, sweep
        from raycodellm.dispatch import Snapshot
        from raycodellm.display.live import LiveDisplay
        from raycodellm.observability import observer
        from raycodellm.observability.session_logs import write_files
        from raycodellm.sweep.searcher import StudySearcher

        self.now, self.run = 0.0, run
        self.results = sweep.Results(run, self.clock)
        self.table_seconds = 0.0
        write_table = self.results.write_table

        def timed_table() -> None:
            spent: dict[str, list[float]] = {}
            _timed(spent, "table", write_table)
            self.table_seconds += spent["table"][0]

        self.results.write_table = timed_table
        objectives = run.sweep.search.objectives

        def best(results: Any, objective: Any = objectives[0]) -> Any:
            from raycodellm.commands.run import _best_arm

            file_argument = {"file": run.file} if "file" in inspect.signature(_best_arm).parameters else {}
            return _best_arm(results, [objective], **file_argument)

        shown_sweep = display.Shown(run.sweep.name, ("mean/bpb",), 1, 1, lambda results: str(best(results) or ""))
        live = LiveDisplay(io.StringIO(), shown_sweep, clock=self.clock)
        logs = SimpleNamespace(write=lambda files: write_files(str(folder), files))
        page = SimpleNamespace(tell=lambda message, metadata: None)
        with (
            mock.patch.object(observer, "SessionLogs", lambda folder: logs),
            mock.patch.object(observer, "JobPage", lambda job, address: page),
            mock.patch.object(observer, "submission_id", lambda: "job"),
        ):
            watcher = observability.Observer(
                run.file, 1, gcs_address="", session_folder=str(folder), find_best=best, clock=self.clock
            )
        if watcher._gauges is not None:
            watcher._gauges._clock = self.clock
        monitor = observability.Observed(live, watcher)
        stopper = sweep.Stopper()
        self.searcher = StudySearcher(run, self.results, stopper, lambda number: True, monitor)
        self.watchdog = sweep.Watchdog(SimpleNamespace(), run, self.results, monitor, stopper, "127.0.0.1:1")
        self.watchdog._ask = lambda method: Snapshot()

    def clock(self) -> float:
        """Seconds: those between the trials' ends, and the CPU's."""
        return self.now + time.process_time()

    def look(self) -> None:
        """Does what the watchdog does twice a second."""
        self.watchdog._look()


def measure_driver(kind: str, num_trials: int) -> None:
    """Prints a line for each size up to `num_trials`."""
    from raycodellm import search, sweep
    from raycodellm.files import Folder

    share = OptunasShare()
    os.fsync = lambda descriptor: None  # a disk's waiting is no CPU time
    file, slots = many.sweep_file(kind, num_trials), many.Slots()
    with tempfile.TemporaryDirectory() as folder:
        storage = Folder(folder)
        started_at = time.process_time()
        with sweep.lock(sweep.open_run(file, storage)) as run:
            driver = Driver(run, Path(folder))
            ready = time.process_time() - started_at
            context = sweep.TrialContext(run, many.pretended_materials(file, storage), slots)
            like: Any = None
            spent: dict[str, list[float]] = {}
            number, max_trials = 0, search.most_trials(file)
            while number < max_trials:
                optunas = share.seconds
                settings = _timed(spent, "suggestion", driver.searcher.suggest, str(number))
                if isinstance(settings, str):
                    break
                if like is None or settings["phase"] == "confirm":  # a look reads the items of these
                    report = many.carry_out(settings, context, slots)
                    like = like or _result(report)
                else:
                    report = many.quick_report(settings, like)
                _timed(spent, "end", driver.searcher.on_trial_complete, str(number), report)
                spent.setdefault("optuna", []).append(share.seconds - optunas)
                driver.now += SECONDS
                if any(size - _num_events(size) - 5 <= number < size for size in SIZES):  # five to catch up
                    table_seconds = driver.table_seconds
                    _timed(spent, "look", driver.look)
                    spent["look"][-1] -= driver.table_seconds - table_seconds
                else:
                    driver.results.write_table_if_due()
                number += 1
                if number in SIZES:
                    _print_driver(kind, number, spent, driver)
            if number not in SIZES:
                looks = spent["suggestion"][num_trials:]
                print(
                    f"{kind}: the suggestions after the search, of which some look: {sum(looks):.2f} s, "
                    f"the longest {max(looks, default=0.0):.2f} s"
                )
            print(f"{kind}: {ready:.2f} s of CPU until the driver was ready", flush=True)


def _result(report: Any) -> Any:
    from raycodellm.sweep.trial import reported_result

    return reported_result(report)


def _num_events(size: int) -> int:
    return min(size, MOST_EVENTS)


def _print_driver(kind: str, number: int, spent: dict[str, list[float]], driver: Driver) -> None:
    events = _num_events(number)
    means = {name: 1000 * sum(values[-events:]) / events for name, values in spent.items()}
    means["table"] = 1000 * driver.table_seconds / (number - SIZES[SIZES.index(number) - 1] if number > 10 else 10)
    driver.table_seconds = 0.0
    gc.collect()
    optunas = means.pop("optuna")
    print(
        f"{kind:8} {number:6,} trials: suggestion {means['suggestion']:7.2f} ms, end {means['end']:6.2f} ms, "
        f"look {means['look']:8.2f} ms, table {means['table']:6.2f} ms, sum {sum(means.values()):8.2f} ms, "
        f"of it Optuna {optunas:7.2f} ms, "
        f"memory {_memory():6.0f} MiB",
        flush=True,
    )


def _timed(spent: dict[str, list[float]], event: str, work: Callable[..., Any], *arguments: Any) -> Any:
    started_at = time.process_time()
    answer = work(*arguments)
    spent.setdefault(event, []).append(time.process_time() - started_at)
    return answer


# ------------------------------------------------------------------------------------------------- the commands


COMMANDS = {
    "status": "status {run}",
    "status --json": "status --json {run}",
    "status --all": "status --all {run}",
    "report": "report {run}",
    "run (nothing to do)": "run {sweep} --storage {storage}",
    "check": "check {sweep} --storage {storage}",
    "suggest": "suggest {run}",
}


def make_run(kind: str, num_trials: int, storage: Any, materials: Any = None, name: str = "many") -> Any:
    """Carries out a sweep in this process: every file that a run leaves but token stores and models."""
    from raycodellm import search, sweep

    file, slots = many.sweep_file(kind, num_trials, name), many.Slots()
    with mock.patch("os.fsync"), sweep.lock(sweep.open_run(file, storage)) as run:
        sweep.fix_contents(run, num_trials)
        results = sweep.Results(run)
        audience = SimpleNamespace(say=lambda line: None, expects=lambda num_trials, most: None)
        from raycodellm.sweep.searcher import StudySearcher

        searcher = StudySearcher(run, results, sweep.Stopper(), lambda number: True, audience)
        context = sweep.TrialContext(run, materials or many.pretended_materials(file, storage), slots)
        for number in range(search.most_trials(file)):  # Ray Tune counts the trials
            if isinstance(settings := searcher.suggest(str(number)), str):
                break
            if number < MOST_CARRIED_OUT or settings["phase"] == "confirm":
                report = many.carry_out(settings, context, slots)
            else:
                report = many.leave_alike(settings, run, number % MOST_CARRIED_OUT)
            searcher.on_trial_complete(str(number), report)
        results.write_table()
    return run


def measure_commands(kind: str, num_trials: int, keep: str | None, repeats: int) -> None:
    """Prints a line for each command."""
    from raycodellm.files import Folder

    with _folder(keep) as folder:
        started_at = time.process_time()
        name = f"{kind}-{num_trials}"
        run = Path(folder) / name
        if not (run / "trials.parquet").exists():
            make_run(kind, num_trials, Folder(folder), name=name)
            num_made = len(list((run / "trials").iterdir()))
            spent = time.process_time() - started_at
            print(f"{kind}: {num_made:,} trials made in {spent:.0f} s of CPU, {1000 * spent / num_made:.0f} ms each")
        sweep_file = Path(folder) / f"{name}.yaml"
        sweep_file.write_text(many.sweep_text(kind, num_trials, name))
        for command, words in COMMANDS.items():
            command_words = words.format(run=run, sweep=sweep_file, storage=folder).split()
            best = min(_command(command_words) for _ in range(repeats))
            print(
                f"{kind:8} {num_trials:6,} trials: {command:22} {best[0]:6.2f} s, CPU {best[1]:6.2f} s, "
                f"memory {best[2]:5.0f} MiB",
                flush=True,
            )
        for path in sorted((run / "report").iterdir()):
            print(f"{kind:8} {num_trials:6,} trials: report/{path.name} {path.stat().st_size / 2**20:.2f} MiB")


def _command(words: list[str]) -> tuple[float, float, float]:
    """(Wall seconds, CPU seconds, MiB) of a command."""
    started_at = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "raycodellm.cli", *words], stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - started_at
        if process.returncode:
            errors.seek(0)
            print(f"  {' '.join(words)}: exit {process.returncode}: {errors.read().decode().strip()[-300:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**10


@contextlib.contextmanager
def _folder(keep: str | None) -> Iterator[str]:
    if keep is not None:
        Path(keep).mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory() as folder:
        yield folder


# ------------------------------------------------------------------------------------------------- Ray Tune


def measure_ray(num_trials: int, storage: str) -> None:
    """Prints what a trial takes through `raycodellm run` when its jobs are finished, and through plain Ray Tune."""
    from raycodellm import notebook, stage_store, tokens
    from raycodellm.files import Folder

    file, path = many.sweep_file("random", num_trials, "told"), Path(storage) / "told.yaml"
    path.write_text(many.sweep_text("random", num_trials, "told"))
    data = tokens.prepare(file.example(), Folder(storage))
    contents = stage_store.contents_of_file(file)
    data_fields = (data.stores, data.tokenizer_folder, data.tokenizer_fingerprint, data.vocab_size)
    if not (Path(storage) / "made" / "trials.parquet").exists():
        materials = stage_store.Materials(*data_fields, Folder(storage), contents)
        make_run("random", num_trials, Folder(storage), materials, "made")
    spent, wall = time.process_time(), time.monotonic()
    notebook.run(path, storage=storage)
    spent, wall = time.process_time() - spent, time.monotonic() - wall
    trials = Folder(storage).read_json("told/runs/0000.json")["seconds"]["trials"]
    print(
        f"raycodellm run: {num_trials:,} trials in {trials:.1f} s ({1000 * trials / num_trials:.0f} ms each), "
        f"the whole command {wall:.1f} s; CPU of the driver {spent:.1f} s; "
        f"memory {_memory():.0f} MiB",
        flush=True,
    )
    num_at_once = _trials_at_once(file)
    for reuses in (True, False):  # plain Ray Tune takes longer: a tenth of the trials tells what each takes
        _measure_plain(max(10, num_trials // 10), num_at_once, reuses)


def _trials_at_once(file: Any) -> int:
    """Trials at once that a sweep of two slots has."""
    from raycodellm import search

    return search.trials_at_once(file, 2)


def _measure_plain(num_trials: int, concurrent: int, reuses: bool) -> None:
    import ray
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        tune.report({"bpb": config["code_ratio"]})

    with tempfile.TemporaryDirectory() as folder:
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        memory_before = _memory()
        tuner = tune.Tuner(
            tune.with_resources(train, {"CPU": 0.01}),
            param_space={"code_ratio": tune.uniform(0.0, 0.75)},
            tune_config=tune.TuneConfig(
                num_samples=num_trials, max_concurrent_trials=concurrent, reuse_actors=reuses, metric="bpb", mode="min"
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        spent, wall = time.process_time(), time.monotonic()
        tuner.fit()
        spent, wall = time.process_time() - spent, time.monotonic() - wall
        print(
            f"plain Ray Tune ({'one process for all' if reuses else 'a process per trial, its default'}): "
            f"{num_trials:,} trials in {wall:.1f} s ({1000 * wall / num_trials:.0f} ms each), {concurrent} at once; "
            f"CPU of the driver {spent:.1f} s ({1000 * spent / num_trials:.0f} ms each); "
            f"memory {memory_before:.0f} to {_memory():.0f} MiB",
            flush=True,
        )
        ray.shutdown()


def _memory() -> float:
    """MiB of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


# ------------------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(description=inspect.getdoc(sys.modules[__name__]))
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--parts", default="driver,commands")
    parser.add_argument("--kinds", default=",".join(many.SAMPLERS))
    parser.add_argument("--keep", metavar="FOLDER", help="make the run folders here, and use them if they are there")
    parser.add_argument("--repeats", type=int, default=1, help="of each command; the fastest counts")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure == "ray":
        with _folder(options.keep) as folder:
            measure_ray(options.trials, folder)
        return
    if options.measure:
        measure_driver(options.measure, options.trials)
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for kind in options.kinds.split(","):
        if "driver" in options.parts:
            command = [sys.executable, __file__, f"--measure={kind}", f"--trials={options.trials}"]
            subprocess.run(command, env=environment, check=True)
        if "commands" in options.parts:
            measure_commands(kind, options.trials, options.keep, options.repeats)
    if "ray" in options.parts:
        command = [sys.executable, __file__, "--measure=ray", f"--trials={options.trials}"]
        command += [f"--keep={options.keep}"] if options.keep else []
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
