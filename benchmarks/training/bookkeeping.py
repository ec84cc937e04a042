"""A driver's spending on its own records as a sweep grows: CPU milliseconds per suggestion, per end of a trial and per
look at the running sweep, and seconds per continuation, after 10, 100 and 1,000 trials on a local disk.

    python benchmarks/training/bookkeeping.py [CHECKOUT …] [--trials 1000] [--sampler random]

One block of lines per checkout, each in a process of its own. Trains nothing and starts no Ray. The share of Optuna's
own sampler is printed apart, since it grows with the number of trials.
"""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SWEEP = """
name: many
model: {preset: tiny}
tokenizer: {train: {vocab_size: 512}}
sources: {prose: {kind: text, path: "builtin:python-prose"}, python: {kind: code, path: "builtin:python-code"}}
stages:
  - name: pretrain
    tokens: 8_192
    sequence_length: 64
    batch_tokens: 1_024
    code_ratio: {search: {uniform: [0.0, 0.75]}}
    schedule: {search: {choice: [constant, increase, decrease]}}
    learning_rate: {peak: {search: {loguniform: [1.0e-4, 1.0e-2]}}}
evaluation: {tasks: [boxes], limit: 8}
search: {trials: 1_000, sampler: random, replicates: 2}
"""
EVENTS = 10
"""Events that are measured at each size."""


class Driver:
    """The driver's side of a sweep, in this version of the package or in the one before it told results in memory."""

    def __init__(self, run: Any) -> None:
        from raycodellm import records, sweep
        from raycodellm.sweep.searcher import StudySearcher

        self.run, self.sweep, self.records = run, sweep, records
        self.ended: dict[int, Any] = {}
        self.now = 0.0
        halt = SimpleNamespace(is_set=lambda: False)
        self.results = sweep.Results(run, lambda: self.now) if hasattr(sweep, "Results") else None
        given = (run, self.results, halt) if self.results is not None else (run, halt)
        parameters = inspect.signature(StudySearcher).parameters
        audience = {"audience": SimpleNamespace()} if "audience" in parameters else {}
        self.searcher = StudySearcher(*given, lambda number: True, **audience)

    def begin(self, name: str) -> dict[str, Any]:
        return self.searcher.suggest(name)

    def write(self, settings: dict[str, Any]) -> Any:
        """Does the work of the trial's own process."""
        metrics = {f"task{n}/bpb": 1.5 for n in range(20)} | {"mean/bpb": 1.5 + settings["number"] / 1e4}
        ledger = tuple(self.records.LedgerRow(name, "text", 900, 1_024, 1_000, 8, 0.5) for name in ("prose", "python"))
        result = self.records.TrialResult(
            settings["number"],
            "complete",
            settings["arm"],
            settings["seed"],
            settings["params"],
            metrics,
            ledger=ledger,
        )
        self.run.trial_folder(result.number).write_json("result.json", self.records.as_json(result))
        return result

    def end(self, name: str, result: Any) -> None:
        import json

        self.now += 5.0
        record = json.dumps(self.records.as_json(result))
        self.searcher.on_trial_complete(name, {**result.metrics, "record": record})
        if self.results is None:
            self.sweep.write_table(self.run)

    def look(self) -> None:
        """Does what the watchdog does twice a second."""
        if self.results is None:
            self.sweep.read_results(self.run, self.ended)
        else:
            self.results.write_table_if_due()
            self.results.all()


def measure(num_trials: int, sampler: str) -> None:
    from raycodellm import config, sweep
    from raycodellm.files import Folder

    os.fsync = lambda descriptor: None  # a disk's waiting is no CPU time
    file = config.parse(SWEEP, overrides=(f"search.sampler={sampler}",))
    with tempfile.TemporaryDirectory() as folder:
        run = sweep.open_run(file, Folder(folder))
        driver = Driver(run)
        asking = _asking(driver.searcher)
        for number in range(num_trials):
            is_measured = any(size - EVENTS <= number < size for size in (10, 100, 1000))
            first = number in (0, 90, 990)
            if first:
                spent: dict[str, list[float]] = {}
                asking.clear()
            settings = _timed(spent, "suggestion", driver.begin, str(number))
            result = driver.write(settings)
            if is_measured:
                _timed(spent, "end", driver.end, str(number), result)
                _timed(spent, "look", driver.look)
            else:
                driver.searcher.on_trial_complete(str(number), {**result.metrics, "record": _record(driver, result)})
                if driver.results is not None:
                    driver.now += 5.0
                    driver.results.write_table_if_due()
            if number + 1 in (10, 100, 1000):
                means = {name: 1000 * sum(values[-EVENTS:]) / EVENTS for name, values in spent.items()}
                of_sampler = 1000 * sum(asking[-EVENTS:]) / EVENTS
                again: dict[str, list[float]] = {}
                _timed(again, "continuation", _continue, file, folder)
                print(
                    f"{number + 1:5} trials: suggestion {means['suggestion']:7.1f} ms (sampler {of_sampler:6.1f}), "
                    f"end {means['end']:7.1f} ms, look {means['look']:6.2f} ms, "
                    f"continuation {again['continuation'][0]:5.2f} s",
                    flush=True,
                )


def _continue(file: Any, folder: str) -> None:
    from raycodellm import sweep
    from raycodellm.files import Folder

    run = sweep.open_run(file, Folder(folder))
    _ = run.num_ended_at_start
    sweep.tell_written_results(run)
    sweep.write_table(run)


def _record(driver: Driver, result: Any) -> str:
    import json

    return json.dumps(driver.records.as_json(result))


def _asking(searcher: Any) -> list[float]:
    """Seconds of each suggestion that Optuna's sampler takes."""
    spent: list[float] = []
    sampler = searcher._study._study.sampler

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return method(*arguments, **named)
            finally:
                spent[-1] += time.process_time() - began

        return call

    def relative_space(*arguments: Any, **named: Any) -> Any:
        spent.append(0.0)  # the first call of a suggestion
        return infer(*arguments, **named)

    for name in ("infer_relative_search_space", "sample_relative", "sample_independent"):
        setattr(sampler, name, timed(getattr(sampler, name)))
    infer = sampler.infer_relative_search_space
    sampler.infer_relative_search_space = relative_space
    return spent


def _timed(spent: dict[str, list[float]], event: str, work: Callable[..., Any], *arguments: Any) -> Any:
    began = time.process_time()
    answer = work(*arguments)
    spent.setdefault(event, []).append(time.process_time() - began)
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=inspect.getdoc(sys.modules[__name__]))
    parser.add_argument("checkouts", nargs="*", default=["."])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.trials, options.sampler)
        return
    for checkout in options.checkouts:
        print(checkout, flush=True)
        environment = {**os.environ, "PYTHONPATH": str(Path(checkout).resolve())}
        command = [sys.executable, __file__, "--measure", f"--trials={options.trials}", f"--sampler={options.sampler}"]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
