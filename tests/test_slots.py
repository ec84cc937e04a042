"""The dispatcher's actor, run as a plain object: who waits, who is told to stop, and what a dead slot leaves behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

from raycodellm.records import Progress
from raycodellm.slots import Dispatcher


@dataclass(frozen=True)
class FakeJob:
    key: str


def chain(*names: str) -> SimpleNamespace:
    return SimpleNamespace(jobs=tuple(FakeJob(name) for name in names))


def test_a_trial_waits_for_its_jobs_and_gets_their_outcomes() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a", "e"), {}))
        for key in ("a", "e"):
            answer, job = await dispatcher.next_job("s", 5.0)
            assert (answer, job.key) == ("job", key)
            await dispatcher.ended("s", key, "finish", key.upper())
        assert (await trial).outcomes == {"a": "A", "e": "E"}
        snapshot = await dispatcher.snapshot()
        assert snapshot.jobs_done == 2
        assert not snapshot.running

    asyncio.run(scene())


def test_a_waiting_slot_hears_of_new_work_at_once() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        waiting = asyncio.create_task(dispatcher.next_job("s", 30.0))
        await asyncio.sleep(0)
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        answer, job = await asyncio.wait_for(waiting, 1.0)
        assert (answer, job.key) == ("job", "a")
        await dispatcher.ended("s", "a", "finish", 1)
        await trial

    asyncio.run(scene())


def test_a_restarted_slot_gives_back_what_it_held() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        await dispatcher.register("s")
        assert (await dispatcher.next_job("s", 1.0))[1].key == "a"
        await dispatcher.register("s")
        assert any("died" in note for note in (await dispatcher.snapshot()).notes)
        assert (await dispatcher.next_job("s", 1.0))[1].key == "a"
        await dispatcher.slot_gone("s", "killed twice")
        assert "killed twice" in (await trial).error

    asyncio.run(scene())


def test_a_stop_reaches_trials_and_slots() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        trial = asyncio.create_task(dispatcher.run_trial(0, chain("a"), {}))
        await dispatcher.next_job("s", 1.0)
        assert not await dispatcher.report("s", Progress("a", step=1))
        await dispatcher.stop()
        assert await dispatcher.report("s", Progress("a", step=2))
        assert await trial is None
        assert not await dispatcher.drained(0.01)
        await dispatcher.ended("s", "a", "release", None)
        assert await dispatcher.drained(1.0)
        await dispatcher.close()
        assert await dispatcher.next_job("s", 1.0) == ("quit", None)

    asyncio.run(scene())


def test_an_idle_slot_ends_only_when_nothing_is_being_prepared(monkeypatch) -> None:
    monkeypatch.setattr("raycodellm.slots.IDLE_SECONDS", 0.0)

    async def scene() -> None:
        dispatcher = Dispatcher(max_deaths=1)
        await dispatcher.register("s")
        assert await dispatcher.next_job("s", 0.01) == ("wait", None)
        await dispatcher.set_keep_idle(False)
        assert await dispatcher.next_job("s", 0.01) == ("quit", None)

    asyncio.run(scene())
