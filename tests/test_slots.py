"""The dispatcher and its slots without a cluster: who waits, who is told to stop or leave, what a dead slot leaves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from worker_group import together

from raycodellm import evaluation, retrying
from raycodellm.config import Evaluation, Scaling
from raycodellm.dispatch import Demand, Sight
from raycodellm.dispatch.nodes import JobNode, JobState
from raycodellm.dispatch.state import DispatchState
from raycodellm.engine import StorageError, World
from raycodellm.evaluation import TaskResult
from raycodellm.evaluation.scores.items_table import items_table
from raycodellm.files import Folder
from raycodellm.records import EvaluationJob, Progress, StageRecord, as_json
from raycodellm.slots import client, evaluation_job, pool, ray_train, worker
from raycodellm.slots import notice as notice_module
from raycodellm.slots.client import DispatcherClient
from raycodellm.slots.controller import short_cause
from raycodellm.slots.dispatcher import Dispatcher
from raycodellm.slots.evaluation_job import run_evaluation
from raycodellm.slots.lease import BEAT_SECONDS, STALE_SECONDS, Lease

RECORD = StageRecord("0", "pretrain", 1, 1, 1.0, 1.0, 1.0, "0")


@dataclass(frozen=True)
class FakeJob:
    key: str
    kind: str = "evaluation"


def chain(*names: str) -> SimpleNamespace:
    return SimpleNamespace(jobs=tuple(FakeJob(name) for name in names))


def test_a_trial_waits_for_its_jobs_and_gets_their_outcomes() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        await dispatcher.register("s")
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a", "e"), {}))
        for key in ("a", "e"):
            answer, job = await dispatcher.next_job("s", 1, 5.0)
            assert (answer, job.key) == ("job", key)
            await dispatcher.ended("s", 1, key, "finish", key.upper())
        assert (await trial).outcomes == {"a": "A", "e": "E"}
        snapshot = await dispatcher.snapshot()
        assert snapshot.jobs_done == 2
        assert not snapshot.running

    asyncio.run(scene())


def test_a_waiting_slot_hears_of_new_work_at_once() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        await dispatcher.register("s")
        waiting = asyncio.create_task(dispatcher.next_job("s", 1, 30.0))
        await asyncio.sleep(0)
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        answer, job = await asyncio.wait_for(waiting, 1.0)
        assert (answer, job.key) == ("job", "a")
        await dispatcher.ended("s", 1, "a", "finish", 1)
        await trial

    asyncio.run(scene())


def test_a_restarted_slot_gives_back_what_it_held() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        await dispatcher.register("s")
        assert (await dispatcher.next_job("s", 1, 1.0))[1].key == "a"
        assert await dispatcher.register("s") == 2
        assert any("died" in note for note in (await dispatcher.snapshot()).notes)
        assert (await dispatcher.next_job("s", 2, 1.0))[1].key == "a"
        await dispatcher.slot_gone("s", "killed twice")
        assert "killed twice" in (await trial).error

    asyncio.run(scene())


def test_a_stop_reaches_trials_and_slots() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        await dispatcher.register("s")
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        await dispatcher.next_job("s", 1, 1.0)
        assert not await dispatcher.report("s", 1, Progress("a", step=1))
        await dispatcher.stop()
        assert await dispatcher.report("s", 1, Progress("a", step=2))
        assert await trial is None
        assert not await dispatcher.drained(0.01)
        await dispatcher.ended("s", 1, "a", "release", None)
        assert await dispatcher.drained(1.0)
        await dispatcher.close()
        assert await dispatcher.next_job("s", 1, 1.0) == ("quit", None)

    asyncio.run(scene())


def test_an_idle_slot_ends_only_when_nothing_is_being_prepared(monkeypatch) -> None:
    monkeypatch.setattr("raycodellm.slots.dispatcher.IDLE_SECONDS", 0.0)

    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        await dispatcher.register("s")
        assert await dispatcher.next_job("s", 1, 0.01) == ("wait", None)
        await dispatcher.set_keep_idle(False)
        assert await dispatcher.next_job("s", 1, 0.01) == ("quit", None)

    asyncio.run(scene())


def test_a_slot_that_was_told_to_leave_gets_no_more_work_and_others_take_what_it_had() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=0, max_preemptions=1)
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        await dispatcher.register("spot")
        await dispatcher.register("other")
        assert (await dispatcher.next_job("spot", 1, 1.0))[1].key == "a"
        await dispatcher.told_to_leave("spot", 1, "SIGTERM")
        await dispatcher.ended("spot", 1, "a", "preempted", "SIGTERM")
        assert await dispatcher.next_job("spot", 1, 5.0) == ("quit", None)
        assert (await dispatcher.next_job("other", 1, 1.0))[1].key == "a"
        snapshot = await dispatcher.snapshot()
        assert (snapshot.deaths, snapshot.preemptions) == (0, 1)
        assert any("SIGTERM" in note and "taken again" in note for note in snapshot.notes)
        await dispatcher.ended("other", 1, "a", "finish", 1)
        assert (await trial).preemptions == 1

    asyncio.run(scene())


def test_an_idle_slot_that_is_told_to_leave_stops_waiting_at_once() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=0)
        await dispatcher.register("s")
        waiting = asyncio.create_task(dispatcher.next_job("s", 1, 30.0))
        await asyncio.sleep(0)
        await dispatcher.told_to_leave("s", 1, "its node goes")
        assert await asyncio.wait_for(waiting, 1.0) == ("quit", None)
        await dispatcher.register("s")  # Ray Train has given it new workers elsewhere
        await dispatcher.told_to_leave("s", 1, "its node goes")  # on its way for long
        assert await dispatcher.next_job("s", 2, 0.0) == ("wait", None)

    asyncio.run(scene())


def test_workers_that_die_before_they_have_saved_were_preempted_if_they_had_notice() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=0, max_preemptions=5)
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a", "b", "c"), {}))
        await dispatcher.register("s")
        for number, key in enumerate(("a", "b")):
            assert (await dispatcher.next_job("s", number + 1, 1.0))[1].key == key
            if number:  # Ray itself knows that the node was taken away
                await dispatcher.workers_died("s", "the node died", preempted=True)
            else:
                await dispatcher.told_to_leave("s", number + 1, "SIGTERM")
                await dispatcher.workers_died("s", "the actor died", preempted=False)
            await dispatcher.register("s")
            assert (await dispatcher.next_job("s", number + 2, 1.0))[1].key == key
            await dispatcher.ended("s", number + 2, key, "finish", key)
        assert (await dispatcher.snapshot()).preemptions == 2
        assert (await dispatcher.next_job("s", 3, 1.0))[1].key == "c"
        await dispatcher.workers_died("s", "the actor died", preempted=False)
        assert "died once; the last time: the actor died" in (await trial).error

    asyncio.run(scene())


def test_a_job_whose_workers_died_is_given_to_another_slot_before_new_workers_are_placed() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        await dispatcher.register("s")
        assert (await dispatcher.next_job("s", 1, 1.0))[1].key == "a"
        assert (await dispatcher.demand()).has_slot
        await dispatcher.workers_died("s", "worker 1: the node died", preempted=False)
        assert await dispatcher.demand() == Demand(num_jobs=1, num_starting=1)
        assert await dispatcher.next_job("s", 1, 0.01) == ("wait", None)  # its other worker has not noticed yet
        await dispatcher.register("t")
        assert (await dispatcher.next_job("t", 1, 1.0))[1].key == "a"
        (note,) = (await dispatcher.snapshot()).notes
        assert "worker 1: the node died" in note
        await dispatcher.ended("t", 1, "a", "finish", 1)
        assert (await trial).deaths == 1

    asyncio.run(scene())


def test_a_slot_that_ends_tells_whether_it_ever_held_a_job() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        await dispatcher.register("s")
        await dispatcher.register("t")
        await dispatcher.next_job("s", 1, 1.0)
        assert await dispatcher.slot_gone("s", "killed")
        assert not await dispatcher.slot_gone("t", "killed")
        trial.cancel()

    asyncio.run(scene())


def test_an_abandoned_sweep_tells_its_driver_and_fails_no_trial() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        await asyncio.sleep(0)
        await dispatcher.abandon("no node is left")
        assert await trial is None
        assert (await dispatcher.snapshot()).abandoned == "no node is left"

    asyncio.run(scene())


def test_a_dead_workers_late_question_for_work_takes_nothing_from_its_successor() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        await dispatcher.register("s")
        late = asyncio.create_task(dispatcher.next_job("s", 1, 30.0))
        await asyncio.sleep(0)
        await dispatcher.register("s")
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        assert await asyncio.wait_for(late, 1.0) == ("quit", None)
        assert (await dispatcher.next_job("s", 2, 1.0))[1].key == "a"
        await dispatcher.ended("s", 1, "a", "fail", "too late")
        assert await dispatcher.report("s", 1, Progress("a", step=1))
        assert not await dispatcher.report("s", 2, Progress("a", step=1))
        await dispatcher.ended("s", 2, "a", "finish", 1)
        assert (await trial).error is None

    asyncio.run(scene())


def test_a_job_whose_storage_does_not_answer_is_taken_again_and_in_the_end_the_run_ends_with_its_trials_open(
    monkeypatch,
) -> None:
    monkeypatch.setattr(retrying, "WAITS_SECONDS", (0.001, 0.001))

    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=0)
        await dispatcher.register("s")
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        for _ in range(3):
            assert (await dispatcher.next_job("s", 1, 5.0))[1].key == "a"
            await dispatcher.ended("s", 1, "a", "postpone", "could not connect")
        assert await trial is None
        snapshot = await dispatcher.snapshot()
        assert snapshot.abandoned == "the storage has not answered 3 times: could not connect"
        assert (snapshot.deaths, len(snapshot.notes)) == (0, 2)

    asyncio.run(scene())


class FakeDispatcher:
    """Answers like an actor's handle, through `ray.get` as `FakeRay` gives it."""

    def __init__(self, **answers) -> None:
        self.answers = answers
        self.asked: list[tuple] = []

    def __getattr__(self, method: str) -> SimpleNamespace:
        def remote(*arguments):
            self.asked.append((method, *arguments))
            return self.answers.get(method)

        return SimpleNamespace(remote=remote)


class FakeRay:
    exceptions = ray.exceptions

    @staticmethod
    def get(answer, timeout=None):
        if isinstance(answer, Exception):
            raise answer
        return answer

    @staticmethod
    def wait(answers, timeout=None):
        return answers, []


def test_a_worker_whose_dispatcher_died_saves_its_stage_and_leaves(monkeypatch) -> None:
    monkeypatch.setattr(client, "ray", FakeRay)
    dead = FakeDispatcher(report=ray.exceptions.ActorDiedError(), ended=ray.exceptions.ActorDiedError())
    link = DispatcherClient(dead, "s")

    def run_job(job, world, link):
        assert not link.should_stop()
        link.progress(Progress("a", step=1))
        assert link.should_stop()

    monkeypatch.setattr(worker, "run_job", run_job)
    worker._do(FakeJob("a"), link, World())
    assert ("ended", "s", 0, "a", "preempted", "the dispatcher died") in dead.asked
    assert worker._agree_on_next(link, World(), 1.0) == ("quit", None)


@pytest.mark.parametrize(("told", "how"), [(False, "release"), (True, "preempted")])
def test_a_stopped_job_is_given_back_as_preempted_only_after_notice(monkeypatch, told: bool, how: str) -> None:
    monkeypatch.setattr(client, "ray", FakeRay)
    asked = FakeDispatcher()
    link = DispatcherClient(asked, "s")
    if told:
        link.notice.preempted("its node goes")
    monkeypatch.setattr(worker, "run_job", lambda *arguments: None)
    worker._do(FakeJob("a"), link, World())
    assert asked.asked[-1][:5] == ("ended", "s", 0, "a", how)


def test_the_first_sigterm_is_a_notice_and_the_next_one_is_as_before() -> None:
    heard: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    later: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: later.append(number))
    try:
        notice_module.listen_for_sigterm()
        notice = notice_module.Notice(heard.append).listen()
        assert notice.cause is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert notice.cause == "SIGTERM"
        until = time.monotonic() + 120
        while not heard and time.monotonic() < until:
            time.sleep(0.01)
        assert heard == ["SIGTERM"]
        os.kill(os.getpid(), signal.SIGTERM)
        assert later == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
        notice_module._terminated.clear()


def test_ray_train_is_told_the_newest_row_once_and_asked_for_nodes_that_go(monkeypatch) -> None:
    import ray.train
    from ray.train import collective

    said, rounds, preempted = [], [], threading.Event()
    monkeypatch.setattr(ray_train, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(ray.train, "report", lambda row: said.append(row))
    monkeypatch.setattr(collective, "broadcast_from_rank_zero", lambda told: rounds.append(told) or told)
    info = SimpleNamespace(preempted_node_ids=["0123456789"])
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: info if preempted.is_set() else None)
    causes: list[str] = []
    link = ray_train.RayTrain(causes.append)
    link.start(ask_for_nodes=True)

    def until(reached) -> None:
        end = time.monotonic() + 120
        while not reached() and time.monotonic() < end:
            time.sleep(0.005)
        assert reached()

    until(lambda: len(rounds) > 2)
    assert said == []
    link.metrics({"stage": "a", "loss": 2.0})
    until(lambda: said == [{"stage": "a", "loss": 2.0}])
    count = len(rounds)
    until(lambda: len(rounds) > count + 2)
    assert len(said) == 1
    preempted.set()
    until(lambda: causes == ["Ray is taking node 01234567 away"])


def test_a_worker_alone_reports_its_rows_without_asking_others(monkeypatch) -> None:
    import ray.train
    from ray.train import collective

    said = threading.Event()
    monkeypatch.setattr(ray_train, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(ray.train, "report", lambda row: said.set())
    monkeypatch.setattr(collective, "broadcast_from_rank_zero", lambda told: pytest.fail("nobody is there to ask"))
    link = ray_train.RayTrain(lambda cause: None)
    link.start(ask_for_nodes=False, is_alone=True)
    link.metrics({"stage": "a", "loss": 2.0})
    assert said.wait(120)


@pytest.mark.parametrize(
    ("sight", "after", "asked"),
    [
        (Sight(2, placement_problem="needs 1 GPU"), 30, ["see"]),
        (Sight(2, placement_problem="needs 1 GPU"), 50, ["see", "fail_all"]),
        (Sight(2, waiting_reason="needs 1 GPU; a node is starting"), 5000, ["see"]),
    ],
)
def test_the_pool_tells_the_dispatcher_what_it_sees_and_ends_what_can_have_no_place(
    monkeypatch, sight: Sight, after: float, asked: list[str]
) -> None:
    monkeypatch.setattr(pool, "ray", FakeRay)
    dispatcher = FakeDispatcher()
    made = pool.SlotPool(dispatcher, Scaling(), 1, None, lambda: sight)
    began = time.monotonic()
    made._watch_placement(Demand(num_jobs=1, num_starting=1), began)
    made._watch_placement(Demand(num_jobs=1, num_starting=1), began + 1)  # too early for another look
    assert dispatcher.asked == [("see", sight)]
    dispatcher.asked.clear()
    made._watch_placement(Demand(num_jobs=1, num_starting=1), began + after)
    assert [method for method, *_ in dispatcher.asked] == asked


def test_a_look_at_the_cluster_that_fails_ends_nothing(monkeypatch) -> None:
    def look() -> Sight:
        raise ConnectionError("the control service is away")

    monkeypatch.setattr(pool, "ray", FakeRay)
    dispatcher = FakeDispatcher()
    made = pool.SlotPool(dispatcher, Scaling(), 1, None, look)
    made._watch_placement(Demand(num_jobs=1), time.monotonic())
    assert dispatcher.asked == [("see", Sight(num_nodes=0))]


def test_slots_are_numbered_in_the_order_in_which_they_are_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(pool.SlotPool, "_run_slot", lambda *arguments: None)
    dispatcher = FakeDispatcher()
    made = pool.SlotPool(dispatcher, Scaling(), 2, None, lambda: Sight(1))
    made._start_slot()
    made._start_slot()
    assert dispatcher.asked == [("slot_asked_for", "slot 1"), ("slot_asked_for", "slot 2")]


def test_a_cause_is_short_and_says_what_really_happened() -> None:
    class WorkerHealthCheckFailedError(Exception):
        health_check_failure = RuntimeError("The actor died.\n\tclass_name: X\nIts node 10.0.0.1 died.\n")

    assert short_cause(WorkerHealthCheckFailedError("a health check failed")) == "RuntimeError: Its node 10.0.0.1 died."
    assert len(short_cause(ValueError("x" * 5000))) < 400
    assert short_cause(ValueError()) == "ValueError"


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_stage_that_one_sweep_trains_is_left_alone_by_another_until_it_is_given_back(tmp_path) -> None:
    clock = Clock()
    one, other = (Lease(Folder(str(tmp_path)), name, clock, clock.sleep) for name in ("one", "other"))
    assert one.take() is None
    assert other.take() == "one"
    for _ in range(20):  # for as long as it shows that it lives
        clock.sleep(BEAT_SECONDS)
        one.beat()
        assert other.take() == "one"
    one.give_back()
    assert other.take() is None
    assert one.take() == "other"


def test_the_lease_of_a_sweep_that_is_gone_becomes_stale(tmp_path) -> None:
    clock = Clock()
    gone, other = (Lease(Folder(str(tmp_path)), name, clock, clock.sleep) for name in ("gone", "other"))
    assert gone.take() is None
    assert other.take() == "gone"
    clock.sleep(STALE_SECONDS - 1)
    assert other.take() == "gone"
    clock.sleep(2)
    assert other.take() is None
    gone.beat()  # it was only slow: what another has taken stays taken
    assert Lease(Folder(str(tmp_path)), "third", clock, clock.sleep).take() == "other"


def test_a_sweep_takes_up_its_own_lease_at_once(tmp_path) -> None:
    clock = Clock()
    killed, again = (Lease(Folder(str(tmp_path)), "same", clock, clock.sleep) for _ in range(2))
    assert killed.take() is None
    assert again.take() is None


def test_of_two_that_take_a_lease_in_the_same_instant_the_last_writer_has_it(tmp_path) -> None:
    clock = Clock()
    other = Lease(Folder(str(tmp_path)), "other", clock, clock.sleep)
    one = Lease(Folder(str(tmp_path)), "one", clock, lambda seconds: other._write())
    assert one.take() == "other"


def test_a_sweep_that_waits_for_a_lease_on_an_object_store_looks_four_times_a_minute(tmp_path) -> None:
    clock = Clock()
    on_disk, remote = (Lease(Folder(uri), "me", clock, clock.sleep) for uri in (str(tmp_path), "s3://data/x"))
    looks = [(on_disk.is_due(), remote.is_due()) for _ in range(30) if clock.sleep(2.0) is None]
    assert [sum(due) for due in zip(*looks, strict=True)] == [30, 4]


def test_half_a_lease_is_none(tmp_path) -> None:
    (tmp_path / "LEASE").write_text('{"hol')
    assert Lease(Folder(str(tmp_path)), "one", Clock(), lambda seconds: None).take() is None


def test_a_lease_that_cannot_be_read_just_now_is_not_free(tmp_path, monkeypatch) -> None:
    assert Lease(Folder(str(tmp_path)), "one").take() is None
    written = (tmp_path / "LEASE").read_bytes()
    other = Lease(Folder(str(tmp_path)), "other")

    def read_json(folder: Folder, name: str) -> None:
        raise TimeoutError

    monkeypatch.setattr(Folder, "read_json", read_json)
    with pytest.raises(TimeoutError):
        other.take()
    other.give_back()
    assert (tmp_path / "LEASE").read_bytes() == written


def test_a_slot_waits_for_the_stage_of_another_sweep_and_stops_waiting_when_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(worker, "LEASE_SECONDS", 0.0)
    folder = Folder(str(tmp_path))
    assert Lease(folder, "another sweep").take() is None
    job = SimpleNamespace(key="a", kind="stage", folder=folder.uri, keep_optimizer=False)
    told: list[Progress] = []
    stops = iter([False, False, True])
    mine = Lease(folder, "mine")
    link = SimpleNamespace(progress=told.append, should_stop=lambda: next(stops))
    assert not worker._wait_for_lease(mine, job, World(), link)
    assert told[0].note == "waits for another sweep, which trains the same stage"
    folder.write_json("stage.json", {"record": as_json(RECORD)})
    folder.write_bytes("DONE", b"")  # the other is through: nothing to wait for, the record is read
    link.should_stop = lambda: False
    assert worker._wait_for_lease(mine, job, World(), link)
    job.keep_optimizer = True  # but not its optimizer state: that is trained for once more, by one sweep at a time
    link.should_stop = lambda: True
    assert not worker._wait_for_lease(mine, job, World(), link)


def result_of(task: str) -> TaskResult:
    items = items_table([{"task": task, "item": 0, "doc_hash": "0", "too_long": False, "attributes": "{}"}], {})
    return TaskResult(items, {f"{task}/bpb{end}": 2.0 for end in ("", "_low", "_high")}, (task,), 1.5)


def evaluation_job_of(folder: Path, *tasks: str) -> EvaluationJob:
    asked, keys = {task: (task,) for task in tasks}, {task: f"{task}-0" for task in tasks}
    return EvaluationJob("0", str(folder), str(folder), Evaluation(tasks=tasks), "a", asked=asked, keys=keys)


def test_an_evaluation_tells_its_items_about_once_a_second_and_what_it_continues(tmp_path, monkeypatch) -> None:
    def evaluate(model, settings, on_items, say, **how):
        for scored in range(17):
            on_items(scored, 16)
        say("boxes: continues after 4 of 16 items")
        return evaluation.EvaluationResult({"mean/bpb": 2.0}, seconds=3.0)

    monkeypatch.setattr(evaluation_job.evaluation, "evaluate", evaluate)
    told: list[Progress] = []
    job = evaluation_job_of(tmp_path, "boxes")
    assert run_evaluation(job, World(), told.append) == {"mean/bpb": 2.0, "seconds": 3.0}
    assert [(one.items, one.num_items) for one in told] == [(0, 16), (16, 16), (16, 16)]
    state = DispatchState(max_deaths=1)
    state.tree.nodes[job.key] = JobNode(job, None, 0, state=JobState.RUNNING, holder="s#0", trials={0})
    for one in told:
        state.report("s", 0, one)
    assert state.notes == [f"{job.key}: boxes: continues after 4 of 16 items"]


def test_an_evaluation_that_is_told_to_stop_gives_its_job_back(tmp_path, monkeypatch) -> None:
    def evaluate(model, settings, should_stop, **how):
        assert should_stop()
        raise evaluation.Stopped

    monkeypatch.setattr(evaluation_job.evaluation, "evaluate", evaluate)
    job = evaluation_job_of(tmp_path, "boxes")
    assert run_evaluation(job, World(), should_stop=lambda: True) is None
    monkeypatch.setattr(client, "ray", FakeRay)
    asked = FakeDispatcher()
    slot = DispatcherClient(asked, "s")
    slot.lost_because = "the dispatcher died"
    worker._do(job, slot, World())
    assert asked.asked[-1][:5] == ("ended", "s", 0, job.key, "preempted")


def test_ranks_of_an_evaluation_go_by_what_rank_0_sees(tmp_path, monkeypatch) -> None:
    results = evaluation.KeptResults(Folder(str(tmp_path)), {"boxes": "boxes-0"})
    results.write("boxes", result_of("boxes"))
    others_see_nothing = evaluation.KeptResults(Folder(str(tmp_path / "unseen")), {"boxes": "boxes-0"})

    def work(rank, gather):
        own = others_see_nothing if rank else results
        settings = Evaluation(tasks=("boxes",))
        return evaluation.evaluate(tmp_path, settings, rank=rank, world_size=2, gather=gather, results=own)

    assert [one.metrics["boxes/bpb"] for one in together(2, work)] == [2.0, 2.0], "and no model was loaded"


@pytest.mark.parametrize("kind", [evaluation.NotWritten, evaluation.NotRead])
def test_ranks_of_an_evaluation_whose_storage_fails_all_say_so(tmp_path, monkeypatch, kind) -> None:
    def evaluate(model, settings, **how):
        raise kind("no space left")

    monkeypatch.setattr(evaluation_job.evaluation, "evaluate", evaluate)
    monkeypatch.setattr(evaluation_job.engine, "gather", lambda world, mine: [None, mine])
    with pytest.raises(StorageError, match="no space left"):
        run_evaluation(evaluation_job_of(tmp_path, "boxes"), World(rank=1, world_size=2))


def test_a_model_is_evaluated_by_one_job_at_a_time_and_its_results_are_shared(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(worker, "LEASE_SECONDS", 0.0)
    job = evaluation_job_of(tmp_path, "boxes")
    assert Lease(Folder(job.folder), "another sweep").take() is None
    told: list[Progress] = []
    stops = iter([False, True, False])
    link = SimpleNamespace(progress=told.append, should_stop=lambda: next(stops), sweep="mine")
    mine = Lease(Folder(job.folder), worker._holder(job, link))
    assert not worker._wait_for_lease(mine, job, World(), link)
    assert told[0].note == "waits for another sweep, which evaluates the same model"
    evaluation.KeptResults(Folder(job.folder), job.keys).write("boxes", result_of("boxes"))
    assert worker._wait_for_lease(mine, job, World(), link)
    assert run_evaluation(job, World())["boxes/bpb"] == 2.0


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (ConnectionResetError(104, "reset by peer"), "postpone"),
        (OSError(errno.EIO, "input/output error"), "postpone"),
        (OSError(errno.ESTALE, "stale file handle"), "postpone"),
        (FileNotFoundError(2, "no such file"), "fail"),
        (OSError("nothing/here is not a local folder and is not a valid model identifier"), "fail"),
        (OSError(errno.ENOSPC, "no space left"), "fail"),
        (ValueError("bad data"), "fail"),
    ],
)
def test_only_an_error_that_passes_by_itself_postpones_a_job(monkeypatch, error: Exception, how: str) -> None:
    def run_job(job, world, link):
        raise error

    monkeypatch.setattr(client, "ray", FakeRay)
    monkeypatch.setattr(worker, "run_job", run_job)
    asked = FakeDispatcher()
    worker._do(FakeJob("a"), DispatcherClient(asked, "s"), World())
    assert asked.asked[0][:5] == ("ended", "s", 0, "a", how)


@pytest.mark.parametrize(
    "error", [evaluation.NothingFits("all items"), FloatingPointError("is nan"), ValueError("one rank")]
)
def test_workers_that_cannot_score_a_model_stay_for_the_next_job_since_all_of_them_know(monkeypatch, error) -> None:
    def run_job(job, world, link):
        raise error

    monkeypatch.setattr(client, "ray", FakeRay)
    monkeypatch.setattr(worker, "run_job", run_job)
    asked = FakeDispatcher()
    with pytest.raises(ValueError) if isinstance(error, ValueError) else contextlib.nullcontext():
        worker._do(FakeJob("a"), DispatcherClient(asked, "s"), World(rank=1, world_size=2))
    assert asked.asked[0][4] == "fail"


@pytest.mark.parametrize(("number", "how"), [(errno.ETIMEDOUT, "postpone"), (errno.ENOSPC, "abandon")])
def test_a_checkpoint_that_a_storage_did_not_take_postpones_its_job_and_a_full_disk_ends_the_run(
    monkeypatch, number: int, how: str
) -> None:
    def run_job(job, world, link):
        raise StorageError("the checkpoint could not be written") from OSError(number, "not now")

    monkeypatch.setattr(client, "ray", FakeRay)
    monkeypatch.setattr(worker, "run_job", run_job)
    asked = FakeDispatcher()
    worker._do(FakeJob("a"), DispatcherClient(asked, "s"), World())
    assert asked.asked[0][:5] == ("ended", "s", 0, "a", how)


def test_a_stage_that_cannot_be_written_ends_the_run_and_fails_no_trial(monkeypatch) -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        await dispatcher.register("s")
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        await asyncio.sleep(0)
        await dispatcher.next_job("s", 1, 1.0)
        await dispatcher.ended("s", 1, "a", "abandon", "no space left")
        assert await trial is None
        assert (await dispatcher.snapshot()).abandoned == "no space left"
        assert await dispatcher.drained(1.0)

    def run_job(job, world, link):
        raise StorageError("no space left for the checkpoint")

    asyncio.run(scene())
    monkeypatch.setattr(client, "ray", FakeRay)
    monkeypatch.setattr(worker, "run_job", run_job)
    asked = FakeDispatcher()
    worker._do(FakeJob("a"), DispatcherClient(asked, "s"), World())
    assert asked.asked == [("ended", "s", 0, "a", "abandon", "no space left for the checkpoint")]


def test_a_node_that_does_not_see_the_run_folder_says_what_would_work(tmp_path) -> None:
    assert "s3://" in worker.why_unseen(Folder(str(tmp_path)), seconds=0.0)
    Folder(str(tmp_path)).write_bytes("sweep.yaml", b"name: x\n")
    assert worker.why_unseen(Folder(str(tmp_path)), seconds=0.0) is None
    assert worker.why_unseen(Folder("s3://bucket/x"), seconds=0.0) is None
