"""The driver's account of what its sweep has spent, over this run and all runs before it.

Tokens are counted by stages, from the trials that have begun and from the stages' records, so that every driver finds
the same number, whatever was killed before. Device seconds and wall seconds are measured while a driver runs and kept
in `spent.json`; a driver that is killed loses those since it last wrote the file.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from raycodellm import budget, retrying, storage_files
from raycodellm.dispatch import SlotActivity, Snapshot
from raycodellm.files import Damaged, Folder
from raycodellm.finished import finished_stage
from raycodellm.records import ENDED, TrialResult, as_json
from raycodellm.stage_store import Chain
from raycodellm.storage_files import Spent
from raycodellm.sweep.folder import Run
from raycodellm.sweep.token_count import PlannedStage, TokenCount, unfinished_tokens
from raycodellm.tables import SharingSoFar, StageUse, stage_use
from raycodellm.tables.stopped import consumed_stages, tokens_not_trained

logger = logging.getLogger(__name__)

SPENT = "spent.json"
WRITE_SECONDS, REMOTE_WRITE_SECONDS = 5.0, 60.0
"""Between two writings of the file on a local disk, and on an object store."""
_READERS = 16
COUNTING = "counts tokens"
"""Name of the thread that reads what trials of earlier drivers consumed."""

TrialKey = tuple[str, int]
"""A trial's parameters, as a text, and its seed."""


class Account:
    """The spending of the sweep. Two threads use it: Ray Tune's begins and ends trials, the main one looks."""

    def __init__(
        self,
        run: Run,
        chain: Callable[[Mapping[str, Any], int], Chain],
        results: Iterable[TrialResult] = (),
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        """`chain`: of a trial with these parameters and this seed; asked only where the budget limits tokens.
        `results`: the trials that have begun, under an earlier driver too. `began`: when this run began, by `clock`;
        now, if left out."""
        self._run, self._chain, self._clock = run, chain, clock
        self._limits_tokens = run.sweep.budget.tokens is not None
        self._spent_before = storage_files.attempt(
            lambda: storage_files.read_spent(run.folder), logger.warning, Spent()
        )
        self._looked_at = self._written_at = clock()
        self._began = self._looked_at if began is None else began
        self._device_seconds, self._num_held = 0.0, 0
        self._count = TokenCount()
        self._planned: dict[TrialKey, list[PlannedStage]] = {}
        """The stages of the trials that run."""
        self._sharing, self._lock = SharingSoFar(), threading.RLock()
        self.tokens_stopped = 0
        """Tokens that trials which were stopped early ask for no more, each stage counted once per trial."""
        self._stopped: dict[int, int] = {}
        """Maps each ended trial to its part of `tokens_stopped`."""
        earlier = list(results)
        if self._limits_tokens:
            self._count_earlier(earlier)
        else:  # only a gauge waits for these trials
            threading.Thread(target=self._count_earlier, args=(earlier,), name=COUNTING, daemon=True).start()

    @property
    def spent(self) -> Spent:
        """All that the sweep has spent until now."""
        now = self._clock()
        wall = self._spent_before.wall_seconds + now - self._began
        devices = self._spent_before.device_seconds + self._device_seconds + self._since_look(now)
        tokens = self._count.total if self._limits_tokens else self._spent_before.tokens
        return Spent(tokens, devices, wall)

    @property
    def limits(self) -> tuple[budget.Limit, ...]:
        """The budget's limits, and how much of each is spent."""
        return budget.limits(self._run.sweep.budget, self.spent)

    @property
    def tokens_saved(self) -> int:
        """Tokens that the trials which have ended would have trained in addition, if none shared a stage or a trunk."""
        with self._lock:
            return self._sharing.tokens_saved

    def begin(self, params: Mapping[str, Any], seed: int) -> None:
        """A trial begins, or goes on: from now on all of its stages count."""
        if not self._limits_tokens:
            return
        trial_key = _trial_key(params, seed)
        planned = self._planned[trial_key] = [
            PlannedStage(job.key, job.folder, job.stage.num_tokens) for job in self._chain(params, seed).stages
        ]
        self._read_finished({stage.key: stage.folder for stage in planned})
        self._count.put(trial_key, unfinished_tokens(planned, self._count.finished, None))

    def end(self, result: TrialResult, uses: Mapping[str, StageUse]) -> None:
        """A trial has ended: its stages count with what was really trained. `uses`: of its finished stages, by key, as
        far as they are known."""
        self._finish(uses)
        if self._limits_tokens:
            self._read_finished(self._folders([result]))
        self._end(result)

    def _end(self, result: TrialResult) -> None:
        is_whole = result.state == "complete"
        row = {"state": "complete"} if is_whole else result.row(())  # a row takes longer than all else here
        with self._lock:
            finished = self._count.finished
            keys, partial_use = consumed_stages(row, result.stages, finished)
            self._sharing.put(
                result.number, keys, {**{key: finished[key] for key in keys if key in finished}, **partial_use}
            )
            num_not_trained = tokens_not_trained(row)
            self.tokens_stopped += num_not_trained - self._stopped.get(result.number, 0)
            self._stopped[result.number] = num_not_trained
            if self._limits_tokens:
                trial_key = _trial_key(result.params, result.seed)
                planned = self._planned.pop(trial_key, None) or self._planned_of(result)
                self._count.put(trial_key, unfinished_tokens(planned, finished, result))

    def _finish(self, uses: Mapping[str, StageUse]) -> None:
        with self._lock:
            for key, use in uses.items():
                if key not in self._count.finished:
                    self._count.finish(key, use)

    def _planned_of(self, result: TrialResult) -> list[PlannedStage]:
        """The stages of a trial that ended under an earlier driver. All stages of a complete trial are finished. Empty
        for a trial whose record is lost: it has the arm -1, and parameters and seed that it never had."""
        if result.arm < 0:
            return []
        if result.state == "complete" and result.stages:
            return [PlannedStage(key, folder, 0) for key, folder in self._folders([result]).items()]
        chain = self._chain(result.params, result.seed)
        return [PlannedStage(job.key, job.folder, job.stage.num_tokens) for job in chain.stages]

    def look(self, snapshot: Snapshot) -> None:
        """Counts the devices of the worker groups that the snapshot shows, from now until the next look; to be called
        about once a second. Devices of the last look count until the end, while stages save their checkpoints."""
        now = self._clock()
        self._device_seconds += self._since_look(now)
        self._looked_at = now
        self._num_held = sum(view.state != SlotActivity.STARTING for view in snapshot.slot_views)

    def _since_look(self, now: float) -> float:
        """Device-seconds from the last look until now."""
        num_devices = self._num_held * budget.devices_per_slot(self._run.sweep.scaling)
        return num_devices * (now - self._looked_at)

    def write_if_due(self) -> None:
        """Writes `spent.json` when it is old enough."""
        seconds = WRITE_SECONDS if self._run.folder.local is not None else REMOTE_WRITE_SECONDS
        if self._clock() - self._written_at >= seconds:
            self.write()

    def write(self) -> None:
        """Writes `spent.json`, unless another driver has the run folder."""
        if self._run.hold is not None and self._run.hold.usurper is not None:
            return
        self._written_at = self._clock()  # also after an error, so that the next try waits
        self._run.folder.write_json(SPENT, as_json(self.spent))

    def _count_earlier(self, results: Sequence[TrialResult]) -> None:
        """Counts the trials that have begun under an earlier driver."""
        ended = [result for result in results if result.state in ENDED]
        try:
            self._read_finished(self._folders(ended))
        except (OSError, Damaged):
            if self._limits_tokens:
                raise
            logger.warning("the gauge of saved tokens leaves out earlier trials", exc_info=True)
        for result in ended:
            self._end(result)
        if self._limits_tokens:
            for result in results:
                if result.state not in ENDED and result.arm >= 0:  # else it counts when it goes on
                    self.begin(result.params, result.seed)

    def _folders(self, results: Iterable[TrialResult]) -> dict[str, str]:
        stages = self._run.storage / "stages"
        return {key: (stages / key).uri for result in results for key in result.stages}

    def _read_finished(self, folders: Mapping[str, str]) -> None:
        """Reads the records of the finished stages in these folders, but of stages whose use is counted already."""
        unread = {key: folder for key, folder in folders.items() if key not in self._count.finished}
        if not unread:
            return
        reads = [partial(finished_stage, Folder(folder)) for folder in unread.values()]
        with ThreadPoolExecutor(_READERS) as pool:
            records = list(pool.map(lambda read: retrying.patiently(read, "the stage store"), reads))
        finished = {key: record for key, record in zip(unread, records, strict=True) if record is not None}
        self._finish({key: stage_use(record, self._run.sweep.name) for key, record in finished.items()})


def _trial_key(params: Mapping[str, Any], seed: int) -> TrialKey:
    return repr(sorted(params.items())), seed
