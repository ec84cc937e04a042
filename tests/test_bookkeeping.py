"""The driver's work for one trial does not grow with the number of trials before it: counted, not timed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raycodellm import config
from raycodellm.dispatch import Snapshot
from raycodellm.display import LineDisplay, Shown
from raycodellm.observability import observer
from raycodellm.observability.readings import MOST_ENDED
from raycodellm.pacing import SHARE, Pace
from raycodellm.records import LedgerRow, TrialResult

PARAMS = {"pretrain.code_ratio": 0.4, "pretrain.schedule": "constant"}
LEDGER = (LedgerRow("prose", "text", 60, 60, 60, 1, 1.0), LedgerRow("python", "code", 40, 40, 40, 1, 1.0))


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def trial(number: int, state: str = "complete") -> TrialResult:
    metrics = {f"boxes/{name}": 0.5 for name in ("acc", "bpb", "chance", "items")} | {"mean/bpb": 2 - number / 1e4}
    ended = {"metrics": metrics, "tokens": {"total": 100}, "ledger": LEDGER} if state == "complete" else {}
    return TrialResult(number, state, number, 0, PARAMS, **ended)  # type: ignore[arg-type]


@pytest.fixture
def sweep_file(tmp_path: Path, sweep_text: str) -> config.SweepFile:
    (tmp_path / "small.yaml").write_text(sweep_text)
    return config.load(tmp_path / "small.yaml")


def test_paced_work_takes_a_small_share_of_the_time_however_long_it_takes_once() -> None:
    clock = Clock()
    pace = Pace(clock)
    for seconds in (0.001, 0.1, 10.0):
        clock.now += 1e6
        began, spent = clock.now, 0.0
        while clock.now - began < 20 * seconds / SHARE:
            if pace.is_due:
                with pace:
                    clock.now += seconds
                spent += seconds
            clock.now += seconds / 4
        assert spent <= 1.1 * SHARE * (clock.now - began) + seconds, seconds


def test_the_best_arm_is_found_at_each_end_of_few_trials_and_rarely_where_that_takes_long() -> None:
    clock, asked = Clock(), []
    seconds_per_trial = 1e-4

    def best(results: Sequence[TrialResult]) -> str:
        asked.append(len(results))
        clock.now += seconds_per_trial * len(results)
        return f"arm {len(results)}"

    display = LineDisplay(io.StringIO(), Shown("small", ("mean/bpb",), 2000, best=best), clock=clock)
    results: list[TrialResult] = []
    for number in range(1000):
        results.append(trial(number))
        clock.now += 2.0
        display.training(Snapshot(), results)
    assert asked[:20] == list(range(1, 21))
    assert sum(asked) * seconds_per_trial < 1.1 * SHARE * clock.now
    clock.now += 1e4
    display.training(Snapshot(), results)
    assert display.moment is not None and display.moment.best == "arm 1000", "what was left out is made up for"


class CountingGauge:
    """A gauge that counts what is set."""

    num_set = 0
    series: set[Any] = set()  # noqa: RUF012

    def __init__(self, name: str, description: str, labels: tuple[str, ...]) -> None:
        self._name = name

    def set(self, value: float, tags: dict[str, str]) -> None:
        CountingGauge.num_set += 1
        CountingGauge.series.add((self._name, *sorted(tags.items())))


class Files:
    """Keeps what is written on the Logs page."""

    def __init__(self, folder: str) -> None:
        self.texts: dict[str, str] = {}
        self.writes: list[str] = []

    def write(self, files: dict[str, Any]) -> None:
        for name, content in files.items():
            self.texts[name] = content.text
            self.writes.append(name)


@pytest.fixture
def watching(sweep_file: config.SweepFile, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Files, Clock]:
    """An observer of a sweep, the files that it writes, and its clock; a view of all trials takes a second."""
    clock, files = Clock(), Files("")

    def find_best(results: Sequence[TrialResult], objective: Any) -> None:
        clock.now += 1.0

    monkeypatch.setattr("ray.util.metrics.Gauge", CountingGauge)
    monkeypatch.setattr(observer, "SessionLogs", lambda folder: files)
    made = observer.Observer(sweep_file, 1000, gcs_address="", session_folder="", find_best=find_best, clock=clock)
    assert made._gauges is not None
    made._gauges._clock = clock
    return made, files, clock


def test_a_sweep_of_hundreds_of_trials_has_as_many_series_as_one_of_a_hundred(watching: Any) -> None:
    made, _, clock = watching
    series: list[int] = []
    for num_trials in (MOST_ENDED, 2 * MOST_ENDED, 4 * MOST_ENDED):
        made.look(Snapshot(), [trial(number) for number in range(num_trials)])
        CountingGauge.series, CountingGauge.num_set = set(), 0
        clock.now += 60.0
        made.look(Snapshot(), [trial(number) for number in range(num_trials)])
        series.append(len(CountingGauge.series))
        names = {dict(one[1:]).get("trial") for one in CountingGauge.series} - {None}
        assert names == {f"{number:04d}" for number in range(num_trials - MOST_ENDED, num_trials)}
        CountingGauge.num_set = 0
        clock.now += 1.0
        made.look(Snapshot(), [trial(number) for number in range(num_trials)] + [trial(num_trials, "running")])
        assert CountingGauge.num_set < 30, "a look between sets what has changed"
    assert series[0] == series[1] == series[2]


def test_the_views_of_all_trials_are_written_rarely_where_that_takes_long_and_once_more_at_the_end(
    watching: Any,
) -> None:
    made, files, clock = watching
    results: list[TrialResult] = []
    for number in range(200):
        results.append(trial(number))
        clock.now += 2.0
        made.look(Snapshot(), list(results))
    table = "raycodellm-small-trials.txt"
    assert 1 <= files.writes.count(table) <= 3
    assert len(set(files.writes)) == 201, "each trial's own log is written at once"
    assert "0199" not in files.texts[table]
    made.finish()
    assert "0199" in files.texts[table]
    before = len(files.writes)
    made.finish()
    assert len(files.writes) == before


def test_the_rows_of_all_trials_share_the_names_of_their_columns() -> None:
    one, other = (trial(number).row() for number in range(2))
    assert all(mine is theirs for mine, theirs in zip(one, other, strict=True) if mine.startswith("metrics."))


def test_a_row_may_leave_out_the_metrics_that_its_reader_does_not_need() -> None:
    whole, slim = trial(3).row(), trial(3).row(["mean/bpb", "mean/bpb_low"])
    assert slim == {name: value for name, value in whole.items() if not name.startswith("metrics.boxes/")}
