"""A sweep on an object store makes few requests, and no more of them at its hundredth trial than at its tenth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from driver_without_ray import Cluster, Driver
from s3_server import Requests, s3_server

from raycodellm import config, sweep
from raycodellm.files import Folder
from raycodellm.report import summary_text
from raycodellm.slots.lease import Lease
from raycodellm.sweep import ownership, spending

pytestmark = pytest.mark.slow

NUM_TRIALS = 100
FILES = ("optuna.log", "trials.parquet")
SECONDS = 20.0
"""Between the ends of two trials."""
HEARTBEAT = ownership.REMOTE


@pytest.fixture(scope="module")
def store() -> Iterator[Requests]:
    pytest.importorskip("moto.server")
    with s3_server() as requests:
        yield requests


class Events:
    """The requests of each event of a sweep, in order."""

    def __init__(self, store: Requests) -> None:
        self._store = store
        self.counted: dict[str, list[dict[str, Any]]] = {}
        self.journal_bytes = self.table_bytes = 0
        """In the end."""

    def count(self, event: str, work: Any, *arguments: Any) -> Any:
        counted: dict[str, Any] = {}
        with self._store.of(counted):
            answer = work(*arguments)
        self.counted.setdefault(event, []).append(counted)
        return answer

    def per_event(self, event: str, first: int = 0, last: int | None = None) -> tuple[dict[str, float], float]:
        """(Requests of each kind, bytes), the mean over some of the event's occurrences."""
        some = self.counted[event][first:last]
        kinds = sum((Counter(one["kinds"]) for one in some), Counter())
        return {kind: number / len(some) for kind, number in kinds.items()}, sum(one["bytes"] for one in some) / len(
            some
        )


@pytest.fixture(scope="module")
def events(sweep_text: str, store: Requests, tmp_path_factory) -> Iterator[Events]:
    """A sweep of a hundred trials and its continuation when all is done."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        # Each beat, and each look when the last one is two beats old, would add requests on a slow machine.
        monkeypatch.setattr(ownership, "REMOTE", replace(HEARTBEAT, settle=0.0, beat=1e6))
        events, now = Events(store), 0.0
        file = config.parse(sweep_text, overrides=(f"search.trials={NUM_TRIALS}", "search.sampler=random"))
        with sweep.lock(sweep.open_run(file, Folder("s3://data/s"))) as run:
            assert sweep.tell_written_results(run) == 0
            driver = Driver(run, Cluster(), monkeypatch, lambda: now)
            for number in range(NUM_TRIALS):
                settings = events.count("suggestion", driver.suggest, str(number))
                report = events.count("trial", driver.carry_out, settings)
                events.count("end", driver.end, str(number), report)
                now += SECONDS
                events.count("look", driver.look)
                for _ in range(10):
                    events.count("look again", driver.look)
            events.count("owner's beat", run.hold.owner.beat)
            lease = Lease(Folder("s3://data/s/stages/x"), "me")
            lease.take()
            events.count("lease's beat", lease.beat)
            driver.results.write_table()
        events.journal_bytes, events.table_bytes = (len(run.folder.read_bytes(name)) for name in FILES)
        again = events.count("continuation", sweep.open_run, file, Folder("s3://data/s"))
        with sweep.lock(again) as run:
            assert events.count("reading", sweep.tell_written_results, run) == NUM_TRIALS
            events.count("table", sweep.write_table, run, print, run.results_at_start)
            events.count("summary", summary_text, run.folder, run.storage)
        yield events


def test_each_event_of_a_sweep_makes_as_many_requests_at_its_hundredth_trial_as_at_its_twentieth(
    events: Events,
) -> None:
    for event in ("suggestion", "trial", "end", "look", "look again"):
        early, late = events.per_event(event, 10, 20), events.per_event(event, 90, 100)
        assert early[0] == late[0] or event == "look", event
    assert events.per_event("suggestion")[0]["PUT"] <= 1.05
    begun = {"HEAD": 3, "LIST": 1, "PUT": 1}  # has it a result? which of its three jobs are finished? then trial.json
    slot = {"PUT": 5, "LIST": 2, "HEAD": 1, "GET": 1}  # what two stages and a task leave; the task's metrics
    done = {"LIST": 1, "HEAD": 1, "GET": 1, "PUT": 2}  # the task's items; items.parquet and result.json
    assert sum(events.per_event("trial")[0].values()) == pytest.approx(
        sum(begun.values()) + sum(slot.values()) + sum(done.values()), abs=0.1
    )
    assert events.per_event("end") == ({}, 0.0)
    # The table, and spent.json.
    assert events.per_event("look")[0]["PUT"] <= 0.5 + SECONDS / spending.REMOTE_WRITE_SECONDS
    assert events.per_event("look again") == ({}, 0.0)


def test_the_bytes_of_an_event_do_not_grow_with_the_sweep(events: Events) -> None:
    early, late = events.per_event("trial", 0, 50)[1], events.per_event("trial", 50, 100)[1]
    assert late == pytest.approx(early, rel=0.1)
    # A line of the journal is written again a few times, and the table at fewer and fewer of the looks.
    assert events.per_event("suggestion")[1] < 4.5 * events.journal_bytes / NUM_TRIALS
    assert events.per_event("look")[1] < events.table_bytes / 3


def test_a_driver_that_waits_makes_a_few_requests_a_minute(events: Events) -> None:
    owner, lease = events.per_event("owner's beat")[0], events.per_event("lease's beat")[0]
    assert owner == {"GET": 1, "PUT": 1} and lease == {"HEAD": 1, **owner}
    assert sum(owner.values()) * 60 / HEARTBEAT.beat <= 6
    assert sum(lease.values()) * 60 / Lease.beat_seconds <= 6


def test_the_continuation_of_a_finished_sweep_reads_each_trial_once(events: Events) -> None:
    assert sum(events.per_event("continuation")[0].values()) < 20
    assert events.per_event("reading")[0] == {"LIST": 1, "HEAD": NUM_TRIALS, "GET": NUM_TRIALS}
    assert events.per_event("table")[0] == {"PUT": 1}
