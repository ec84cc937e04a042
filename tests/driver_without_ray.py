"""A sweep's driver without Ray: its searcher, its trials, and a cluster that does each job at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from raycodellm import stage_store, sweep
from raycodellm.dispatch import Snapshot, TrialOutcome
from raycodellm.evaluation import KeptResults, TaskResult
from raycodellm.evaluation.results.task_results import write_result
from raycodellm.files import Folder
from raycodellm.records import LedgerRow, StageRecord, as_json
from raycodellm.sweep import trial
from raycodellm.tokens import Reading

ENDS = ("", "_low", "_high")
ITEMS = {"item": [0], "correct": [True], "chance": [0.2]}


@dataclass(frozen=True)
class Corpus:
    """A token store of which only the sizes are known."""

    fingerprint: str
    num_tokens: int = 100_000

    @property
    def folder(self) -> Folder:
        return Folder(f"/tokens/{self.fingerprint}")

    def num_sequences(self, sequence_length: int, reading: Reading) -> int:
        return self.num_tokens // sequence_length

    def held_out(self, num_tokens: int) -> int:
        return 0


class Cluster:
    """Answers as a dispatcher whose slots do each job at once, and write what slots write."""

    def __init__(self) -> None:
        named_call = SimpleNamespace(remote=self._run)
        self.trial = SimpleNamespace(remote=self._run, options=lambda name: named_call)
        self.num_trained: Counter[str] = Counter()
        """How often each stage was trained, by its key."""
        self.num_evaluated: Counter[str] = Counter()
        """How often each task's result was written, by its file."""
        self.notes: list[str] = []
        """The lines that the user is told."""
        self.note = SimpleNamespace(remote=self.notes.append)

    def _run(self, number: int, chain: stage_store.Chain, finished: dict[str, Any]) -> TrialOutcome:
        outcomes: dict[str, Any] = dict(finished)
        for job in chain.stages:
            if job.key not in finished:
                ledger = (LedgerRow("prose", "text", 900, 1_024, 1_000, 8, 0.5),)
                record = StageRecord(job.identity, job.stage.name, 8, 1_024, 5.5, 2.0, 2.0, "c0ffee", ledger=ledger)
                Folder(job.folder).write_json("stage.json", {"job": {"sources": []}, "record": as_json(record)})
                Folder(job.folder).write_json("DONE", {"record": as_json(record)})
                outcomes[job.key] = record
                self.num_trained[job.key] += 1
        if chain.evaluation.key not in finished:
            job = chain.evaluation
            kept_results = KeptResults(Folder(job.folder), job.keys).read(job.keys)
            for task, key in job.keys.items():
                if task in kept_results:
                    continue
                score = 1.5 + int(key.rpartition("-")[2][:4], 16) / 1e6
                items = pa.table({**ITEMS, "task": [task], "bits_per_byte": [score]})
                result = TaskResult(items, {f"{task}/bpb{end}": score for end in ENDS}, (task,), 1.0)
                write_result(Folder(job.folder), key, result)
                self.num_evaluated[f"{job.folder}/{key}"] += 1
            outcomes[job.key] = stage_store.finished_outcome(job)
        return TrialOutcome(outcomes)


class Driver:
    """The driver of `run`, which it owns (`sweep.lock`)."""

    def __init__(
        self, run: sweep.Run, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float]
    ) -> None:
        from raycodellm.sweep.searcher import StudySearcher

        corpora = {name: Corpus(name) for name in run.sweep.sources}
        contents = stage_store.contents_of_file(run.file)
        materials = stage_store.Materials(corpora, Folder("/t"), "t", 512, run.storage, contents)
        self.context = sweep.TrialContext(run, materials, cluster)
        self.results = sweep.Results(run, clock)
        stopper = sweep.Stopper()
        self.said: list[str] = []
        """The lines that the user is told of a confirmation."""
        monitor = SimpleNamespace(
            training=lambda snapshot, results: None, say=self.said.append, expects=lambda num_trials, most: None
        )
        self.account = sweep.Account(run, self.context.chain, self.results.all(), clock)
        self.searcher = StudySearcher(run, self.results, stopper, lambda number: True, monitor, self.account)
        self.watchdog = sweep.Watchdog(cluster, run, self.results, monitor, stopper, "127.0.0.1:1", self.account)
        monkeypatch.setattr(self.watchdog, "_ask", lambda method: Snapshot())
        monkeypatch.setattr("ray.get", lambda answer: answer)
        self._reported: dict[str, Any] = {}
        monkeypatch.setattr("ray.tune.report", self._reported.update)

    def suggest(self, name: str) -> Any:
        return self.searcher.suggest(name)

    def carry_out(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Runs the trial; returns its report to Ray Tune."""
        trial.run_trial(settings, self.context)
        return dict(self._reported)

    def end(self, name: str, report: dict[str, Any]) -> None:
        self.searcher.on_trial_complete(name, report)

    def look(self) -> None:
        self.watchdog._look()
