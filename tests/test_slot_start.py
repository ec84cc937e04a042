"""How slots come up, and what is written down of when jobs went through them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycodellm.config import Scaling
from raycodellm.dispatch import Sight
from raycodellm.files import Folder
from raycodellm.records import Progress
from raycodellm.slots import pool
from raycodellm.slots.dispatcher import Dispatcher
from raycodellm.slots.pool import SlotPool
from raycodellm.slots.trainer import slot_trainer


def chain(*names: str) -> Any:
    stage = SimpleNamespace(name="pretrain", num_tokens=1)
    return SimpleNamespace(jobs=tuple(SimpleNamespace(key=name, kind="stage", stage=stage) for name in names))


class NoSupervisor:
    def start(self) -> None: ...


def started(num_slots: int, at_once: int | None, max_slots: int = 4) -> SlotPool:
    """A pool that only notes the slots it starts."""

    class Noting(SlotPool):
        def _start_slot(self) -> None:
            self.threads[f"slot-{len(self.threads)}"] = NoSupervisor()  # type: ignore[assignment]

    made = Noting(None, Scaling(), max_slots, None, lambda: Sight(1))  # type: ignore[arg-type]
    made.supervisor = NoSupervisor()  # type: ignore[assignment]
    made.start(num_slots, at_once)
    return made


@pytest.mark.parametrize(("at_once", "first"), [(None, 3), (1, 1), (2, 2), (8, 3)])
def test_slots_come_up_together_or_a_few_at_first(at_once: int | None, first: int) -> None:
    assert len(started(3, at_once).threads) == first


def test_the_others_follow_when_one_has_begun_even_before_there_is_work() -> None:
    made = started(3, at_once=1)
    assert not made.is_short_of_slots(num_jobs=3, num_alive=1)
    assert made.is_short_of_slots(num_jobs=1, num_alive=0)  # the first has died
    made.has_begun = True
    assert made.is_short_of_slots(num_jobs=0, num_alive=1)


def test_a_slot_has_begun_when_it_waits_for_work_or_has_trained_a_step() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        assert not (await dispatcher.demand()).has_begun
        await dispatcher.register("s")
        assert (await dispatcher.demand()).has_begun
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        await dispatcher.next_job("s", 1, 5.0)
        assert not (await dispatcher.demand()).has_begun
        await dispatcher.report("s", 1, Progress("a", step=1, num_steps=3))
        assert (await dispatcher.demand()).has_begun
        trial.cancel()

    asyncio.run(scene())


def test_no_slot_is_started_twice_for_want_of_work_or_over_the_limit() -> None:
    made = started(3, at_once=None)
    made.has_begun = True
    assert not made.is_short_of_slots(num_jobs=0, num_alive=0)  # they ended, being idle
    assert made.is_short_of_slots(num_jobs=4, num_alive=3)
    assert not made.is_short_of_slots(num_jobs=9, num_alive=4)


def test_a_jobs_times_are_kept_from_being_asked_for_to_its_end() -> None:
    async def scene() -> dict[str, Any]:
        dispatcher = Dispatcher(max_deaths=1)
        await dispatcher.register("s")
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        await dispatcher.next_job("s", 1, 5.0)
        for step in (0, 1, 2, 3):
            await dispatcher.report("s", 1, Progress("a", step=step, num_steps=3))
        await dispatcher.ended("s", 1, "a", "finish", "done")
        await trial
        return await dispatcher.times()

    times = asyncio.run(scene())["a"]
    assert list(times) == ["asked", "taken", "first_step", "last_step", "ended"]
    assert list(times.values()) == sorted(times.values())


@pytest.mark.slow
@pytest.mark.parametrize("module", ["dispatcher", "controller"])
def test_the_processes_of_dispatcher_and_controllers_import_none_of_our_training(module: str) -> None:
    code = f"import raycodellm.slots.{module}, sys; print(bool({{'torch', 'raycodellm.engine'}} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


def test_one_thread_imports_ray_train_and_ray_tune_before_slots_and_trials_begin(monkeypatch) -> None:
    from raycodellm import sweep
    from raycodellm.sweep import background_imports

    background_imports.wait()
    assert not background_imports.start().is_alive()
    assert {"ray.tune", "ray.train.torch", "raycodellm.slots.pool"} <= set(sys.modules)

    class Waited(Exception):
        pass

    def wait() -> None:
        raise Waited

    monkeypatch.setattr(background_imports, "wait", wait)
    with pytest.raises(Waited):  # the first thing that a sweep does
        monitor = SimpleNamespace(waits_for=lambda subject: None)
        sweep.run_sweep(None, 1, 1, monitor, None, connected=None, stopper=None, contents=None)  # type: ignore[arg-type]


def test_a_slots_run_has_its_name_and_starts_no_actor_that_outlives_it(tmp_path: Path) -> None:
    made = slot_trainer("slot 2", None, Scaling(), Folder(str(tmp_path / "quickstart")))  # type: ignore[arg-type]
    assert made.label == "quickstart slot 2"
    remote = Folder("s3://bucket/quickstart?endpoint_override=http://localhost:9000&region=us-east-1")
    assert slot_trainer("slot 2", None, Scaling(), remote).label == "quickstart slot 2"  # type: ignore[arg-type]
    callbacks = {type(one).__name__ for one in made._create_default_callbacks()}
    assert not callbacks & {"PlacementGroupCleanerCallback", "DatasetsCallback"} and "BackendSetupCallback" in callbacks
    again = slot_trainer("slot 2", None, Scaling(), Folder(str(tmp_path / "quickstart")))  # type: ignore[arg-type]
    assert made.run_config.name != again.run_config.name  # Ray Train would continue the other


class FakeTrainer:
    """Notes whether it was killed."""

    def __init__(self) -> None:
        self.killed = threading.Event()

    def kill(self) -> None:
        self.killed.set()


def test_the_end_of_a_sweep_ends_slots_that_have_no_workers_at_once_and_others_when_they_were_told(monkeypatch) -> None:
    monkeypatch.setattr(pool.ray, "get", lambda answer, timeout=None: ["slot 1"])
    told = threading.Event()

    def tell() -> None:
        told.set()
        made.threads["slot 2"].join()  # one that hears soon enough

    close = SimpleNamespace(remote=tell)
    made = SlotPool(SimpleNamespace(close=close), Scaling(), 3, None, lambda: Sight(1))  # type: ignore[arg-type]
    made.supervisor = threading.Thread(target=lambda: None)
    made.supervisor.start()
    waits, works, hangs = FakeTrainer(), FakeTrainer(), FakeTrainer()
    for name, trainer, ends in (
        ("slot 1", waits, waits.killed),
        ("slot 2", works, told),
        ("slot 3", hangs, hangs.killed),
    ):
        made.trainers[name] = trainer  # type: ignore[assignment]
        made.threads[name] = threading.Thread(target=ends.wait)
        made.threads[name].start()
    made.close(wait_seconds=0.2)
    assert waits.killed.is_set() and not works.killed.is_set() and hangs.killed.is_set()
    for thread in made.threads.values():
        thread.join(120)
    assert not any(thread.is_alive() for thread in made.threads.values())
