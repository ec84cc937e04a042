"""Makes a finished run of `sweeps/study.yaml` whose effects and noise between seeds are known: nothing is trained."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

from raycodellm import config, search, verdict
from raycodellm.config import SweepFile
from raycodellm.evaluation import Items, asked_averages
from raycodellm.evaluation.scores.items_table import items_table
from raycodellm.files import Folder
from raycodellm.records import CONFIRM_SEEDS, LedgerRow, StageRecord, TrialResult, as_json, job_key, summed_ledger
from raycodellm.search.space import is_relevant, sampling_order
from raycodellm.stage.folder import StageFolder

STUDY = Path(__file__).parent.parent / "sweeps" / "study.yaml"
TASKS = (
    "boxes",
    "brackets",
    "induction",
    "logical_deduction",
    "mental_arithmetic",
    "sorting",
    "variables_code",
    "variables_prose",
)
HELD_OUT = ("bpb_prose", "bpb_code")
SOURCES = {
    "pretrain": {"books": "text", "package": "code"},
    "cooldown": {"books": "text", "package": "code"},
    "instruct": {"text_tasks": "instruct_text", "code_tasks": "instruct_code"},
}
SECONDS = {"pretrain": 180.0, "cooldown": 36.0, "instruct": 12.0}
"""Device-seconds of each stage."""
Params = Mapping[str, Any]


@dataclass(frozen=True)
class Truth:
    """The parts that a made study's scores are the sum of, in bits per byte."""

    effect: Callable[[Params, str], float] = lambda params, task: 0.0
    """Effect of an arm on a task, against no code at all."""
    noise: Callable[[Params], float] = lambda params: 0.02
    """Standard deviation of the arm's score from seed to seed."""
    task_noise: float = 0.01
    """Standard deviation, from seed to seed, of one task beside the score's."""
    num_items: int = 40
    items_seed: int = 0


@dataclass
class MadeStudy:
    """The trials of a study, as far as they have run."""

    file: SweepFile
    truth: Truth
    results: list[TrialResult] = field(default_factory=list)
    tables: dict[int, pa.Table] = field(default_factory=dict)
    items: dict[int, Items] = field(default_factory=dict)
    records: dict[str, StageRecord] = field(default_factory=dict)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [result.row() for result in self.results]

    def add(self, arm: int, params: Params, seed: int, phase: str) -> None:
        """Adds a complete trial."""
        number = len(self.results)
        stages = [self._stage(params, seed, index) for index in range(len(self.file.example().stages))]
        table, metrics = _scored(self.truth, params, arm, seed)
        self.tables[number] = table
        self.items[number] = Items(table, asked_averages(self.file.example().evaluation))
        ledger = summed_ledger(stages)
        tokens = {row.source: row.tokens for row in ledger}
        self.results.append(
            TrialResult(
                number=number,
                state="complete",
                arm=arm,
                seed=seed,
                params=dict(params),
                metrics=metrics,
                tokens={**tokens, "total": sum(tokens.values())},
                ledger=ledger,
                stages=tuple(job_key(record.name, record.identity) for record in stages),
                wall_seconds=sum(record.wall_seconds for record in stages),
                device_seconds=sum(record.device_seconds for record in stages),
                phase=phase,  # type: ignore[arg-type]
            )
        )

    def _stage(self, params: Params, seed: int, index: int) -> StageRecord:
        """The record of a stage, which all trials with the same stages before it and the same seed share."""
        stages = self.file.example().stages[: index + 1]
        names = [stage.name for stage in stages]
        settings = {name: value for name, value in sorted(params.items()) if name.partition(".")[0] in names}
        identity = hashlib.sha256(f"{names} {settings} {seed}".encode()).hexdigest()[:16]
        name = names[-1]
        tokens, ratio = stages[-1].tokens, float(params[f"{name}.code_ratio"])
        ledger = tuple(
            LedgerRow(source, kind, planned, planned, planned, planned // 128, 0.5, planned)
            for (source, kind), share in zip(SOURCES[name].items(), (1 - ratio, ratio), strict=True)
            for planned in [round(tokens * share)]
        )
        seconds = SECONDS[name]
        record = StageRecord(identity, name, 100, tokens, 4.0, seconds, seconds, "c0ffee", ledger=ledger)
        return self.records.setdefault(job_key(name, identity), record)

    def write(self, storage: Folder) -> Folder:
        """Writes the run's folder and its stages; returns the former."""
        run = storage / self.file.example().name
        run.write_bytes("sweep.yaml", yaml.safe_dump(config.resolved_tree(self.file), sort_keys=False).encode())
        for result in self.results:
            folder = run / "trials" / f"{result.number:04d}"
            folder.write_table("items.parquet", self.tables[result.number])
            folder.write_json("result.json", as_json(result))
        frame = pd.DataFrame(self.rows)
        run.write_table("trials.parquet", pa.Table.from_pandas(frame, preserve_index=False))
        for key, record in self.records.items():
            rows = [{"step": 100, "tokens": record.num_tokens, "loss": 4.0}]
            StageFolder((storage / "stages" / key).uri).leave_results({"sources": []}, record, rows, {})  # type: ignore[arg-type]
        return run


def made_study(truth: Truth, seeds: tuple[int, ...] = (2, 4, 8), arms: Sequence[int] | None = None) -> MadeStudy:
    """The study, run to its end: the search, then look after look as long as the verdict asks for seeds.

    `arms`: places in `search.enqueue` of the arms beside the reference; None for all.
    """
    tree = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    search_tree = tree["search"]
    search_tree["confirm"]["seeds"] = list(seeds)
    if arms is not None:
        search_tree["enqueue"] = [search_tree["enqueue"][index] for index in arms]
        search_tree["trials"] = 1 + len(arms)
    file = config.parse(yaml.safe_dump(tree))
    study = MadeStudy(file, truth)
    sweep = file.example()
    reference = search.reference_point(file)
    assert reference is not None
    points = [reference, *(relevant(file, pending_trial) for pending_trial in file.enqueued())]
    for arm, params in enumerate(points):
        study.add(arm, params, sweep.seed, "search")
    while pending := verdict.looks(file, study.rows, study.items).pending:
        for pending_trial in pending:
            study.add(
                pending_trial.arm,
                points[pending_trial.arm],
                sweep.seed + CONFIRM_SEEDS + pending_trial.place,
                "confirm",
            )
    return study


def relevant(file: SweepFile, point: Params) -> dict[str, Any]:
    """The point without the parameters that have no effect in it, as trials have it."""
    relevant_params: dict[str, Any] = {}
    for parameter in sampling_order(file):
        if is_relevant(file, parameter, relevant_params):
            relevant_params[parameter.name] = point[parameter.name]
    return relevant_params


def _scored(truth: Truth, params: Params, arm: int, seed: int) -> tuple[pa.Table, dict[str, float]]:
    """Items whose difficulty is the same for all models, and the metrics that they give."""
    rng = np.random.default_rng([truth.items_seed, arm, seed])
    seed_shift = rng.normal(0.0, truth.noise(params))
    parts, metrics = [], {}
    for index, task in enumerate((*TASKS, *HELD_OUT)):
        difficulty = np.random.default_rng([7, index]).normal(2.0, 0.5, truth.num_items)
        bits = difficulty + truth.effect(params, task) + seed_shift + rng.normal(0.0, truth.task_noise)
        bits = bits + rng.normal(0.0, 0.02, truth.num_items)
        columns: dict[str, Any] = {
            "task": [task] * truth.num_items,
            "item": np.arange(truth.num_items),
            "doc_hash": [f"{item:064x}" for item in range(truth.num_items)],
            "correct": bits < 1.5,
            "chance": np.full(truth.num_items, 0.25),
            "bits_per_byte": bits,
            "attributes": ["{}"] * truth.num_items,
            "too_long": np.zeros(truth.num_items, dtype=bool),
        }
        schema = items_table([], {}).schema
        columns |= {name: [None] * truth.num_items for name in schema.names if name not in columns}
        parts.append(pa.table({name: columns[name] for name in schema.names}, schema=schema))
        metrics |= {f"{task}/items": float(truth.num_items)} | _with_interval(f"{task}/bpb", bits)
    for name in ("bpb", "bpb_low", "bpb_high"):
        metrics[f"offline/{name}"] = float(np.mean([metrics[f"{task}/{name}"] for task in TASKS]))
        metrics[f"mean/{name}"] = float(np.mean([metrics[f"{task}/{name}"] for task in (*TASKS, *HELD_OUT)]))
    return pa.concat_tables(parts).replace_schema_metadata(None), metrics


def _with_interval(name: str, values: np.ndarray) -> dict[str, float]:
    mean, half = float(values.mean()), 1.97 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
