"""A cluster without Ray that stops trials early: the real dispatcher, with slots that train nothing."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from driver_without_ray import Cluster

from raycodellm import stage_store, storage_files, sweep
from raycodellm.dispatch import JobEnd
from raycodellm.files import Folder
from raycodellm.records import LedgerRow, StageRecord, as_json
from raycodellm.slots.dispatcher import Dispatcher


def value_of(key: str, step: int) -> float:
    """Bits per byte of a stage's held-out text: the same in every run, and lower the longer it has trained."""
    return 2.0 + int(hashlib.sha256(key.encode()).hexdigest()[:6], 16) / 2**24 + 1.0 / step


class EarlyStoppingCluster(Cluster):
    """Does the jobs of one trial after another, stages step by step."""

    def __init__(self, run: sweep.Run) -> None:
        super().__init__()
        self.run = run
        self.loop = asyncio.new_event_loop()
        self.num_measured: dict[tuple[str, int], int] = {}
        """How often each stage, by key, came to each of its rungs."""
        self.begin()

    def begin(self) -> None:
        """A new driver begins: it has a dispatcher of its own, and knows what the trials' folders hold."""
        self.end()
        self.loop = asyncio.new_event_loop()
        self.dispatcher = Dispatcher(max_deaths=0)
        early = self.run.sweep.search.early_stopping
        comparisons = sweep.earlier_comparisons(self.run, lambda line: None)
        self.loop.run_until_complete(self.dispatcher.begin_early_stopping(early.keep, *comparisons))

    def end(self) -> None:
        """Ends what a driver that was killed has left."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.close()

    def _run(self, number: int, chain: stage_store.Chain, finished: dict[str, Any], *contender: Any) -> Any:
        return self.loop.run_until_complete(self._run_jobs(number, chain, finished, *contender))

    async def _run_jobs(self, number: int, chain: stage_store.Chain, finished: dict[str, Any], *contender: Any) -> Any:
        self.chain = chain
        trial_task = asyncio.ensure_future(self.dispatcher.run_trial(number, chain, finished, *contender))
        incarnation = await self.dispatcher.register("slot")
        while not trial_task.done():
            kind, job = await self.dispatcher.next_job("slot", incarnation, 0.0)
            if kind == "job":
                outcome = await self._train(job, incarnation) if job.kind == "stage" else self._evaluate(chain)
                job_end = JobEnd.RELEASE if outcome is None else JobEnd.FINISH
                await self.dispatcher.ended("slot", incarnation, job.key, job_end, outcome)
            await asyncio.sleep(0)
        return trial_task.result()

    async def _train(self, job: Any, incarnation: int) -> StageRecord | None:
        folder = Folder(job.folder)
        for step in job.rungs:
            so_far = storage_files.attempt(lambda: storage_files.read_so_far(folder), lambda line: None, {})
            record = so_far.get(step) or self._record(job, step)
            folder.write_json(storage_files.SO_FAR, {str(s): as_json(r) for s, r in {**so_far, step: record}.items()})
            self.num_measured[job.key, step] = self.num_measured.get((job.key, step), 0) + 1
            if await self.dispatcher.rung("slot", incarnation, job.key, step, dict(record.held_out_bpb)):
                return None
        record = self._record(job, job.stage.num_steps)
        folder.write_json("stage.json", {"job": {"sources": []}, "record": as_json(record)})
        folder.write_json("DONE", {"record": as_json(record)})
        self.num_trained[job.key] += 1
        return record

    def _record(self, job: Any, step: int) -> StageRecord:
        tokens = step * job.stage.batch_tokens
        ledger = (LedgerRow("prose", "text", tokens, tokens, tokens, step, 0.5),)
        held_out_bpb = {"prose": value_of(job.key, step)}
        return StageRecord(
            job.identity,
            job.stage.name,
            step,
            tokens,
            5.5,
            2.0,
            2.0,
            "c0ffee",
            ledger=ledger,
            held_out_bpb=held_out_bpb,
        )

    def _evaluate(self, chain: stage_store.Chain) -> Any:
        finished = {job.key: StageRecord for job in chain.stages}
        return super()._run(0, chain, finished).outcomes[chain.evaluation.key]
