"""What a sweep found: `report/index.html`, `report/report.md` and a summary for the terminal, from its records alone.

A report can be made at any time: of a run that has just begun, of one that is going on, of one whose trials failed.
What is not there yet is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from raycodellm import storage_files
from raycodellm.config import Sweep, SweepFile
from raycodellm.files import Folder
from raycodellm.records import StageRecord
from raycodellm.report import text
from raycodellm.report.ranking import ArmScore, Savings, ranking, savings

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Records", "ranking", "read_records", "savings", "summary_text", "write_report"]


@dataclass(frozen=True)
class Records:
    """All that a run has written so far."""

    run: Folder
    storage: Folder
    file: SweepFile
    rows: list[dict[str, Any]]
    """Of `trials.parquet`; empty when there is none yet."""
    items: dict[int, pa.Table]
    """Trial number to its evaluated items."""
    stages: dict[str, StageRecord]
    """Key to record, of the finished stages."""
    timing: dict[str, float]
    """Seconds by part of the run."""
    lost: dict[str, None] = field(default_factory=dict)
    """Files that could not be read until now, a line each."""

    @cached_property
    def sweep(self) -> Sweep:
        return self.file.example()

    @cached_property
    def scores(self) -> list[ArmScore]:
        return ranking(self.rows, self.sweep.search.objectives, self.items)

    @cached_property
    def savings(self) -> Savings:
        return savings(self.rows, self.stages)

    @cached_property
    def states(self) -> Counter[str]:
        return Counter(row["state"] for row in self.rows)

    def stage_keys(self, trial: int) -> list[str]:
        """Keys of the trial's finished stages, in order."""
        return [key for row in self.rows if row["number"] == trial for key in _keys(row) if key in self.stages]

    def curves(self, key: str) -> dict[str, list]:
        """Columns of the stage's `metrics.parquet`; none when it left no such file."""
        folder = self.storage / "stages" / key
        return storage_files.attempt(lambda: storage_files.read_curves(folder), self.say, {})

    @cached_property
    def skipped(self) -> dict[str, dict[str, int]]:
        """Per source, how many documents were left out and why."""
        counts = {name: manifest["skipped"] for name, manifest in self.stores.items()}
        return {name: {reason: n for reason, n in found.items() if n} for name, found in counts.items()}

    @cached_property
    def stores(self) -> dict[str, dict[str, Any]]:
        """Per source, the manifest of the token store that the finished stages drew from."""
        stores: dict[str, str] = {}
        for key in self.stages:
            folder = self.storage / "stages" / key
            stores.update(storage_files.attempt(lambda folder=folder: storage_files.read_sources(folder), self.say, {}))
        found = {}
        for name, store in stores.items():
            folder = self.storage / "tokens" / store
            manifest = storage_files.attempt(lambda folder=folder: storage_files.read_manifest(folder), self.say)
            if manifest is not None:
                found[name] = manifest
        return found

    def say(self, line: str) -> None:
        """Keeps a line about a file that could not be read."""
        self.lost.setdefault(line)


def _keys(row: Mapping[str, Any]) -> list[str]:
    stages = row.get("stages")
    return list(stages) if isinstance(stages, (list, tuple)) else []


def read_records(run: Folder, storage: Folder) -> Records:
    """Raises `UserError` when `run` is not a run's folder; anything else may be missing, or damaged, which is said."""
    lost: dict[str, None] = {}
    file = storage_files.read_sweep_file(run, lost.setdefault)
    rows = storage_files.attempt(lambda: storage_files.read_trials_table(run), lost.setdefault, [])
    complete = {row["number"]: row for row in rows if row["state"] == "complete"}
    keys = dict.fromkeys(key for row in rows for key in _keys(row))

    def items_of(number: int) -> pa.Table | None:
        row, own = complete[number], run / "trials" / f"{number:04d}"
        copied_from = None
        if row.get("evaluation") and _keys(row):
            copied_from = storage / "stages" / _keys(row)[-1] / row["evaluation"]
        return storage_files.attempt(lambda: storage_files.read_items(own, copied_from), lost.setdefault)

    def stage_of(key: str) -> StageRecord | None:
        folder = storage / "stages" / key
        if not folder.exists(storage_files.DONE):
            return None
        return storage_files.attempt(lambda: storage_files.read_stage(folder), lost.setdefault)

    return Records(
        run=run,
        storage=storage,
        file=file,
        rows=rows,
        items=_in_parallel(items_of, complete),
        stages=_in_parallel(stage_of, keys),
        timing=storage_files.attempt(lambda: storage_files.read_timing(run), lost.setdefault, {}),
        lost=lost,
    )


def _in_parallel(read: Callable[[Any], Any], names: Iterable[Any]) -> dict[Any, Any]:
    """What `read` finds for each name, without the None; on an object store each read waits for the network."""
    names = list(names)
    with ThreadPoolExecutor(16) as pool:
        return {name: found for name, found in zip(names, pool.map(read, names), strict=True) if found is not None}


def write_report(run: Folder, storage: Folder, say: Callable[[str], Any] = lambda line: None) -> Folder:
    """Writes `index.html` (opens without a network) and `report.md` into the run's `report` folder; returns that.

    `say` hears, as the report's readers do, of every file that could not be read.
    """
    from raycodellm.report import page

    records = read_records(run, storage)
    sections = page.sections(records)
    folder = run / "report"
    folder.write_bytes("index.html", page.html(records, sections).encode())
    folder.write_bytes("report.md", page.markdown(records, sections).encode())
    for line in records.lost:
        say(line)
    return folder


# ------------------------------------------------------------------------------------------------- the summary


def summary_text(run: Folder, storage: Folder) -> str:
    """What `run` says at its end: ranking, best parameters, how sure that is, tokens and seconds, the report's path."""
    records = read_records(run, storage)
    header, *lines = _ranking_rows(records)
    widths = [max(len(row[place]) for row in (header, *lines)) for place in range(len(header))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *lines)]
    return "\n".join([*table, "", *_closing_lines(records)] if lines else _closing_lines(records))


def _ranking_rows(records: Records) -> list[tuple[str, ...]]:
    objective = records.sweep.search.objectives[0].metric
    shown = [score for score in records.scores if score.score is not None][:10]
    names = list(dict.fromkeys(name for score in shown for name in score.params))
    intervals, differences = text.interval_name(records.scores), text.difference_name(records.scores)
    header = ("arm", *names, objective, intervals, differences, "accuracy", "chance", "seeds")
    return [
        header,
        *(
            (
                str(score.arm),
                *(text.value(score.params.get(name)) for name in names),
                text.score(score.score),
                text.interval(score.low, score.high),
                text.difference(score),
                text.score(score.accuracy),
                text.score(score.chance),
                str(len(score.seeds)),
            )
            for score in shown
        ),
    ]


def _closing_lines(records: Records) -> list[str]:
    spent = records.savings
    answer = text.answer(records.scores, records.sweep.search.objectives)
    lines = [answer, text.unknown_noise(records.scores), text.progress(records)]
    if spent.tokens_trained:
        lines.append(
            f"tokens: {text.count(spent.tokens_trained)} trained for {text.count(spent.tokens_asked)} asked for, "
            f"{text.count(spent.tokens_saved)} saved by shared stages; device time: "
            f"{text.seconds(spent.seconds_trained)} spent, {text.seconds(spent.seconds_saved)} saved"
        )
    lines += records.lost
    if records.run.exists("report"):
        where = records.run / "report"
        lines.append(f"report: {where.uri}/index.html")
    return [line for line in lines if line]
