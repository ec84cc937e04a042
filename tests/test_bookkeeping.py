"""The driver's work for one trial does not grow with the number of trials before it: counted, not timed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from driver_without_ray import Cluster, Driver

from raycodellm import config, sweep, verdict
from raycodellm import throttle as throttles
from raycodellm.dispatch import Snapshot
from raycodellm.display import LineDisplay, Shown
from raycodellm.evaluation import Items
from raycodellm.evaluation.scores.items_table import items_table
from raycodellm.evaluation.scores.metrics import BY_NAME
from raycodellm.files import Folder
from raycodellm.observability import observer
from raycodellm.observability.readings import MOST_ENDED
from raycodellm.records import LedgerRow, TrialResult
from raycodellm.throttle import SHARE, Throttle
from raycodellm.verdict import comparison

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
    throttle = Throttle(clock)
    for seconds in (0.001, 0.1, 10.0):
        clock.now += 1e6
        began, spent = clock.now, 0.0
        while clock.now - began < 20 * seconds / SHARE:
            if throttle.is_due:
                with throttle:
                    clock.now += seconds
                spent += seconds
            clock.now += seconds / 4
        assert spent <= 1.1 * SHARE * (clock.now - began) + seconds, seconds


def test_work_that_waits_for_an_answer_is_due_again_at_once(monkeypatch) -> None:
    clocks = {"monotonic": 100.0, "thread_time": 7.0}
    monkeypatch.setattr(throttles, "time", SimpleNamespace(**{name: partial(clocks.get, name) for name in clocks}))
    throttle = Throttle(share=0.1)
    for _ in range(3):
        with throttle:
            clocks["monotonic"] += 20.0  # counted as work, it would be due 200 s later
            clocks["thread_time"] += 0.25
        assert not throttle.is_due
        clocks["monotonic"] += 2.5
        assert throttle.is_due


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


# ------------------------------------------------------------------------------------------------- suggestions and ends


def test_a_suggestion_and_an_end_look_at_no_other_trial_and_tell_ray_tune_the_objectives_alone(
    tmp_path: Path, sweep_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config.parse(sweep_text, overrides=("search.trials=8", "search.sampler=random"))
    rows: list[int] = []
    row = TrialResult.row
    monkeypatch.setattr(TrialResult, "row", lambda result, *wanted: rows.append(result.number) or row(result, *wanted))
    with sweep.lock(sweep.open_run(file, Folder(str(tmp_path)))) as run:
        driver = Driver(run, Cluster(), monkeypatch, lambda: 0.0)
        rows.clear()
        for number in range(8):
            report = driver.carry_out(driver.suggest(str(number)))
            driver.end(str(number), report)
            assert set(report) == {"mean/bpb", "state", "number", "record", "uses"}
        assert not rows
        assert driver.searcher.suggest("8")["number"] == 8  # Ray Tune counts the trials


def test_a_look_measures_the_arms_that_it_compares_and_no_arm_with_a_lone_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    measure = comparison.measurements
    monkeypatch.setattr(
        comparison, "measurements", lambda metric, rows, items: measured.append(1) or measure(metric, rows, items)
    )

    def row(number: int, arm: int, seed: int) -> dict[str, Any]:
        scores = {f"metrics.mean/bpb{end}": 1.5 + 0.01 * number + 0.001 * seed for end in ("", "_low", "_high")}
        return {"number": number, "state": "complete", "arm": arm, "seed": seed, **scores}

    compared = {arm: [row(2 * arm, arm, 0), row(2 * arm + 1, arm, 1)] for arm in range(2)}
    told = []
    for num_searched in (10, 1000):
        lone = [[row(100 + arm, arm, 0)] for arm in range(num_searched)]
        pair = [[row(5000, 5000, 0), row(5001, 5000, 1)]]
        measured.clear()
        objective = config.Objective(metric="mean/bpb", mode="min")
        told.append(comparison.compare(compared, 0, {"mean/bpb": objective}, {}, noise_rows=[*lone, *pair]))
        assert len(measured) == 3
    assert told[0] == told[1] and isinstance(told[0], verdict.Comparison)


def test_a_metric_is_the_same_from_its_column_and_from_the_rows_of_items() -> None:
    rows = []
    for number in range(12):
        row: dict[str, Any] = {"task": "a", "item": number, "doc_hash": "", "correct": number % 3 == 0}
        row |= {"bits_per_byte": None if number == 4 else 1.0 + number, "num_bytes": 3, "too_long": number == 4}
        row |= {"not_run": number == 7, "attributes": "{}", "scores": {"acc": float(number % 3 == 0)}}
        rows.append(row)
    missing = [{**row, "correct": None, "scores": {}} if row["item"] == 4 else row for row in rows]
    for some in (rows, missing):
        items = Items(items_table(some, {"a": ("a",)}))
        for name in ("acc", "bpb"):
            by_row, found = items._row_values(BY_NAME[name]), items._column_values(BY_NAME[name])
            assert found is not None or (name == "acc" and some is missing)
            assert found is None or all(
                np.array_equal(*pair, equal_nan=True) for pair in zip(found, by_row, strict=True)
            )
        assert len(items.samples("a/bpb")[0]) == 10 and len(items.samples("a/acc")[0]) == (11 if some is rows else 10)
