"""The run folder is the state of a sweep: what may change in it, who may run it, and what a driver's death leaves."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
import ray
import yaml

from raycodellm import config, report, run_times, search, sweep
from raycodellm.commands import report as command
from raycodellm.commands import run as running
from raycodellm.config import UserError
from raycodellm.dispatch import SlotActivity, Snapshot
from raycodellm.dispatch.snapshot import SlotView
from raycodellm.files import Folder
from raycodellm.records import CONFIRM_SEEDS, TrialResult, as_json
from raycodellm.storage_files import Spent
from raycodellm.sweep import told_results, trial, watchdog
from raycodellm.sweep.trial_files import keep_aside


@pytest.fixture
def opened(sweep_text: str, tmp_path) -> sweep.Run:
    return sweep.open_run(config.parse(sweep_text), Folder(str(tmp_path)))


def write(opened: sweep.Run, record: str, **values) -> None:
    result = TrialResult(**{"number": 0, "state": "running", "arm": 0, "seed": 0, **values})
    opened.trial_folder(result.number).write_json(record, as_json(result))


@pytest.mark.parametrize("override", ["pretrain.tokens=9_999", "search.trials=1", "sources.prose.kind=math", "seed=4"])
def test_a_run_folder_refuses_another_sweep_by_key(sweep_text: str, opened: sweep.Run, override: str, tmp_path) -> None:
    key, _, value = override.partition("=")
    with pytest.raises(UserError) as caught:
        sweep.open_run(config.parse(sweep_text, overrides=(override,)), Folder(str(tmp_path)))
    message = str(caught.value)
    assert key in message
    assert value.replace("_", "") in message


def test_where_a_sweep_runs_may_change_while_it_is_continued(sweep_text: str, opened: sweep.Run, tmp_path) -> None:
    moved = config.parse(sweep_text, overrides=("scaling.slots=9", "scaling.workers=2"))
    assert sweep.open_run(moved, Folder(str(tmp_path))).folder == opened.folder


def test_a_confirmation_may_change_until_a_fresh_seed_has_been_seen(sweep_text: str, tmp_path) -> None:
    def opened(confirm: str) -> sweep.Run:
        overrides = ("search.reference={pretrain.code_ratio: 0.0}", f"search.confirm={confirm}")
        return sweep.open_run(config.parse(sweep_text, overrides=overrides), Folder(str(tmp_path)))

    opened("null")
    with sweep.lock(run := opened("{best: 1, seeds: [2, 4]}")):
        write(run, "trial.json", number=2, arm=1, seed=1_000_000, phase="confirm")
    assert opened("{best: 1, seeds: [2, 4]}")
    for other, key in (("{best: 1, seeds: [2, 4, 6]}", "confirm.seeds"), ("{seeds: [2, 4]}", "best"), ("null", "conf")):
        with pytest.raises(UserError, match=rf"{key}.*fresh seeds have been seen"):
            opened(other)


def test_a_setting_that_the_run_did_not_know_yet_is_no_difference(sweep_text: str, opened: sweep.Run, tmp_path) -> None:
    saved = opened.folder.read_bytes("sweep.yaml").decode()
    assert "  few_shot: 0\n" in saved
    opened.folder.write_bytes("sweep.yaml", saved.replace("  few_shot: 0\n", "").encode())
    with sweep.lock(sweep.open_run(config.parse(sweep_text), Folder(str(tmp_path)))):
        assert opened.folder.read_bytes("sweep.yaml").decode() == saved


def test_a_second_driver_is_refused_while_the_first_one_runs(opened: sweep.Run, sweep_text: str, tmp_path) -> None:
    moved = sweep.open_run(config.parse(sweep_text, overrides=("scaling.slots=9",)), Folder(str(tmp_path)))
    with sweep.lock(opened), pytest.raises(UserError, match="being run by process"), sweep.lock(moved):
        raise AssertionError("two drivers hold one run folder")
    assert "slots: 1\n" in opened.folder.read_bytes("sweep.yaml").decode()  # not that of the refused one
    with sweep.lock(opened):
        assert opened.folder.exists(".lock")


def test_every_trial_is_one_row_of_the_table_and_a_failed_one_has_no_score(opened: sweep.Run) -> None:
    params = {"pretrain.code_ratio": 0.5}
    metrics = {"mean/bpb": 1.5}
    write(opened, "result.json", state="complete", params=params, metrics=metrics, tokens={"prose": 3, "total": 3})
    write(opened, "result.json", number=1, state="failed", params=params, error="TrainingError: loss is nan")
    write(opened, "trial.json", number=2, params=params)
    sweep.write_table(opened)
    table = pd.read_parquet(f"{opened.folder.uri}/trials.parquet")
    assert table["state"].tolist() == ["complete", "failed", "running"]
    assert table["metrics.mean/bpb"].isna().tolist() == [False, True, True]
    assert table["params.pretrain.code_ratio"].tolist() == [0.5, 0.5, 0.5]
    assert table["tokens.total"][0] == 3
    assert "nan" in table["error"][1]


def test_results_written_before_a_driver_died_are_told_to_the_study(opened: sweep.Run) -> None:
    study = search.SweepStudy(opened.journal, opened.file)
    for _ in range(3):
        study.suggest()
    write(opened, "result.json", state="complete", metrics={"mean/bpb": 1.5})
    write(opened, "result.json", number=1, state="failed", error="ValueError: bad data")
    write(opened, "trial.json", number=2)
    assert sweep.tell_written_results(opened) == 2
    study = search.SweepStudy(opened.journal, opened.file)
    assert [(t.state.name, t.value) for t in study.trials()] == [
        ("COMPLETE", 1.5),
        ("FAIL", None),
        ("RUNNING", None),
    ]
    assert sweep.tell_written_results(opened) == 2


def test_the_searcher_suggests_unfinished_trials_first_tells_what_trials_wrote_and_stops_at_a_halt(opened) -> None:
    from raycodellm.sweep.searcher import StudySearcher

    left = search.SweepStudy(opened.journal, opened.file).suggest()
    stopper = sweep.Stopper()
    given_up: list[int] = []
    results = sweep.Results(opened)
    searcher = StudySearcher(opened, results, stopper, lambda number: given_up.append(number) or True, Mock())
    assert searcher.suggest("a") == {"number": 0, "arm": 0, "seed": 0, "params": left.params, "phase": "search"}
    assert [searcher.suggest(name)["number"] for name in ("b", "c")] == [1, 2]
    write(opened, "result.json", state="complete", metrics={"mean/bpb": 1.5}, params=left.params)
    searcher.on_trial_complete("a", {"mean/bpb": 9.0})  # as the trial wrote it, not as Ray Tune tells it
    searcher.on_trial_complete("b", error=True)
    searcher.on_trial_complete("c")  # stopped, without a result
    assert [result.state for result in results.all()] == ["complete", "failed", "running"]
    stopper.stopping.set()
    assert searcher.suggest("d") == searcher.FINISHED and given_up == [1]
    told = search.SweepStudy(opened.journal, opened.file).trials()
    assert [(t.state.name, t.value) for t in told] == [("COMPLETE", 1.5), ("FAIL", None), ("RUNNING", None)]
    assert pickle.loads(pickle.dumps(searcher)).FINISHED  # as Ray Tune does for its snapshots


def test_slots_that_the_end_of_a_search_leaves_free_train_the_references_fresh_seeds(sweep_text, tmp_path) -> None:
    from raycodellm.sweep.searcher import StudySearcher

    overrides = ("search.reference={pretrain.code_ratio: 0.0}", "search.confirm={best: 1, seeds: [2]}")
    opened = sweep.open_run(config.parse(sweep_text, overrides=overrides), Folder(str(tmp_path)))
    results = sweep.Results(opened)
    searcher = StudySearcher(opened, results, sweep.Stopper(), lambda number: True, told := Mock())

    def begun(name: str) -> tuple[str, int, int] | str | None:
        found = searcher.suggest(name)
        return (found["phase"], found["arm"], found["seed"]) if isinstance(found, dict) else found

    def end(name: str) -> None:
        ended = replace(results.of("abcdef".index(name)), state="complete", metrics={"mean/bpb": 1.5})
        opened.trial_folder(ended.number).write_json("result.json", as_json(ended))
        searcher.on_trial_complete(name)

    assert [begun(name) for name in "abcd"] == [
        ("search", 0, 0),
        ("search", 1, 0),
        ("confirm", 0, CONFIRM_SEEDS),
        ("confirm", 0, CONFIRM_SEEDS + 1),
    ]
    end("a")
    assert begun("e") is None
    end("b")
    assert [begun(name) for name in "ef"] == [("confirm", 1, CONFIRM_SEEDS), ("confirm", 1, CONFIRM_SEEDS + 1)]
    said = told.say.call_args.args[0]
    assert "the reference, arm 0 (pretrain.code_ratio 0), are confirmed with 2 fresh seeds each" in said
    for name in "cde":
        end(name)
        assert begun("g") is None
    searcher.on_trial_complete("f", error=True)  # its process died before it wrote anything: its seed has failed
    assert begun("g") == searcher.FINISHED
    assert "look 1 of 1 (2 seeds)" in told.say.call_args.args[0]


def test_a_trial_whose_process_died_is_a_failed_trial_with_its_cause(opened: sweep.Run) -> None:
    write(opened, "trial.json", number=4, arm=2, seed=1)
    told_results.record_death(opened, 4)
    told_results.record_death(opened, 5)
    first, second = sweep.read_results(opened)
    assert (first.state, first.arm, first.seed) == ("failed", 2, 1)
    assert "process ended" in first.error
    assert (second.number, second.state) == (5, "failed")


# --------------------------------------------------------------------------------------------- being stopped


@pytest.fixture
def signals() -> Iterator[None]:
    """Leaves the handlers of this process as they were. `nohup`, under which the tests may run, ignores SIGHUP."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_stops_trials_cleanly_and_ends_other_work_and_the_next_ends_all(signals, number: int) -> None:
    stopper = sweep.Stopper()
    stopper.install()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert stopper.stopping.is_set()
    stopper = sweep.Stopper(clean=True)
    stopper.install()
    os.kill(os.getpid(), number)
    assert stopper.stopping.is_set()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_a_run_under_nohup_outlives_its_terminal(signals) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopper = sweep.Stopper()
    stopper.install()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stopper.stopping.is_set()


def test_a_look_at_a_running_sweep_reads_nothing_and_outlives_a_storage_that_is_away(opened: sweep.Run, monkeypatch):
    watched = Watched(*[Snapshot()] * 3)
    monkeypatch.setattr("ray.get", watched.answer)
    results = sweep.Results(opened)
    look = sweep.Watchdog(watched, opened, results, watched, sweep.Stopper(), "127.0.0.1:1")
    results.begin(0, 0, 0, {"pretrain.code_ratio": 0.5})
    monkeypatch.setattr(Folder, "read_bytes", Mock(side_effect=AssertionError))
    monkeypatch.setattr(Folder, "list", Mock(side_effect=AssertionError))
    monkeypatch.setattr("raycodellm.sweep.results.TABLE_SECONDS", 0.0)
    monkeypatch.setattr(Folder, "write_bytes", Mock(side_effect=TimeoutError))
    look._look()
    assert watched.shown == [Snapshot()]  # whose notes are told once
    monkeypatch.setattr(Folder, "write_bytes", Mock(side_effect=PermissionError))
    with pytest.raises(PermissionError):
        look._look()


def test_a_reader_of_a_sweep_that_is_continued_reads_its_ended_trials_and_its_settings_again(
    opened: sweep.Run, sweep_text: str
) -> None:
    pages = command._Pages(opened, print)
    kept = sweep.EndedTrials()

    def states() -> list[list[str]]:
        kept.forget_if_continued(opened.folder)
        read = [pages.read()[0], sweep.read_results(opened, kept.results)]
        return [[one.state for one in results] for results in read]

    for number in range(pages.confirmation.standing([]).num_trials):
        write(opened, "result.json", number=number, arm=number, state="failed", error="OSError: away")
    assert {state for read in states() for state in read} == {"failed"} and pages.read()[1] is True
    more = config.parse(sweep_text, overrides=("search.trials=9", "pretrain.schedule=constant"))
    opened.folder.write_bytes("sweep.yaml", yaml.safe_dump(config.resolved_tree(more)).encode())
    keep_aside(opened.trial_folder(0), "result.failed-1.json")
    write(opened, "trial.json", params={"pretrain.code_ratio": 0.5})
    run_times.write_run_times(opened.folder, 0, run_times.RunTimes(0.0, 0.0))
    assert [read[0] for read in states()] == ["running", "running"]
    assert pages.num_trials == 9 and pages.read()[1] is False


def test_devices_count_from_the_last_look_until_the_stages_of_a_stopped_sweep_are_saved(opened: sweep.Run) -> None:
    now, view = 0.0, SlotView("slot 1", SlotActivity.WORKING, None, 0.0)
    account = sweep.Account(opened, lambda params, seed: None, (), lambda: now)
    for seconds, views in ((5.0, (view,)), (2.0, (view, view)), (3.0, (replace(view, state=SlotActivity.STARTING),))):
        account.look(Snapshot(slot_views=views))
        now += seconds
    assert account.spent == Spent(0, 5.0 + 2 * 2.0, 10.0)
    account.look(Snapshot(slot_views=(view,)))
    now += 60.0
    account.write()
    assert opened.folder.read_json("spent.json")["device_seconds"] == 69.0


def test_the_table_is_written_seldom_and_never_much_too_late(opened: sweep.Run, monkeypatch) -> None:
    now = 0.0
    results = sweep.Results(opened, lambda: now)
    written: list[int] = []
    monkeypatch.setattr(Folder, "write_table", lambda folder, name, table: written.append(table.num_rows))

    def seconds_later(seconds: float) -> int:
        nonlocal now
        now += seconds
        results.write_table_if_due()
        return len(written)

    assert seconds_later(1000) == 0, "nothing has changed"
    for number in range(1000):
        results.begin(number, number, 0, {"pretrain.code_ratio": 0.5})
        seconds_later(1)
    assert written[:3] == [1, 6, 11] and len(written) < 60
    before = len(written)
    results.end(TrialResult(0, "complete", 0, 0, metrics={"mean/bpb": 1.5}))
    assert seconds_later(100) == before
    assert seconds_later(300) == before + 1
    results.write_table()
    assert len(written) == before + 1, "nothing has changed since"


def test_a_trial_whose_curves_are_damaged_reports_its_result_all_the_same(sweep_text, tmp_path, monkeypatch) -> None:
    tracked = config.parse(sweep_text, overrides=["tracking.tensorboard=true"])
    opened = sweep.open_run(tracked, Folder(str(tmp_path)))
    write(opened, "result.json", state="complete", metrics={"mean/bpb": 1.5})
    stage = Folder(str(tmp_path / "stage"))
    stage.write_bytes("metrics.parquet", b"no table")
    chain = Mock(stages=[SimpleNamespace(folder=stage.uri)])
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", reports.append)
    context = SimpleNamespace(run=opened, chain=lambda params, seed: chain)
    trial.run_trial({"number": 0, "arm": 0, "seed": 0, "params": {}, "phase": "search"}, context)
    (reported,) = map(trial.reported_result, reports)
    assert reported is not None and reported.metrics == {"mean/bpb": 1.5}


def ctrl_c(records) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("ends", [ValueError("no such plot"), SystemExit("killed"), ctrl_c])
def test_a_run_that_ended_before_its_report_was_written_is_followed_by_one_that_writes_it(
    opened, monkeypatch, capsys, ends: BaseException | Callable
) -> None:
    def trials(task, shown, timing, stopper) -> None:
        stopper.clean = True  # as the watchdog leaves it

    drawn = Mock(side_effect=ends)
    write(opened, "result.json", state="failed", error="it broke")
    monkeypatch.setattr(running, "_run_on_cluster", trials)
    monkeypatch.setattr(report, "write_pages", drawn)
    request = running.SweepRequest("small.yaml")
    task = running._Task(request, opened, 1, 1, 1, Mock(), Mock(groups=None))
    code = None
    with contextlib.suppress(running.RunFailed, SystemExit):
        code = running._run_trials(task, 0.0)
    printed = capsys.readouterr().out
    assert code == (130 if ends is ctrl_c else None)
    drawn.side_effect = None
    if isinstance(ends, ValueError):
        assert "failed: ValueError: no such plot\nthe log has more: " in printed
        assert "Traceback" in running.log_path(opened.folder).read_text()
    assert opened.folder.read_table("trials.parquet").num_rows == 1
    assert running._finish_without_trials(request, opened, may_report=False) == 1 and drawn.call_count == 1
    for _ in range(2):  # the second one finds the report written
        assert running._finish_without_trials(request, opened, may_report=True) == 1 and drawn.call_count == 2
    assert [one.state for one in run_times.read_run_times(opened.folder)][1:] == ["done"]


# ------------------------------------------------------------------------------------- when all is lost


class Watched:
    """A dispatcher's handle whose answers are given; and a monitor that keeps what it is told."""

    def __init__(self, *snapshots) -> None:
        self.snapshots = list(snapshots)
        self.asked: list[str] = []
        self.said: list[str] = []
        self.shown: list[Snapshot] = []
        self.looked = threading.Event()

    def __getattr__(self, method: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *arguments: method)

    def answer(self, method: str, timeout: float) -> Any:
        self.asked.append(method)
        found = self.snapshots.pop(0) if method == "snapshot" else True
        self.looked.set()
        if isinstance(found, Exception):
            raise found
        return found

    def training(self, snapshot, results) -> None:
        self.shown.append(snapshot)

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def watch(opened: sweep.Run, monkeypatch) -> Iterator[Callable]:
    """Watches work that ends with the sweep, over a dispatcher that answers so; the head answers on a real port."""
    head = socket.create_server(("127.0.0.1", 0))

    def watch(*snapshots, head_is_there: bool = True, ends_first: bool = False) -> tuple[Watched, sweep.Stopper, str]:
        watched, stopper = Watched(*snapshots), sweep.Stopper()
        monkeypatch.setattr("ray.get", watched.answer)
        results = sweep.Results(opened)
        watcher = sweep.Watchdog(watched, opened, results, watched, stopper, f"127.0.0.1:{head.getsockname()[1]}")
        if not head_is_there:
            head.close()
        with pytest.raises(sweep.SweepLost) as lost:
            watcher.watch(lambda: (watched.looked if ends_first else stopper.lost).wait(300), look_seconds=0.01)
        assert stopper.is_set()
        assert not stopper.stopping.is_set()
        return watched, stopper, str(lost.value)

    yield watch
    head.close()


def test_a_run_whose_dispatcher_died_ends_with_the_cause_and_what_to_do(watch) -> None:
    _, _, said = watch(Snapshot(), ray.exceptions.ActorDiedError())
    assert "hands out the sweep's jobs, has died" in said
    assert "the same command continues" in said


def test_a_run_that_nothing_can_go_on_in_waits_for_its_stages_to_be_saved_and_ends_with_the_cause(watch) -> None:
    watched, _, said = watch(Snapshot(), Snapshot(abandoned="no space left on device"))
    assert said.startswith("no space left on device; finished trials stay")
    assert watched.asked[-1] == "drained"


def test_a_run_that_nothing_can_go_on_in_says_so_also_where_its_trials_end_before_the_driver_looks(watch) -> None:
    _, _, said = watch(Snapshot(), Snapshot(abandoned="its GPUs cannot be used"), ends_first=True)
    assert said.startswith("its GPUs cannot be used; finished trials stay")


def test_a_run_whose_head_node_is_silent_ends_before_ray_ends_the_process(watch, monkeypatch) -> None:
    monkeypatch.setattr(watchdog, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(watchdog, "ASK_HEAD_SECONDS", 0.02)
    _, _, said = watch(*[Snapshot()] * 50, head_is_there=False)
    assert "head node at 127.0.0.1:" in said
    assert "has not answered for" in said


def test_a_head_node_that_answers_again_was_never_lost() -> None:
    now = 100.0
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        head = watchdog.HeadWatch(f"127.0.0.1:{address[1]}", lambda: now)
        now += 50
        assert head.seconds_silent() == 0
    now += 5
    assert head.seconds_silent() == 5
    with socket.create_server(address):
        now += 5
        assert head.seconds_silent() == 0


def test_a_full_disk_ends_the_run_and_fails_no_trial(tmp_path, monkeypatch) -> None:
    def full(params, seed):
        raise OSError(errno.ENOSPC, "No space left on device")

    abandoned: list[str] = []
    dispatcher = SimpleNamespace(abandon=SimpleNamespace(remote=abandoned.append))
    monkeypatch.setattr(ray, "get", lambda asked: asked)
    folder = Folder(str(tmp_path))
    context = SimpleNamespace(chain=full, dispatcher=dispatcher)
    result, _ = trial._carry_out(TrialResult(number=0, state="running", arm=0, seed=0), folder, context)
    assert result.state == "stopped" and abandoned == ["[Errno 28] No space left on device"]
    assert not folder.exists("result.json")
