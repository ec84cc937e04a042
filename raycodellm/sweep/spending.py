"""The driver's account of what its sweep has spent, over this run and all runs before it.

Tokens are counted by stages, from the trials that have begun and from the stages' records, so that every driver finds
the same number, whatever was killed before. Device seconds and wall seconds are measured while a driver runs and kept
in `spent.json`; a driver that is killed loses those since it last wrote the file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from raycodellm import budget, retrying, storage_files
from raycodellm.dispatch import SlotActivity, Snapshot
from raycodellm.files import Folder
from raycodellm.finished import finished_stage
from raycodellm.records import ENDED, StageRecord, TrialResult, as_json
from raycodellm.stage_store import Chain
from raycodellm.storage_files import Spent
from raycodellm.sweep.folder import Run
from raycodellm.tables import stage_use

logger = logging.getLogger(__name__)

SPENT = "spent.json"
WRITE_SECONDS, REMOTE_WRITE_SECONDS = 5.0, 60.0
"""Between two writings of the file on a local disk, and on an object store."""
_READERS = 16


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a trial's chain."""

    key: str
    folder: str
    num_tokens: int
    """Tokens that the stage trains when nothing fails."""


def unfinished_tokens(
    stages: Sequence[PlannedStage], records: Mapping[str, StageRecord], result: TrialResult | None
) -> dict[str, int]:
    """Tokens that a trial spends on its unfinished stages, by their keys. `records`: of its finished ones.

    Those of a trial that goes on count whole. Of a trial that has ended the first counts, in which it failed or was
    stopped early: with what the `result` tells of it, else whole where it failed; those after it have not begun.
    """
    unfinished = [one for one in stages if one.key not in records]
    if result is None or result.state not in ENDED:
        return {one.key: one.num_tokens for one in unfinished}
    finished = sum(records[one.key].num_tokens for one in stages if one.key in records)
    told = result.tokens.get("total", 0) - finished
    told -= min(told, result.trunk_tokens)  # these are counted where another stage trained them
    return {one.key: told if told > 0 or result.state == "pruned" else one.num_tokens for one in unfinished[:1]}


def total_tokens(unfinished: Iterable[Mapping[str, int]], records: Mapping[str, StageRecord], sweep: str) -> int:
    """Tokens that the sweep of this name spends, equal stages counted once. `unfinished`: of each trial; `records`: of
    all finished stages, of which those that another sweep trained count nothing."""
    most: dict[str, int] = {}
    for stages in unfinished:
        for key, tokens in stages.items():
            if key not in records:
                most[key] = max(tokens, most.get(key, 0))
    return sum(most.values()) + sum(stage_use(one, sweep).tokens_here for one in records.values())


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
        self._before = storage_files.attempt(lambda: storage_files.read_spent(run.folder), logger.warning, Spent())
        self._looked_at = self._written_at = clock()
        self._began = self._looked_at if began is None else began
        self._device_seconds = 0.0
        self._records: dict[str, StageRecord] = {}
        """Records of the finished stages, by their keys."""
        self._unfinished: dict[tuple[str, int], dict[str, int]] = {}
        """Tokens of each trial's unfinished stages; a trial is known by its parameters and its seed."""
        self._tokens = self._before.tokens
        self._count([(result.params, result.seed, result) for result in results])

    @property
    def spent(self) -> Spent:
        """All that the sweep has spent until now."""
        wall = self._before.wall_seconds + self._clock() - self._began
        return Spent(self._tokens, self._before.device_seconds + self._device_seconds, wall)

    @property
    def limits(self) -> tuple[budget.Limit, ...]:
        """The budget's limits, and how much of each is spent."""
        return budget.limits(self._run.sweep.budget, self.spent)

    def begin(self, params: Mapping[str, Any], seed: int) -> None:
        """A trial begins, or goes on: from now on all of its stages count."""
        self._count([(params, seed, None)])

    def end(self, result: TrialResult) -> None:
        """A trial has ended: its stages count with what was really trained."""
        self._count([(result.params, result.seed, result)])

    def look(self, snapshot: Snapshot) -> None:
        """Counts the devices that worker groups have held since the last look; to be called about once a second."""
        now = self._clock()
        held = sum(view.state != SlotActivity.STARTING for view in snapshot.slot_views)
        self._device_seconds += held * budget.devices_per_slot(self._run.sweep.scaling) * (now - self._looked_at)
        self._looked_at = now

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

    def _count(self, trials: Sequence[tuple[Mapping[str, Any], int, TrialResult | None]]) -> None:
        """`trials`: parameters, seed and, where it is known, the result of each."""
        if not self._limits_tokens:
            return
        chains = [_planned(self._chain(params, seed)) for params, seed, _ in trials]
        wanted = {one.key: one.folder for chain in chains for one in chain if one.key not in self._records}
        self._records |= _read_records(wanted)
        for chain, (params, seed, result) in zip(chains, trials, strict=True):
            self._unfinished[repr(sorted(params.items())), seed] = unfinished_tokens(chain, self._records, result)
        self._tokens = total_tokens(self._unfinished.values(), self._records, self._run.sweep.name)


def _planned(chain: Chain) -> list[PlannedStage]:
    return [PlannedStage(job.key, job.folder, job.stage.num_tokens) for job in chain.stages]


def _read_records(folders: Mapping[str, str]) -> dict[str, StageRecord]:
    """The records of the finished stages among these, by their keys."""
    with ThreadPoolExecutor(_READERS) as pool:
        reads = [partial(finished_stage, Folder(folder)) for folder in folders.values()]
        found = pool.map(lambda read: retrying.patiently(read, "the stage store"), reads)
        return {key: record for key, record in zip(folders, found, strict=True) if record is not None}
