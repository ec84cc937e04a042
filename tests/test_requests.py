"""A sweep on an object store makes few requests, and no more of them at its hundredth trial than at its tenth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from s3_server import Requests, s3_server

from raycodellm import config, stage_store, sweep
from raycodellm.dispatch import Snapshot, TrialOutcome
from raycodellm.files import Folder
from raycodellm.records import LedgerRow, StageRecord, as_json
from raycodellm.slots.lease import Lease
from raycodellm.sweep import ownership, trial
from raycodellm.tokens import Reading

pytestmark = pytest.mark.slow

NUM_TRIALS = 100
ITEMS = pa.table({"task": ["boxes"], "item": [0], "correct": [True], "bits_per_byte": [1.5], "chance": [0.2]})


@pytest.fixture(scope="module")
def store() -> Iterator[Requests]:
    pytest.importorskip("moto.server")
    with s3_server() as requests:
        yield requests


@dataclass(frozen=True)
class Corpus:
    fingerprint: str
    num_tokens: int = 100_000

    @property
    def folder(self) -> Folder:
        return Folder(f"s3://data/s/tokens/{self.fingerprint}")

    def num_sequences(self, sequence_length: int, reading: Reading) -> int:
        return self.num_tokens // sequence_length

    def held_out(self, num_tokens: int) -> int:
        return 0


class Cluster:
    """Answers as a dispatcher whose slots do each job at once and write what a slot writes."""

    def __init__(self) -> None:
        self.run_trial = SimpleNamespace(remote=self._run)
        self.snapshot = SimpleNamespace(remote=Snapshot)

    def _run(self, number: int, chain: stage_store.Chain, finished: dict[str, Any]) -> TrialOutcome:
        outcomes: dict[str, Any] = dict(finished)
        for job in chain.stages:
            ledger = (LedgerRow("prose", "text", 900, 1_024, 1_000, 8, 0.5),)
            record = StageRecord(job.identity, job.stage.name, 8, 1_024, 5.5, 2.0, 2.0, "c0ffee", ledger=ledger)
            Folder(job.folder).write_json("stage.json", {"job": {"sources": []}, "record": as_json(record)})
            Folder(job.folder).write_json("DONE", {"record": as_json(record)})
            outcomes[job.key] = record
        metrics = {"boxes/bpb": 1.5 + number / 1000, "mean/bpb": 1.5 + number / 1000}
        Folder(chain.evaluation.folder).write_table("items.parquet", ITEMS)
        Folder(chain.evaluation.folder).write_json("metrics.json", metrics)
        return TrialOutcome({**outcomes, chain.evaluation.key: metrics})


class Sweep:
    """A driver without Ray: its searcher, its trials and its looks, with the requests of each event."""

    def __init__(self, run: sweep.Run, store: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
        from raycodellm.sweep.searcher import StudySearcher

        self.store, self.now, self.reported = store, 0.0, {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        dispatcher = Cluster()
        corpora = {name: Corpus(name) for name in run.sweep.sources}
        contents = stage_store.contents_of([run.sweep])
        materials = stage_store.Materials(corpora, Folder("s3://data/s/t"), "t", 512, run.storage, contents)
        self.context = sweep.TrialContext(run, materials, dispatcher)
        self.results = sweep.Results(run, lambda: self.now)
        stopper = sweep.Stopper()
        self.searcher = StudySearcher(run, self.results, stopper, lambda number: True)
        monitor = SimpleNamespace(training=lambda snapshot, results: None)
        self.watchdog = sweep.Watchdog(dispatcher, run, self.results, monitor, stopper, "127.0.0.1:1")
        monkeypatch.setattr(self.watchdog, "_ask", lambda method: Snapshot())
        monkeypatch.setattr("ray.get", lambda answer: answer)
        monkeypatch.setattr("ray.tune.report", lambda report: self.reported.update(report))

    def count(self, event: str, work: Any, *arguments: Any) -> Any:
        counted: dict[str, Any] = {}
        with self.store.of(counted):
            answer = work(*arguments)
        self.events.setdefault(event, []).append(counted)
        return answer

    def trial(self, name: str) -> None:
        settings = self.count("suggestion", self.searcher.suggest, name)
        self.count("trial", trial.run_trial, settings, self.context)
        self.count("end", self.searcher.on_trial_complete, name, dict(self.reported))
        self.now += 20.0
        self.count("look", self.watchdog._look)
        self.count("look again", self.watchdog._look)


def test_a_sweep_on_an_object_store_makes_a_bounded_number_of_requests_per_event(
    sweep_text: str, store: Requests, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ownership, "REMOTE", replace(ownership.REMOTE, settle=0.0))
    file = config.parse(sweep_text, overrides=(f"search.trials={NUM_TRIALS}", "search.sampler=random"))
    opened = sweep.open_run(file, Folder("s3://data/s"))
    with sweep.lock(opened) as run:
        assert sweep.tell_written_results(run) == 0
        driver = Sweep(run, store, monkeypatch)
        for number in range(NUM_TRIALS):
            driver.trial(str(number))
        driver.count("owner", run.hold.owner.beat)
        lease = Lease(Folder("s3://data/s/stages/x"), "me")
        lease.take()
        driver.count("lease", lease.beat)
        driver.results.write_table()
    events = driver.events
    with capsys.disabled():
        for name, found in events.items():
            kinds = sum((Counter(one["kinds"]) for one in found), Counter())
            each = {kind: round(number / len(found), 2) for kind, number in kinds.items()}
            print(f"{name}: {each}, {sum(one['bytes'] for one in found) / len(found):.0f} bytes, {found[-1]['log']}")
