"""A sweep of many trials whose stages and evaluations are finished: what the slots of a real run would have left.

Nothing is trained and no model is evaluated. Each trial's items are those of the suite `offline`, sixty a task, as the
quickstart has them, with made-up bits per byte that fall with the trial's code ratio.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from raycodellm import config, stage_store, sweep
from raycodellm.config import SweepFile
from raycodellm.dispatch import TrialOutcome
from raycodellm.evaluation import TaskResult
from raycodellm.evaluation.results.task_results import write_result
from raycodellm.evaluation.scores.items_table import items_table
from raycodellm.evaluation.scores.metrics import task_metrics
from raycodellm.files import Folder
from raycodellm.records import EvaluationJob, LedgerRow, StageJob, StageRecord, TrialResult
from raycodellm.stage.folder import StageFolder
from raycodellm.tasks.builtin import TASKS
from raycodellm.tokens import Reading

SAMPLERS = ("tpe", "random", "grid", "confirm")
"""`confirm` is TPE with three arms and the reference confirmed after the search."""
_SWEEP = """
name: NAME
seed: 0
model: {preset: tiny}
tokenizer: {train: {vocab_size: 512}}
sources:
  prose: {kind: text, path: "builtin:python-prose", limit_documents: 300}
  python: {kind: code, path: "builtin:python-code", limit_documents: 300}
stages:
  - name: pretrain
    tokens: 8_192
    sequence_length: 64
    batch_tokens: 1_024
    learning_rate: {peak: RATE}
    code_ratio: RATIO
  - name: instruct
    tokens: 4_096
    sequence_length: 64
    batch_tokens: 1_024
    sources: [prose, python]
    learning_rate: {peak: 1.0e-3}
    code_ratio: {search: {choice: [0.1, 0.2, 0.3, 0.4]}}
evaluation: {suites: [offline], limit: 60}
search: {sampler: SAMPLER, objective: {metric: mean/bpb, mode: min}, MORE}
scaling: {slots: 2}
"""
_RANGES = {"RATE": "{search: {loguniform: [1.0e-4, 1.0e-2]}}", "RATIO": "{search: {uniform: [0.0, 0.75]}}"}
_REFERENCE = "reference: {pretrain.code_ratio: 0.0, pretrain.learning_rate.peak: 1.0e-3, instruct.code_ratio: 0.1}"
_CONFIRM = f"{_REFERENCE}, confirm: {{best: 3, seeds: [2, 4, 8]}}"
MOST_GRID_POINTS = 1_000
NUM_ITEMS = 60
"""Items of each task."""
_NUM_CURVE_ROWS = 60
"""Rows of a stage's curves."""


def sweep_file(sampler: str, num_trials: int, name: str = "many") -> SweepFile:
    """A sweep of `num_trials` trials over three parameters, and of those that a confirmation asks for."""
    return config.parse(sweep_text(sampler, num_trials, name))


def sweep_text(sampler: str, num_trials: int, name: str = "many") -> str:
    words = {"NAME": name, **_RANGES, "SAMPLER": "tpe" if sampler == "confirm" else sampler}
    if sampler == "grid":
        points = min(num_trials, MOST_GRID_POINTS) // 40
        words["RATIO"] = f"{{search: {{choice: {[round(0.75 * place / points, 4) for place in range(points)]}}}}}"
        words["RATE"] = f"{{search: {{choice: {[round(1e-3 * (1 + place), 4) for place in range(10)]}}}}}"
        words["MORE"] = f"replicates: {num_trials // (40 * points)}"
    else:
        words["MORE"] = f"trials: {num_trials}" + (f", {_CONFIRM}" if sampler == "confirm" else "")
    text = _SWEEP
    for word, value in words.items():
        text = text.replace(word, value)
    return text


# ------------------------------------------------------------------------------------------------- what slots leave


@dataclass(frozen=True)
class Corpus:
    """A token store of which only the sizes are known, for runs that start no Ray and open no store."""

    fingerprint: str
    num_tokens: int = 1_000_000

    @property
    def folder(self) -> Folder:
        return Folder(f"/tokens/{self.fingerprint}")

    def num_sequences(self, sequence_length: int, reading: Reading) -> int:
        return self.num_tokens // sequence_length

    def held_out(self, num_tokens: int) -> int:
        return 0


def pretended_materials(file: SweepFile, storage: Folder) -> stage_store.Materials:
    """Materials of token stores that do not exist."""
    corpora = {name: Corpus(name) for name in file.example().sources}
    return stage_store.Materials(corpora, Folder("/t"), "t", 512, storage, stage_store.contents_of_file(file))


@cache
def _scored(task_place: int, variant: int) -> TaskResult:
    """The result of a task for one of a few made-up models, before it is shifted to a trial's score."""
    task, chance = TASKS[task_place], random.Random(f"{task_place} {variant}")
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(task.evaluated_items[:NUM_ITEMS]):
        is_right = chance.random() < 0.3
        rows.append(
            {
                "task": task.name,
                "item": number,
                "doc_hash": f"{hash((task_place, number)) & (2**64 - 1):064x}",
                "prediction": item.answer if is_right else item.choices[item.gold - 1],
                "gold": item.answer,
                "correct": is_right,
                "chance": 1 / len(item.choices),
                "bits_per_byte": chance.gauss(1.5 + 0.2 * task_place, 0.3),
                "num_bytes": len(item.answer.encode()),
                "num_prompt_tokens": len(item.question) // 3,
                "too_long": False,
                "not_run": False,
                "contaminated": False,
                "scores": {"acc": float(is_right)},
                "attributes": str(item.row()["attributes"]),
            }
        )
    return TaskResult(items_table(rows, {task.name: (task.name,)}), task_metrics(task.name, rows), (task.name,), 1.0)


def _shifted(result: TaskResult, bits: float) -> TaskResult:
    """The result of a model whose right answers take `bits` more per byte, each of them."""
    place = result.items.column_names.index("bits_per_byte")
    moved = pa.array(result.items.column("bits_per_byte").to_numpy() + bits)
    items = result.items.set_column(place, "bits_per_byte", moved)
    metrics = {name: value + bits * ("/bpb" in name) for name, value in result.metrics.items()}
    return replace(result, items=items, metrics=metrics)


def task_results(number: int, bits: float) -> list[TaskResult]:
    """The results of the offline suite's tasks, for the model of trial `number`."""
    return [_shifted(_scored(place, number % 7), bits) for place in range(len(TASKS))]


def bits_of(params: Mapping[str, Any], seed: int, number: int) -> float:
    """Bits per byte that the trial has more than the best one, its seed's noise included."""
    ratio, later = params["pretrain.code_ratio"], params["instruct.code_ratio"]
    return 0.5 * (ratio - 0.35) ** 2 - 0.1 * later + random.Random(f"{seed} {number}").gauss(0, 0.01)


class Slots:
    """Answers as a dispatcher whose slots do each job at once, and write what slots write but the models."""

    def __init__(self) -> None:
        called = SimpleNamespace(remote=self._run)
        self.trial = SimpleNamespace(options=lambda name: called)
        self.note = SimpleNamespace(remote=lambda line: None)
        self._settings: dict[str, Any] = {}

    def begin(self, settings: Mapping[str, Any]) -> None:
        """The trial whose chain comes next."""
        self._settings = dict(settings)

    def _run(self, number: int, chain: stage_store.Chain, finished: Mapping[str, Any]) -> TrialOutcome:
        outcomes = dict(finished)
        bits = bits_of(self._settings["params"], self._settings["seed"], number)
        for job in chain.stages:
            if job.key not in outcomes:
                outcomes[job.key] = leave_stage(job, bits)
        if chain.evaluation.key not in outcomes:
            leave_evaluation(chain.evaluation, number, bits)
            outcomes[chain.evaluation.key] = stage_store.finished_outcome(chain.evaluation)
        return TrialOutcome(outcomes)


def leave_stage(job: StageJob, bits: float) -> StageRecord:
    """Writes the results of a stage that is trained to its end, all but the model."""
    stage = job.stage
    tokens = stage.num_steps * stage.batch_tokens
    ledger = tuple(
        LedgerRow(source.name, source.kind, planned, planned, planned, sum(source.planned), 0.5, planned)
        for source in job.sources
        for planned in [sum(source.planned) * stage.sequence_length]
    )
    record = StageRecord(
        job.identity, stage.name, stage.num_steps, tokens, 4.0 + bits, 31.0, 31.0, "c0ffee", (), ledger
    )
    progress = np.arange(1, _NUM_CURVE_ROWS + 1) / _NUM_CURVE_ROWS
    loss = 6 * np.exp(-3 * progress) + 3 + bits
    columns = {
        "step": np.arange(1, _NUM_CURVE_ROWS + 1).tolist(),
        "tokens": (tokens * progress).astype(int).tolist(),
        "loss": loss.tolist(),
        "learning_rate": (1e-3 * (1 - progress)).tolist(),
        "grad_norm": np.ones(_NUM_CURVE_ROWS).tolist(),
        "tokens_per_second": [15_000.0] * _NUM_CURVE_ROWS,
        "code_ratio_scheduled": [0.3] * _NUM_CURVE_ROWS,
        "code_ratio_window": [0.31] * _NUM_CURVE_ROWS,
        **{f"loss/{source.name}": loss.tolist() for source in job.sources},
        **{f"tokens/{source.name}": [100] * _NUM_CURVE_ROWS for source in job.sources},
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    StageFolder(job.folder).leave_results(job, record, rows, {})
    return record


def leave_evaluation(job: EvaluationJob, number: int, bits: float) -> None:
    """Writes the result of each task."""
    for result in task_results(number, bits):
        write_result(Folder(job.folder), job.keys[result.members[0]], result)


# ------------------------------------------------------------------------------------------------- trials


def carry_out(settings: Mapping[str, Any], context: sweep.TrialContext, slots: Slots) -> dict[str, Any]:
    """Does what a trial's own process does, in this one; returns its report to Ray Tune."""
    from raycodellm.sweep import trial

    reported: dict[str, Any] = {}
    slots.begin(settings)
    with mock.patch("ray.get", lambda answer: answer), mock.patch("ray.tune.report", reported.update):
        trial.run_trial(dict(settings), context)
    return reported


def leave_alike(settings: Mapping[str, Any], run: sweep.Run, donor_number: int) -> dict[str, Any]:
    """Writes the folder of a trial whose stages and items are those of trial `donor_number`; returns its report."""
    from raycodellm import storage_files

    donor, folder = run.trial_folder(donor_number), run.trial_folder(settings["number"])
    report = quick_report(settings, storage_files.read_result(donor))
    folder.write_json("trial.json", donor.read_json("trial.json") | {"number": settings["number"]})
    folder.write_json("result.json", json.loads(report["record"]))
    assert donor.local is not None and folder.local is not None, "a local disk"
    (folder.local / "items.parquet").hardlink_to(donor.local / "items.parquet")
    return report


def quick_report(settings: Mapping[str, Any], like: TrialResult) -> dict[str, Any]:
    """The report of a trial that has all of `like` but its own number, parameters and scores; writes nothing."""
    from raycodellm.records import as_json

    bits = bits_of(settings["params"], settings["seed"], settings["number"])
    metrics = {name: value + bits * ("/bpb" in name) for name, value in like.metrics.items()}
    own_fields = {name: settings[name] for name in ("number", "arm", "seed", "params", "phase")}
    result = replace(like, **own_fields, metrics=metrics)
    return {**metrics, "state": "complete", "number": result.number, "record": json.dumps(as_json(result))}
