"""How slots come up, and what is written down of when jobs went through them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from raycodellm.config import Scaling
from raycodellm.dispatch import Sight
from raycodellm.records import Progress
from raycodellm.slots.dispatcher import Dispatcher
from raycodellm.slots.pool import SlotPool


def chain(*names: str) -> Any:
    return SimpleNamespace(jobs=tuple(SimpleNamespace(key=name, kind="stage") for name in names))


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
    assert not made.is_short_of_slots(demand=3, alive=1)
    assert made.is_short_of_slots(demand=1, alive=0)  # the first has died
    made.begun = True
    assert made.is_short_of_slots(demand=0, alive=1)


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
    made.begun = True
    assert not made.is_short_of_slots(demand=0, alive=0)  # they ended, being idle
    assert made.is_short_of_slots(demand=4, alive=3)
    assert not made.is_short_of_slots(demand=9, alive=4)


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


def test_the_dispatchers_process_imports_no_torch() -> None:
    code = "import raycodellm.slots.dispatcher, sys; print('torch' in sys.modules)"
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
        sweep.run_sweep(None, 1, 1, None, None, connected=None, stopper=None, contents=None)  # type: ignore[arg-type]
