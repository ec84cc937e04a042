"""Reads what a run has written: its trials, its stages and their items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from raycodellm import budget, search, storage_files, verdict
from raycodellm.config import Sweep, SweepFile
from raycodellm.evaluation import Items, asked_averages, read_trial_items, scored_items
from raycodellm.files import Folder
from raycodellm.finished import read_finished_stage
from raycodellm.records import ENDED, StageRecord
from raycodellm.report.pairs import ModelPair, compared_models
from raycodellm.report.ranking import ArmScore, ranking
from raycodellm.run_times import RunTimes, read_run_times
from raycodellm.tables import Sharing, StageUse, sharing, stage_use
from raycodellm.tables.stopped import consumed_stages
from raycodellm.tables.trials import Row, stages_of
from raycodellm.win_rates import WinRates, read_win_rates

Name = TypeVar("Name", int, str)
Value = TypeVar("Value")
Curve = dict[str, np.ndarray]
"""Maps `tokens`, `loss`, `loss/<source>`, `bpb/<source>`, and the code ratio's `planned` and `real`, to values. NaN
stands for a value that is missing."""
_CURVES = {"code_ratio_scheduled": "planned", "code_ratio_window": "real"}
_SHOWN = ("tokens", "loss", "planned", "real")
_SHOWN_OF_SOURCES = ("loss/", "bpb/")


@dataclass(frozen=True)
class Records:
    """Everything that a run has written so far."""

    run: Folder
    storage: Folder
    file: SweepFile
    rows: list[Row]
    """Rows of `trials.parquet`; empty while the file does not exist."""
    items: dict[int, Items]
    """Maps the numbers of complete trials to their evaluated items."""
    stages: dict[str, StageRecord]
    """Maps the keys of finished stages to their records."""
    timing: dict[str, float]
    """Seconds by part of those runs that a version before `run_times` timed."""
    lost: dict[str, None] = field(default_factory=dict)
    """One line for each file that could not be read, in order."""
    read_curves: dict[str, Curve] = field(default_factory=dict)
    """The curves that were read until now."""
    spent: storage_files.Spent = field(default_factory=storage_files.Spent)
    """Tokens and times that the sweep had spent when its driver last wrote them."""
    runs: Sequence[RunTimes] = ()
    """The runs of the sweep, in the order in which they began."""

    @cached_property
    def sweep(self) -> Sweep:
        return self.file.example()

    @cached_property
    def findings(self) -> verdict.Findings:
        """The verdicts on the arms, and what these rest on."""
        return verdict.findings(self.file, self.rows, self.items)

    @cached_property
    def seed_spreads(self) -> verdict.SeedSpreads | None:
        """The noise between seeds; None where no arm has two."""
        looks = self.findings.looks if self.sweep.search.confirm is not None else None
        return verdict.seed_spreads(self.file, self.rows, looks)

    @cached_property
    def pairs(self) -> list[ModelPair]:
        """The pairs of given models, metric by metric; none of a sweep with stages."""

        def items_of(number: int) -> pa.Table | None:
            trial_folder = self.run / "trials" / f"{number:04d}"
            return storage_files.attempt(partial(read_trial_items, trial_folder, self.storage), self.say)

        return compared_models(self.file, self.rows, items_of)

    @cached_property
    def win_rates(self) -> WinRates | None:
        """The win rates of a sweep with a judge; None where there are none."""
        return read_win_rates(self.run, self.say) if self.sweep.evaluation.judge is not None else None

    @cached_property
    def scores(self) -> list[ArmScore]:
        """The ranking of the arms."""
        verdicts = self.findings.verdicts if self.has_reference else None
        looks = self.findings.looks if self.sweep.search.confirm is not None else None
        broken = verdict.broken_by(self.findings.breaches)
        return ranking(self.rows, self.sweep.search.objectives, self.items, verdicts, looks, broken)

    @cached_property
    def front(self) -> verdict.Front | None:
        """The Pareto front; None of a sweep with one objective."""
        if len(self.sweep.search.objectives) < 2:
            return None
        looks = self.findings.looks if self.sweep.search.confirm is not None else None
        return verdict.front(self.file, self.rows, self.items, looks)

    @property
    def has_reference(self) -> bool:
        """True if the arms are compared with a reference arm; else with the arm that is first in rank."""
        return self.sweep.search.reference is not None

    @property
    def best(self) -> ArmScore | None:
        """The arm that is first in rank; None while no arm has a score."""
        return next((arm_score for arm_score in self.scores if arm_score.score is not None), None)

    @cached_property
    def stage_uses(self) -> dict[str, StageUse]:
        """The finished stages, by key, as this sweep used them."""
        return {key: stage_use(record, self.sweep.name) for key, record in self.stages.items()}

    @cached_property
    def consumed(self) -> list[tuple[list[str], dict[str, StageUse]]]:
        """The stages that each trial consumed, in the order of the rows; see `consumed_stages`."""
        return [consumed_stages(row, stages_of(row), self.stage_uses) for row in self.rows]

    @cached_property
    def stopped_parts(self) -> dict[str, tuple[int, str]]:
        """Maps each stage that is not finished to the tokens until where it was stopped early or failed, and to the
        state of the trial that came farthest."""
        farthest: dict[str, tuple[int, str]] = {}
        for row, (_, part) in zip(self.rows, self.consumed, strict=True):
            for key, use in part.items():
                farthest[key] = max(farthest.get(key, (0, "")), (use.tokens, row["state"]))
        return farthest

    @cached_property
    def sharing(self) -> Sharing:
        """Tokens and device-seconds of the finished stages, and of the consumed parts of stages that were stopped early
        or failed."""
        uses = dict(self.stage_uses)
        for _, part in self.consumed:
            for key, use in part.items():
                uses[key] = max(uses.get(key, use), use, key=lambda use: use.tokens)
        return sharing([keys for keys, _ in self.consumed], uses)

    @cached_property
    def num_trials(self) -> int:
        """Trials of the whole sweep as far as is known, those that have not begun included."""
        looks = self.findings.looks
        pending = [(trial.arm, trial.place) for trial in looks.pending]
        return search.known_trials(self.file, self.rows, pending, looks.phase == "search")

    @property
    def num_open(self) -> int:
        """Trials that have not ended."""
        return self.num_trials - self.num_ended

    @property
    def num_ended(self) -> int:
        return sum(self.states[state] for state in ENDED)

    @property
    def num_unbegun(self) -> int:
        """Trials that have not begun, as far as is known."""
        return self.num_trials - len(self.rows)

    @property
    def limits(self) -> tuple[budget.Limit, ...]:
        """The limits of the sweep's budget, and how much of each is spent."""
        return budget.limits(self.sweep.budget, self.spent)

    @cached_property
    def states(self) -> Counter[str]:
        """Number of trials in each state."""
        return Counter(row["state"] for row in self.rows)

    def stage_keys(self, trial: int) -> list[str]:
        """Keys of the trial's finished stages, in order."""
        return [key for key in self._chains.get(trial, ()) if key in self.stages]

    @cached_property
    def _chains(self) -> dict[int, list[str]]:
        return {row["number"]: stages_of(row) for row in self.rows}

    @cached_property
    def all_curves(self) -> dict[str, Curve]:
        """Maps each finished stage's key to its curves; without points where its `metrics.parquet` is missing."""

        def curves_of(key: str) -> Curve:
            read = partial(storage_files.read_curves, self._stage(key))
            columns = storage_files.attempt(read, self.say) or {}
            curves = {_CURVES.get(name, name): values for name, values in columns.items()}
            page_curves = {
                name: values for name, values in curves.items() if name in _SHOWN or name.startswith(_SHOWN_OF_SOURCES)
            }
            return {name: np.array(values, dtype=float) for name, values in page_curves.items()}

        missing = [key for key in self.stages if key not in self.read_curves]
        self.read_curves.update(_read_each(curves_of, missing, self.run))
        return {key: self.read_curves[key] for key in self.stages}

    @cached_property
    def skipped(self) -> dict[str, dict[str, int]]:
        """Maps each source to the number of documents left out, by reason."""
        counts = {name: manifest["skipped"] for name, manifest in self.stores.items()}
        return {name: {reason: n for reason, n in reasons.items() if n} for name, reasons in counts.items()}

    @cached_property
    def stores(self) -> dict[str, dict[str, Any]]:
        """Maps each source of the finished stages to the manifest of its token store."""
        names: dict[str, str] = {}
        for key, record in self.stages.items():  # a source has one store in all stages: few of them need be read
            if not record.ledger or any(row.source not in names for row in record.ledger):
                names |= storage_files.attempt(partial(storage_files.read_sources, self._stage(key)), self.say) or {}
        manifests = {}
        for source, store in names.items():
            folder = self.storage / "tokens" / store
            manifest = storage_files.attempt(partial(storage_files.read_manifest, folder), self.say)
            if manifest is not None:
                manifests[source] = manifest
        return manifests

    def say(self, line: str) -> None:
        """Keeps the line about a file that could not be read."""
        self.lost.setdefault(line)

    def _stage(self, key: str) -> Folder:
        return self.storage / "stages" / key


def read_records(
    run: Folder, storage: Folder, rows: Sequence[Row] | None = None, before: Records | None = None
) -> Records:
    """Reads the records of a run; leaves out missing and damaged files, and keeps a line about each damaged one.

    `rows`: the trials, if they are known; else they are read from `trials.parquet`. `before`: an earlier reading of the
    same run. What has ended does not change, so only what that reading lacks is read.

    Raises `UserError` when `run` is not a run's folder.
    """
    lost: dict[str, None] = {}
    file = storage_files.read_sweep_file(run, lost.setdefault) if before is None else before.file
    if rows is None:
        rows = storage_files.attempt(partial(storage_files.read_trials_table, run), lost.setdefault) or []
    averages = asked_averages(file.example().evaluation)
    complete = {row["number"]: row for row in rows if row["state"] == "complete"}
    keys = dict.fromkeys(key for row in rows for key in stages_of(row))

    def items_of(number: int) -> Items | None:
        trial_folder = run / "trials" / f"{number:04d}"
        return storage_files.attempt(lambda: scored_items(trial_folder, storage, averages), lost.setdefault)

    def stage_of(key: str) -> StageRecord | None:
        folder = storage / "stages" / key
        return storage_files.attempt(lambda: read_finished_stage(folder), lost.setdefault)

    return Records(
        run=run,
        storage=storage,
        file=file,
        rows=list(rows),
        items=_with_missing(items_of, complete, before.items if before else {}, run),
        stages=_with_missing(stage_of, keys, before.stages if before else {}, run),
        timing=storage_files.attempt(partial(storage_files.read_timing, run), lost.setdefault) or {},
        lost=lost,
        read_curves=before.read_curves if before else {},
        spent=storage_files.attempt(partial(storage_files.read_spent, run), lost.setdefault, storage_files.Spent()),
        runs=storage_files.attempt(partial(read_run_times, run), lost.setdefault, ()),
    )


def _with_missing(
    read: Callable[[Name], Value | None], names: Iterable[Name], known: Mapping[Name, Value], run: Folder
) -> dict[Name, Value]:
    """Maps each name to its known value, or else to what `read` returns, without None; in the order of the names."""
    names = list(names)
    values = {**known, **_read_each(read, [name for name in names if name not in known], run)}
    return {name: values[name] for name in names if name in values}


def _read_each(read: Callable[[Name], Value | None], names: Sequence[Name], run: Folder) -> dict[Name, Value]:
    """Maps each name to what `read` returns, without None. On an object store each read waits for the network, so many
    are made at once; on a disk threads only delay each other."""
    if run.local is not None:
        return {name: value for name in names if (value := read(name)) is not None}
    with ThreadPoolExecutor(16) as pool:
        return {name: value for name, value in zip(names, pool.map(read, names), strict=True) if value is not None}
